"""Multi-path wait-k training (Elbayad et al. 2020): one model for every k of wait-k."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipogram.errors import InvalidSetting


def draw_k(ids: Tensor, kept: Tensor, *, seed: int, step: int) -> int:
    """Draw k ~ U{1..S} for a batch, S being its longest source in tokens.

    Args:
        ids: (B, S) the sources; batches accumulated in one step draw their own k by it.
        kept: (B, S), true where there is a token.
        seed: of the run.
        step: of the run; resumed or not, the same step draws the same.
    """
    text = (ids * kept).sum().item()
    longest = int(kept.sum(1).max())
    return random.Random(f"wait-k:{seed}:{step}:{text}").randint(1, longest)


def wait_k_mask(k: int, targets: int, kept: Tensor) -> Tensor:
    """What a wait-k reader may look at: target place t sees the source tokens i < k + t.

    Args:
        k: source tokens read before the first target token is written, at least 1.
        targets: T; both t and i count from 0.
        kept: (B, S), true where there is a source token.

    Returns:
        (B, 1, T, S), true where place t may look at token i.
    """
    places = torch.arange(targets, device=kept.device)[:, None]
    read = torch.arange(kept.shape[1], device=kept.device) < k + places
    return kept.bool()[:, None, None, :] & read


def causal_mask(kept: Tensor) -> Tensor:
    """What a unidirectional encoder may look at: (B, 1, S, S), true for tokens not to come."""
    length = kept.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=kept.device).tril()
    return kept.bool()[:, None, None, :] & past


@contextmanager
def reading(model: Any, k: int, *, unidirectional: bool = False) -> Iterator[None]:
    """Let a model of transformers read like wait-k while the block runs; it is left as it was.

    Masks of four dimensions take the place of what the encoder and the decoder's cross-attention
    are given; transformers 5 passes those on as they are.

    Args:
        model: a sequence-to-sequence model, not wrapped.
        k: see :func:`wait_k_mask`.
        unidirectional: let the encoder not look ahead either.

    Raises:
        InvalidSetting: an attention kernel that takes no such masks.
    """
    kernel = getattr(model.config, "_attn_implementation", None)
    if kernel not in ("eager", "sdpa"):
        raise InvalidSetting(
            f"multi-path wait-k needs attn_implementation 'sdpa' or 'eager', not {kernel!r}"
        )

    def cross(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = named.get("input_ids")
        targets = (named["inputs_embeds"] if given is None else given).shape[1]
        kept = named["encoder_attention_mask"]
        states = named["encoder_hidden_states"]
        mask = _added(wait_k_mask(k, targets, kept), states.dtype)
        return inputs, named | {"encoder_attention_mask": mask}

    def own(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = _added(causal_mask(named["attention_mask"]), model.dtype)
        return inputs, named | {"attention_mask": mask}

    hooks = [model.get_decoder().register_forward_pre_hook(cross, with_kwargs=True)]
    if unidirectional:
        hooks.append(model.get_encoder().register_forward_pre_hook(own, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """As a number to add to attention's logits."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )
