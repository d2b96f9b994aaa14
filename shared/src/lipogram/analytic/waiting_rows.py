"""Rows that wait until there are enough of them for one large product."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Features (n, i), slots (n,) int64, and weights (n,) float64 or None for ones."""

    rows: Tensor
    slots: Tensor
    weight: Tensor | None

    def part(self, start: int, stop: int) -> Batch:
        """The rows start … stop − 1, sharing memory."""
        weight = None if self.weight is None else self.weight[start:stop]
        return Batch(self.rows[start:stop], self.slots[start:stop], weight)


class WaitingRows:
    """A queue of batches, taken out in chunks of equal size.

    Attributes:
        chunk_rows: rows to a chunk.
        rows: rows held.
    """

    def __init__(self, chunk_rows: int) -> None:
        self.chunk_rows, self.rows = chunk_rows, 0
        self._batches: list[Batch] = []
        self._borrowed = 0  # of the batches, the last so many share memory with the caller's

    @property
    def nbytes(self) -> int:
        """Bytes of features held."""
        return sum(b.rows.numel() * b.rows.element_size() for b in self._batches)

    def append(self, batch: Batch) -> None:
        """Queue a batch without a copy of its rows: :meth:`own` them before the caller returns."""
        self._batches.append(batch)
        self._borrowed += 1
        self.rows += len(batch.rows)

    def own(self) -> None:
        """Copy the rows that are still shared with the caller."""
        first = len(self._batches) - self._borrowed
        self._batches[first:] = [b._replace(rows=b.rows.clone()) for b in self._batches[first:]]
        self._borrowed = 0

    def chunk(self) -> Batch:
        """The first ``chunk_rows`` rows, or all where there are fewer; they stay in the queue."""
        parts: list[Batch] = []
        missing = self.chunk_rows
        for batch in self._batches:
            parts.append(batch.part(0, missing))
            missing -= len(parts[-1].rows)
            if not missing:
                break
        if len(parts) == 1:
            return parts[0]
        weighted = any(part.weight is not None for part in parts)
        return Batch(
            torch.cat([part.rows.double() for part in parts]),
            torch.cat([part.slots for part in parts]),
            torch.cat([_weights(part) for part in parts]) if weighted else None,
        )

    def discard(self) -> None:
        """Take the rows of :meth:`chunk` out of the queue."""
        ends = list(accumulate(len(batch.rows) for batch in self._batches))
        whole = sum(end <= self.chunk_rows for end in ends)
        rest = self._batches[whole:]
        if rest:
            taken = self.chunk_rows - (ends[whole - 1] if whole else 0)
            rest[0] = rest[0].part(taken, len(rest[0].rows))
        self._batches, self._borrowed = rest, min(self._borrowed, len(rest))
        self.rows = sum(len(batch.rows) for batch in rest)


def _weights(batch: Batch) -> Tensor:
    if batch.weight is not None:
        return batch.weight
    return torch.ones(len(batch.rows), dtype=torch.float64, device=batch.rows.device)
