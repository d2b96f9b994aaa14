"""Decoder states of a Marian model: what a row has written and where it may look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from psfuture.bergamot_layers import Cache


@dataclass(frozen=True)
class BergamotState:
    """Decoder states of B rows; nothing in it is ever changed.

    Attributes:
        caches: of what was written, one a layer; see :mod:`psfuture.bergamot_decoder`.
        context: keys and values (B, heads, S, d / heads) of the padded sources, a pair a layer.
        queries: (B, heads, d / heads), with which the last layer looked at the source last.
        sources: source tokens of each row.
        lengths: (B) decoder inputs that each row has had.
    """

    caches: tuple[Cache, ...]
    context: tuple[Cache, ...]
    queries: Tensor
    sources: tuple[int, ...]
    lengths: Tensor

    @property
    def mask(self) -> Tensor | None:
        """(B, 1, 1, S), true where the source has a token; None where all have."""
        return source_mask(self.sources, self.lengths.device)

    def select(self, rows: Sequence[int]) -> BergamotState:
        """The states of these rows, in this order."""
        if list(rows) == list(range(len(self.sources))):
            return self
        at = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        sources = tuple(self.sources[row] for row in rows)
        longest = max(sources, default=0)
        return BergamotState(
            tuple(tuple(t[at] for t in cache) for cache in self.caches),
            tuple((k[:, :, :longest][at], v[:, :, :longest][at]) for k, v in self.context),
            self.queries[at],
            sources,
            self.lengths[at],
        )

    def attention(self) -> Tensor:
        """(B, S), the last input's attention to the source, a mean over heads; rows sum to 1."""
        keys = self.context[-1][0]
        scores = (keys @ self.queries[..., None]).squeeze(-1) / keys.shape[-1] ** 0.5
        mask = self.mask
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], -torch.inf)
        return scores.softmax(-1).mean(1)


def source_mask(sources: Sequence[int], device: torch.device) -> Tensor | None:
    """See :attr:`BergamotState.mask`."""
    longest = max(sources, default=0)
    if min(sources, default=0) == longest:
        return None
    lengths = torch.tensor(sources, device=device)
    return (torch.arange(longest, device=device) < lengths[:, None])[:, None, None]


def join_states(states: Sequence[BergamotState]) -> BergamotState:
    """One state of all the states' rows."""
    if len(states) == 1:
        return states[0]
    return BergamotState(
        tuple(
            _stacked([s.caches[layer] for s in states]) for layer in range(len(states[0].caches))
        ),
        tuple(
            _stacked([s.context[layer] for s in states]) for layer in range(len(states[0].context))
        ),
        torch.cat([s.queries for s in states]),
        tuple(length for s in states for length in s.sources),
        torch.cat([s.lengths for s in states]),
    )


def _stacked(caches: Sequence[Cache]) -> Cache:
    return tuple(_padded(tensors) for tensors in zip(*caches, strict=True))


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """All rows of these, (B, d) or (B, heads, T, d / heads) of any T."""
    if tensors[0].ndim == 2:
        return torch.cat(list(tensors))
    longest = max(t.shape[2] for t in tensors)
    return torch.cat(
        [t if t.shape[2] == longest else pad(t, (0, 0, 0, longest - t.shape[2])) for t in tensors]
    )
