"""Decoder states of a model of fairseq, by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from psfuture.fairseq_network import KeysValues


@dataclass(frozen=True)
class FairseqState:
    """Decoder states of B rows.

    Attributes:
        own: self-attention caches, a pair a layer; row i fills the first `lengths[i]` places.
        context: keys and values of the padded sources, a pair a layer.
        asking: (B, d), what the last layer's attention to the source was asked for the last input.
        lengths: decoder inputs that each row has seen.
        sources: source tokens of each row.
    """

    own: list[KeysValues]
    context: list[KeysValues]
    asking: Tensor
    lengths: tuple[int, ...]
    sources: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> FairseqState:
        """The states of these rows, in this order."""
        if list(rows) == list(range(len(self.lengths))):
            return self
        lengths = tuple(self.lengths[row] for row in rows)
        sources = tuple(self.sources[row] for row in rows)
        at = torch.as_tensor(rows, dtype=torch.long, device=self.asking.device)

        def taken(held: list[KeysValues], places: int) -> list[KeysValues]:
            return [(k[at, :, :places], v[at, :, :places]) for k, v in held]

        return FairseqState(
            taken(self.own, max(lengths, default=0)),
            taken(self.context, max(sources, default=0)),
            self.asking[at],
            lengths,
            sources,
        )


def join_states(states: Sequence[FairseqState]) -> FairseqState:
    """One state of all the states' rows, in their order."""
    if len(states) == 1:
        return states[0]
    return FairseqState(
        _joined([state.own for state in states]),
        _joined([state.context for state in states]),
        torch.cat([state.asking for state in states]),
        sum((state.lengths for state in states), ()),
        sum((state.sources for state in states), ()),
    )


def _joined(parts: Sequence[list[KeysValues]]) -> list[KeysValues]:
    places = max(part[0][0].shape[2] for part in parts)

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, places - x.shape[2]))

    return [
        (torch.cat([wide(k) for k, _ in layer]), torch.cat([wide(v) for _, v in layer]))
        for layer in zip(*parts, strict=True)
    ]
