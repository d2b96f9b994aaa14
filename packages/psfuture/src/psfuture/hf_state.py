"""Decoder states of a model of transformers, by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of every layer, (B, heads, places, d / heads)."""


@dataclass(frozen=True)
class HFState:
    """Decoder states of B rows.

    Attributes:
        inputs: decoder inputs of each row, start tokens first.
        own: self-attention caches; row i fills the first `len(inputs[i])` places.
        cross: cross-attention caches; row i fills the first `sources[i]` places.
        queries: (B, heads · d / heads) of the last layer's cross-attention, of the last input; None
            where they cannot be read.
        sources: source tokens of each row.
    """

    inputs: tuple[tuple[int, ...], ...]
    own: Layers
    cross: Layers
    queries: Tensor | None
    sources: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> HFState:
        """The states of these rows, in this order."""
        if list(rows) == list(range(len(self.inputs))):
            return self
        inputs = tuple(self.inputs[row] for row in rows)
        sources = tuple(self.sources[row] for row in rows)
        at = torch.as_tensor(rows, dtype=torch.long, device=self.own[0][0].device)
        places = max(map(len, inputs), default=0)
        return HFState(
            inputs,
            _taken(self.own, at, places),
            _taken(self.cross, at, max(sources, default=0)),
            None if self.queries is None else self.queries[at],
            sources,
        )


def join_states(states: Sequence[HFState]) -> HFState:
    """One state of all the states' rows, in their order."""
    if len(states) == 1:
        return states[0]
    return HFState(
        sum((state.inputs for state in states), ()),
        _joined([state.own for state in states]),
        _joined([state.cross for state in states]),
        stacked([state.queries for state in states]),
        sum((state.sources for state in states), ()),
    )


def stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Rows of all the parts; None where one of them has none."""
    kept = [part for part in parts if part is not None]
    return torch.cat(kept) if len(kept) == len(parts) else None


def scattered(parts: Sequence[Layers], groups: Sequence[Sequence[int]], places: int) -> Layers:
    """Caches of groups of rows as one, in the order of the rows.

    Args:
        parts: caches of each group.
        groups: its rows.
        places: of the result.
    """
    count = sum(map(len, groups))
    layers = []
    for layer in zip(*parts, strict=True):
        both = []
        for which in (0, 1):
            first = layer[0][which]
            whole = first.new_zeros(count, first.shape[1], places, first.shape[3])
            for part, rows in zip(layer, groups, strict=True):
                grown = part[which]
                whole[list(rows), :, : grown.shape[2]] = grown
            both.append(whole)
        layers.append((both[0], both[1]))
    return tuple(layers)


def source_mask(sources: Sequence[int], device: torch.device) -> Tensor:
    """(B, S) of ones and zeros: which places of the padded sources hold a token."""
    lengths = torch.tensor(sources, device=device)
    return (torch.arange(max(sources), device=device) < lengths[:, None]).long()


def _taken(layers: Layers, at: Tensor, places: int) -> Layers:
    return tuple((k[at, :, :places], v[at, :, :places]) for k, v in layers)


def _joined(parts: Sequence[Layers]) -> Layers:
    places = max(part[0][0].shape[2] for part in parts)

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, places - x.shape[2]))

    return tuple(
        (torch.cat([wide(k) for k, _ in layer]), torch.cat([wide(v) for _, v in layer]))
        for layer in zip(*parts, strict=True)
    )
