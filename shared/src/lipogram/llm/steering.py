"""Vectors added to activations, also while generating."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import Architecture, describe
from lipogram.llm.hooks import Place
from lipogram.llm.patching import patch

Positions = Callable[[Tensor, Tensor], Tensor]

_POSITIONS: dict[str, Positions] = {
    "last": lambda position, n_prompt: position == n_prompt - 1,
    "prompt": lambda position, n_prompt: position < n_prompt,
    "generated": lambda position, n_prompt: position >= n_prompt,
    "all": lambda position, n_prompt: position >= 0,
}


class Steering:
    """Adds scale · vector to activations of chosen tokens, inside a `with`.

    A token is chosen by its place in its own row, so generating with a KV cache, where a forward
    pass sees one new token, gives what generating without one gives. Padding is never changed. In
    `generate` the prompt is what it was called with; in a forward pass without a cache every token
    is prompt; in one that continues a cache, the prompt is what began that cache inside the `with`.
    Gradients flow into the vectors.

    Args:
        model: a causal language model, also inside PEFT.
        vectors: for each (site, layer) a vector [width], or [b, width] with one a row; for each
            ("head_in", layer, head) one of [head_dim] or [b, head_dim], added to that query head's
            part of the attention output projection's input. Where a batch is expanded (beams,
            several samples a prompt), each row's vector is repeated.
        positions: "last" (the last prompt token), "prompt", "generated" (all after the prompt),
            "all", or a function of the tokens' places in their rows [b, t] (int64, −1 for padding)
            and the prompts' lengths [b, 1] that returns a bool mask [b, t].
        scale: factor on every vector.

    Raises:
        InvalidSetting: an unknown site, layer, head or position; a second `with` inside its own.
        PatchMismatch: a vector of the wrong width; in the forward pass, a number of rows that does
            not fit, or an attention mask that is not [b, tokens].
        UnsupportedArchitecture: a model that cannot be described, or a site it does not have.
    """

    def __init__(
        self,
        model: Any,
        vectors: Mapping[tuple[str, int] | tuple[str, int, int], Tensor],
        *,
        positions: str | Positions = "last",
        scale: float = 1.0,
    ):
        if isinstance(positions, str) and positions not in _POSITIONS:
            raise InvalidSetting(
                f"positions {positions!r}: {', '.join(_POSITIONS)}, or a function that gives a mask"
            )
        self.model, self.scale = model, scale
        self.positions = _POSITIONS[positions] if isinstance(positions, str) else positions
        self._architecture = describe(model)
        self._vectors = _by_place(self._architecture, vectors)
        self._stack = ExitStack()
        self._chosen: Tensor | None = None  # bool [b, t, 1], of the forward pass under way
        self._n_prompt: Tensor | None = None  # [b, 1]
        self._generating = self._entered = False

    def __enter__(self) -> Self:
        if self._entered:
            raise InvalidSetting("this steering is on already; make another to add it twice")
        with ExitStack() as stack:
            hook = self._architecture.decoder.register_forward_pre_hook(
                self._choose, with_kwargs=True
            )
            stack.callback(hook.remove)
            stack.enter_context(_replaced_generate(self._architecture.causal_lm, self._generate))
            changes = {place: partial(self._added, place) for place in self._vectors}
            stack.enter_context(patch(self.model, changes))
            self._stack = stack.pop_all()
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._chosen = self._n_prompt = None
        self._entered = False

    def _generate(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._n_prompt, self._generating = None, True
        try:
            return generate(*args, **kwargs)
        finally:
            self._n_prompt, self._generating = None, False

    def _choose(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given["inputs_embeds"]
        rows, t = tokens.shape[:2]
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = given.get("attention_mask")
        if mask is None:
            mask = torch.ones(rows, past + t, dtype=torch.int64, device=tokens.device)
        if mask.shape != (rows, past + t):
            raise PatchMismatch(
                f"steering needs an attention mask of shape {[rows, past + t]} to tell the tokens "
                f"of a row from padding, got {list(mask.shape)}"
            )
        real = mask.to(torch.int64)
        if self._n_prompt is None or (past == 0 and not self._generating):
            held = real if self._generating or past == 0 else real[:, :past]
            self._n_prompt = held.sum(1, keepdim=True)
        position = (real.cumsum(1) - 1).masked_fill(real == 0, -1)[:, past:]
        chosen = self.positions(position, self._n_prompt) & (position >= 0)
        self._chosen = chosen.unsqueeze(-1)

    def _added(self, place: Place, activation: Tensor) -> Tensor:
        assert self._chosen is not None
        vector = self._vectors[place]().to(device=activation.device, dtype=activation.dtype)
        samples, rest = divmod(len(activation), len(vector))
        if rest:
            raise PatchMismatch(
                f"vectors at {place[0]}, layer {place[1]}, are for {len(vector)} rows; the batch "
                f"has {len(activation)}"
            )
        if len(vector) > 1:
            vector = vector.repeat_interleave(samples, 0)
        steered = activation + self.scale * vector.unsqueeze(1)
        return torch.where(self._chosen.to(activation.device), steered, activation)


def _by_place(
    architecture: Architecture,
    vectors: Mapping[tuple[str, int] | tuple[str, int, int], Tensor],
) -> dict[Place, Callable[[], Tensor]]:
    """For each place what gives its vectors [b or 1, width]; all checked."""
    whole: dict[Place, Tensor] = {}
    heads: dict[Place, dict[int, Tensor]] = {}
    n_heads, head_dim = architecture.n_heads, architecture.head_dim
    widths = {"mlp_act": architecture.mlp_width, "head_in": n_heads * head_dim}
    for key, vector in vectors.items():
        site, layer, *head = key
        architecture.module(site, layer)
        if head and (site != "head_in" or not 0 <= head[0] < n_heads):
            raise InvalidSetting(
                f"{key!r}: only 'head_in' has heads, 0 to {n_heads - 1} in this model"
            )
        width = head_dim if head else widths.get(site, architecture.width)
        if vector.ndim not in (1, 2) or vector.shape[-1] != width:
            raise PatchMismatch(
                f"the vector for {key!r} has shape {list(vector.shape)}; it must be [{width}] or "
                f"[rows, {width}]"
            )
        if head:
            heads.setdefault((site, layer), {})[head[0]] = vector
        else:
            whole[site, layer] = vector
    if both := whole.keys() & heads.keys():
        raise InvalidSetting(f"vectors for all heads and for single ones at {sorted(both)}")
    found: dict[Place, Callable[[], Tensor]] = {
        place: partial(torch.atleast_2d, vector) for place, vector in whole.items()
    }
    for place, of_head in heads.items():
        found[place] = partial(_joined, of_head, n_heads)
    return found


def _joined(of_head: Mapping[int, Tensor], n_heads: int) -> Tensor:
    """Vectors of heads side by side, zero for the others: [b or 1, heads · head_dim]."""
    vectors = [vector.view(-1, vector.shape[-1]) for vector in of_head.values()]
    n_rows = max(map(len, vectors))
    rows = torch.stack([vector.expand(n_rows, -1) for vector in vectors], 1)
    empty = rows.new_zeros(len(rows), n_heads, rows.shape[-1])
    return empty.index_copy(1, torch.tensor(list(of_head), device=rows.device), rows).flatten(1)


@contextmanager
def _replaced_generate(causal_lm: Any, around: Callable[..., Any]) -> Iterator[None]:
    """Calls of `causal_lm.generate` go through `around` inside the `with`."""
    before = causal_lm.__dict__.get("generate")
    causal_lm.generate = partial(around, causal_lm.generate)
    try:
        yield
    finally:
        if before is None:
            del causal_lm.generate
        else:
            causal_lm.generate = before
