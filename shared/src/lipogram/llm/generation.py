"""Text that a causal language model writes, many prompts at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite, OverBudget
from lipogram.llm.forward import evaluating, last_logits
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.seeds import rng
from lipogram.llm.text import Encoded, context_length, encode, pad, pad_id
from lipogram.llm.wrappers import unwrap

_BATCH = 64


@dataclass(frozen=True)
class Generation:
    """A continuation.

    Attributes:
        text: without special tokens, cut before a stop string.
        ids: its tokens, the end-of-sequence token included where the model wrote it.
        n_prompt: tokens of the prompt.
        finish_reason: "stop" at an end-of-sequence token or a stop string, else "length".
        logprob: Σ log p of the tokens in `ids`, under the model's own distribution.
    """

    text: str
    ids: list[int]
    n_prompt: int
    finish_reason: Literal["stop", "length"]
    logprob: float


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    n: int = 1,
    stop: str | Sequence[str] = (),
    batch_size: int = _BATCH,
    seed: int = 0,
    add_special_tokens: bool = True,
) -> list[Generation]:
    """Continue prompts, with a cache, padded on the left whatever the tokenizer's own side is.

    Each sample of each prompt draws from a generator of its own, so what it says does not depend on
    what it is batched with, but for the noise of the kernels.

    Args:
        model: a causal language model; hooks on it see every step with its position ids, and the
            rows of a batch in the order of the prompts. It is put into evaluation mode meanwhile.
        tokenizer: its tokenizer.
        prompts: texts, or token ids that are taken as they are.
        max_new_tokens: of each continuation, at most.
        temperature: 0 is greedy, ties to the lowest id.
        top_p: share of the probability that is drawn from, in (0, 1].
        n: samples of each prompt.
        stop: strings that end a continuation; they are not part of its text. One that is a special
            token ends it like the end of sequence.
        batch_size: rows at a time; halved, for the rest of the call, when memory runs out.
        seed: of the samples.
        add_special_tokens: False for prompts that a chat template wrote.

    Returns:
        len(prompts) · n continuations, those of one prompt next to each other.

    Raises:
        InvalidSetting: a setting outside its range, several samples without a temperature, or one
            text where a list of them belongs.
        InvalidProbes: an empty prompt, or one that with its continuation exceeds the context.
        NotFinite: logits that are NaN.
        OverBudget: a single row for which memory does not suffice.
    """
    if max_new_tokens < 1 or n < 1 or batch_size < 1:
        raise InvalidSetting("max_new_tokens, n and batch_size must be >= 1")
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise InvalidSetting(f"temperature {temperature} must be >= 0, top_p {top_p} in (0, 1]")
    if n > 1 and temperature == 0:
        raise InvalidSetting(f"n = {n} samples are all the same at temperature 0")
    if isinstance(prompts, str):
        raise InvalidSetting("prompts is one text; it must be a list of them")
    words = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in words:
        raise InvalidSetting("a stop string is empty")
    longest = context_length(model)
    rows = []
    for i, prompt in enumerate(prompts):
        row = encode(tokenizer, prompt, [], add_special_tokens=add_special_tokens).prompt_ids
        if not row:
            raise InvalidProbes(f"prompt {i} has no tokens")
        if longest is not None and len(row) + max_new_tokens > longest:
            raise InvalidProbes(
                f"prompt {i} has {len(row)} tokens: with {max_new_tokens} new ones they exceed "
                f"the model's context of {longest}"
            )
        rows += [row] * n
    draw = _Draw(temperature, top_p, seed, n)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: dict[int, Generation] = {}
    while order:
        chosen, rest = sorted(order[:batch_size]), order[batch_size:]
        try:
            with evaluating(model):
                done = _continued(
                    model, tokenizer, [rows[i] for i in chosen], chosen, max_new_tokens, words, draw
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise OverBudget(
                    f"prompt {chosen[0] // n}, {len(rows[chosen[0]])} tokens, does not fit into "
                    "memory even by itself"
                ) from error
            batch_size = len(chosen) // 2
            continue
        found |= dict(zip(chosen, done, strict=True))
        order = rest
    return [found[i] for i in range(len(rows))]


@dataclass(frozen=True)
class _Draw:
    """How the next token is chosen."""

    temperature: float
    top_p: float
    seed: int
    n: int

    def generators(self, rows: Sequence[int]) -> list[torch.Generator]:
        return [rng(f"sample {row // self.n} {row % self.n}", self.seed) for row in rows]

    def choose(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        """(b,) tokens from float32 logits (b, v)."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probs = (logits / self.temperature).softmax(-1).cpu()
        if self.top_p < 1:
            ranked, index = torch.sort(probs, dim=-1, descending=True, stable=True)
            # A token stays if those before it do not reach top_p yet.
            ranked[ranked.cumsum(-1) - ranked >= self.top_p] = 0
            probs = torch.zeros_like(probs).scatter_(-1, index, ranked)
        drawn = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probs, generators, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)


def _continued(
    model: Any,
    tokenizer: Any,
    rows: list[list[int]],
    numbers: Sequence[int],
    max_new_tokens: int,
    stop: Sequence[str],
    draw: _Draw,
) -> list[Generation]:
    device = next(model.parameters()).device
    batch = pad([Encoded(row, []) for row in rows], pad_id(tokenizer)).to(device)
    ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
    ends = _ends(model, tokenizer, stop)
    generators = draw.generators(numbers) if draw.temperature else []
    said: list[list[int]] = [[] for _ in rows]
    total = [0.0] * len(rows)
    texts: list[str | None] = [None] * len(rows)  # of the rows that have stopped
    cache = None
    for _ in range(max_new_tokens):
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        last, output = last_logits(model, inputs, 1, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, last[:, 0].float()
        if bool(torch.isnan(logits).any()):
            raise NotFinite("the model gave logits that are NaN: its weights have diverged")
        tokens = draw.choose(logits, generators)
        log_probs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for i, token in enumerate(tokens.tolist()):
            if texts[i] is not None:
                continue
            said[i].append(token)
            total[i] += log_probs[i]
            text = _text(tokenizer, said[i]) if stop or token in ends else ""
            places = [text.index(word) for word in stop if word in text]
            if token in ends or places:
                texts[i] = text[: min(places, default=None)]
        if all(text is not None for text in texts):
            break
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[:, -1:] + 1
    return [
        Generation(
            _text(tokenizer, said[i]) if text is None else text,
            said[i],
            len(rows[i]),
            "length" if text is None else "stop",
            total[i],
        )
        for i, text in enumerate(texts)
    ]


def _text(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _ends(model: Any, tokenizer: Any, stop: Sequence[str]) -> set[int]:
    """Tokens that end a text: the model's, the tokenizer's, and special ones that are asked for."""
    own = getattr(unwrap(model).generation_config, "eos_token_id", None)
    special = tokenizer.get_added_vocab()
    ends = {*own} if isinstance(own, list) else {own}
    ends |= {tokenizer.eos_token_id, *(special[word] for word in stop if word in special)}
    return {token for token in ends if token is not None}
