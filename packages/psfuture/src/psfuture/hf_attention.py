"""Attention to the source of a decoder of transformers, computed for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_CROSS = ("encoder_attn", "EncDecAttention", "cross_attention")  # as transformers' models call it
_PROJECTIONS = (("q_proj", "out_proj"), ("q", "o"))  # Bart's and T5's descendants
_AGREE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest value; halves: 5 %
_COARSE = 0.05


class HFAttention:
    """Cross-attention of the last decoder layer.

    Kernels do not hand out their weights, and those that do are slow. Here the queries of each pass
    are kept, which costs nothing, and meet the keys in the cache when weights are asked for.

    Args:
        decoder: of transformers.

    Attributes:
        found: whether the weights can be told; see :meth:`check`.
    """

    def __init__(self, decoder: nn.Module):
        named = [m for name, m in decoder.named_modules() if name.rpartition(".")[2] in _CROSS]
        self._module: Any = named[-1] if named else None
        self._parts: list[Any] = []
        for names in _PROJECTIONS:
            if all(hasattr(self._module, name) for name in names):
                self._parts = [getattr(self._module, name) for name in names]
        self.found = bool(self._parts)

    @contextmanager
    def queries(self) -> Iterator[list[Tensor]]:
        """Keep the queries (B, T, heads · d / heads) of the passes in the block, if they are found.

        Yields:
            What is kept, one tensor a pass.
        """
        kept: list[Tensor] = []
        if not self.found:
            yield kept
            return
        handle = self._parts[0].register_forward_hook(lambda _, __, output: kept.append(output))
        try:
            yield kept
        finally:
            handle.remove()

    @contextmanager
    def mixtures(self) -> Iterator[list[Tensor]]:
        """Keep the mixed values, before they are projected, as :meth:`queries` keeps queries."""
        kept: list[Tensor] = []
        if not self.found:
            yield kept
            return
        handle = self._parts[1].register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        try:
            yield kept
        finally:
            handle.remove()

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The mean over heads.

        Args:
            queries: (B, heads · d / heads), one place a row.
            keys: (B, heads, S, d / heads).
            mask: (B, S), not zero where the source has a token.

        Returns:
            (B, S), float32; rows sum to 1.
        """
        return self._weights(queries[:, None], keys, mask).mean(1)[:, 0]

    def check(self, queries: Tensor | None, mixtures: list[Tensor], cache: Any) -> None:
        """Give up unless the weights mix the values of a pass to what the model made of them.

        Args:
            queries: (1, T, heads · d / heads) of a pass over one row.
            mixtures: of the same pass.
            cache: keys and values of the last layer.
        """
        self.found = False
        if queries is None or len(mixtures) != 1:
            return
        keys, values = cache
        try:
            weights = self._weights(queries, keys, torch.ones_like(keys[:, 0, :, 0]))
            mixed = (weights @ values.float()).transpose(1, 2).flatten(2)
            off = (mixed - mixtures[0].float()).abs().max() / mixed.abs().max().clamp_min(1e-12)
        except (RuntimeError, TypeError):  # heads that share their keys, relative positions
            return
        self.found = bool(off <= _AGREE.get(keys.dtype, _COARSE))

    def _weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(B, heads, T, S), float32."""
        scale = float(getattr(self._module, "scaling", 1.0))
        heads = queries.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
        scores = (heads @ keys.transpose(2, 3)).float() * scale
        return scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1)
