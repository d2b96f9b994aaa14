"""Text from a model of transformers, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from lipogram.llm.generation import generate
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.text import context_length, encode
from lipogram.llm.wrappers import unwrap
from rewardds.backends import (
    DRAWING,
    Completion,
    Drawing,
    Prompt,
    check_draws,
    draw_seed,
    turn_end,
)
from rewardds.prompts import prompt_text


class HFBackend:
    """:class:`rewardds.backends.Backend` over :func:`lipogram.llm.generate`.

    Each draw has a random stream of its own, named by the prompt's key, so what comes does not
    depend on `batch_size` nor on the other prompts, but for the noise of the kernels.

    Args:
        model: with its tokenizer.
        batch_size: draws at a time; halved, for the rest of the call, when memory runs out.

    Raises:
        InvalidSetting: a batch size below 1.
    """

    def __init__(self, model: LoadedModel, *, batch_size: int = 64):
        if batch_size < 1:
            raise InvalidSetting(f"batch_size is {batch_size}: it must be at least 1")
        self.model, self.tokenizer = model.model, model.tokenizer
        self.batch_size = batch_size
        end = turn_end(self.tokenizer)
        # A stop string is looked for at every step: only where the end of sequence is another.
        self._stop: tuple[str, ...] = ()
        if end is not None and end != self.tokenizer.eos_token_id:
            self._stop = (str(self.tokenizer.convert_ids_to_tokens(end)),)

    def generate(
        self, prompts: Sequence[Prompt], n: int = 1, drawing: Drawing = DRAWING
    ) -> list[tuple[Completion, ...]]:
        """As the protocol says.

        Raises:
            InvalidSetting: n, or turns that the chat template refuses.
            NotFinite: logits that are NaN.
            OverBudget: one draw for which memory does not suffice.
        """
        check_draws(n, drawing)
        rows = [self._ids(prompt) for prompt in prompts]
        longest = context_length(self.model)
        draws = [
            (i, k)
            for i, row in enumerate(rows)
            if longest is None or len(row) + drawing.max_new_tokens <= longest
            for k in range(n)
        ]
        draws.sort(key=lambda draw: -len(rows[draw[0]]))
        found: dict[tuple[int, int], Completion] = {}
        size = self.batch_size
        while draws:
            batch = draws[:size]
            seeds = [draw_seed(prompts[i].key, k, drawing.seed) for i, k in batch]
            try:
                done = self._batch([rows[i] for i, _ in batch], seeds, drawing)
            except _Halved:
                size = (len(batch) + 1) // 2
                continue
            found |= dict(zip(batch, done, strict=True))
            draws = draws[size:]
        nothing = Completion("", "context")
        return [tuple(found.get((i, k), nothing) for k in range(n)) for i in range(len(prompts))]

    def _ids(self, prompt: Prompt) -> list[int]:
        text = prompt_text(self.tokenizer, list(prompt.turns))
        return encode(self.tokenizer, text, [], add_special_tokens=False).prompt_ids

    def _batch(self, rows: list[list[int]], seeds: list[int], drawing: Drawing) -> list[Completion]:
        with _drawn(self.model, seeds, drawing):
            said = generate(
                self.model,
                self.tokenizer,
                rows,
                max_new_tokens=drawing.max_new_tokens,
                stop=self._stop,
                batch_size=len(rows),
            )
        return [Completion(each.text, each.finish_reason) for each in said]


_FEW = 512
"""Tokens that are looked at before all are."""


class _Halved(Exception):
    """Memory ran out, and :func:`generate` went on with fewer rows than there are streams."""


@contextmanager
def _drawn(model: Any, seeds: list[int], drawing: Drawing) -> Iterator[None]:
    """Let the most probable token be one that was drawn: each row from a stream of its own."""
    if drawing.temperature == 0:
        yield
        return
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(_module: Any, _inputs: Any, output: Any) -> Any:
        logits = output.logits[:, -1].float()
        if len(logits) != len(streams):
            raise _Halved
        if not bool(torch.isnan(logits).any()):  # generate() refuses those
            chosen = draw_tokens(logits, drawing.temperature, drawing.top_p, streams)
            output.logits = torch.full_like(logits, -torch.inf).scatter_(1, chosen[:, None], 0.0)[
                :, None
            ]
        return output

    handle = unwrap(model).register_forward_hook(draw)
    try:
        yield
    finally:
        handle.remove()


def draw_tokens(
    logits: Tensor, temperature: float, top_p: float, streams: Sequence[torch.Generator]
) -> Tensor:
    """(b,) tokens, each drawn from the most probable ones that together reach `top_p`.

    A token stays if those before it, the most probable first and ties in the order of their ids, do
    not reach top_p yet (Holtzman et al. 2020, section 3.1). The draw inverts the cumulated
    probabilities at one uniform number of the row's stream.

    Args:
        logits: (b, v) float32.
        temperature: above 0.
        top_p: in (0, 1].
        streams: b generators on the CPU; each gives one number.
    """
    probs = (logits / temperature).softmax(-1).double()
    uniform = [torch.rand((), generator=stream, dtype=torch.float64) for stream in streams]
    at = torch.stack(uniform).to(probs.device)[:, None]
    if top_p == 1:
        ends = probs.cumsum(-1)
        return _inverted(ends, at * ends[:, -1:], probs.shape[-1])[:, 0]
    tokens = torch.empty(len(probs), dtype=torch.long, device=probs.device)
    # Few tokens reach top_p as a rule, and to find them is far less than to sort a vocabulary.
    few, ids = probs.topk(min(_FEW, probs.shape[-1]), dim=-1)
    short = (few * (few > few[:, -1:])).sum(-1) > top_p + 1e-9  # ties with the last may be left out
    ids, order = ids.sort(dim=-1)
    few = few.gather(1, order)
    tokens[short] = _in_nucleus(few[short], ids[short], top_p, at[short])
    every = torch.arange(probs.shape[-1], device=probs.device).expand_as(probs)
    tokens[~short] = _in_nucleus(probs[~short], every[~short], top_p, at[~short])
    return tokens


def _in_nucleus(probs: Tensor, ids: Tensor, top_p: float, at: Tensor) -> Tensor:
    """(b,) tokens; `ids` ascend, and hold the nucleus."""
    ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    ends = ranked.cumsum(-1)
    kept = (ends - ranked < top_p).sum(-1, keepdim=True)  # the first always
    places = _inverted(ends, at * ends.gather(1, kept - 1), kept)
    return ids.gather(1, order.gather(1, places))[:, 0]


def _inverted(ends: Tensor, at: Tensor, kept: Tensor | int) -> Tensor:
    """(b, 1) first places whose cumulated probability is above `at`, of the first `kept`."""
    return torch.searchsorted(ends, at, right=True).clamp(max=kept - 1)
