"""The matrices of many classes: the storage of each, their bytes, and their weighted sum."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from lipogram.analytic.blas import Accumulate, add_gram
from lipogram.analytic.gram import FactorGram, Gram, MemmapGram, empty_gram
from lipogram.errors import InvalidSetting, OverBudget

Storage = Literal["auto", "dense", "packed", "memmap", "factor"]
STORAGES = ("auto", "dense", "packed", "memmap", "factor")
STACK_ROWS = 4096


class GramStore:
    """One :class:`Gram` a slot, created and converted as the storage policy says.

    Args:
        n_features: width d.
        storage: one storage for all, or ``"auto"``: rows until there are d/2 of them, then packed
            (on an accelerator dense; beyond the budget a file in ``folder``, where one is given).
        accumulate: precision of the products.
        memory_budget: bytes in memory, None for no limit.
        folder: where files of memory-mapped storage go.
        device: where the numbers live.
    """

    def __init__(
        self,
        n_features: int,
        *,
        storage: Storage = "auto",
        accumulate: Accumulate = "float64",
        memory_budget: int | None = None,
        folder: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if storage not in STORAGES:
            raise InvalidSetting(f"storage {storage!r} is none of {', '.join(STORAGES)}")
        if accumulate not in ("float64", "float32"):
            raise InvalidSetting(f"accumulate {accumulate!r} is neither float64 nor float32")
        self.device = torch.empty(0, device=device).device  # "cuda" has its index from here on
        if self.device.type != "cpu" and storage in ("packed", "memmap"):
            raise InvalidSetting(f"storage {storage!r} lives in host memory, not on {self.device}")
        self.n_features, self.storage, self.accumulate = n_features, storage, accumulate
        self.memory_budget = memory_budget
        self.folder = Path(folder) if folder is not None else None
        self.grams: dict[int, Gram] = {}

    def like(self) -> Self:
        """An empty store with the same settings."""
        twin = copy.copy(self)
        twin.grams = {}
        return twin

    def copy(self) -> Self:
        """An independent copy."""
        twin = self.like()
        twin.grams = {slot: gram.copy() for slot, gram in self.grams.items()}
        return twin

    @property
    def nbytes(self) -> int:
        """Bytes held, files included."""
        return sum(gram.nbytes for gram in self.grams.values())

    def reserve(self, slots: Iterable[int]) -> None:
        """Create the matrices that are missing, all or none: nothing large is allocated later."""
        self.grams |= {slot: self._empty() for slot in slots if slot not in self.grams}

    def add_rows(self, slot: int, rows: Tensor) -> None:
        """``A_slot += rowsᵀ rows`` to a reserved slot.

        Rows (n, d) float64 are multiplied by the root of their weights.
        """
        self.grams[slot].add_rows(rows, self.accumulate)

    def settle(self, slots: Iterable[int]) -> None:
        """Give matrices the storage that the policy has for as many rows as they hold now."""
        for slot in slots:
            self.grams[slot] = self._settled(self.grams[slot])

    def add(self, slot: int, other: Gram) -> None:
        """``A_slot += A_other``."""
        gram = self.grams.get(slot) or self._empty()
        if self.storage == "auto" and isinstance(gram, FactorGram):
            # Rows join rows or a matrix; a matrix is never taken apart into rows.
            gram = gram if isinstance(other, FactorGram) else self._as_matrix(gram)
        gram.add(other)
        self.grams[slot] = self._settled(gram)

    def delete(self, slot: int) -> None:
        """Take a slot out; the later ones move down by one."""
        self.grams = {s - (s > slot): gram for s, gram in self.grams.items() if s != slot}

    def weighted_into(self, lower: Tensor, weights: Mapping[int, float]) -> None:
        """``lower += Σ w_slot A_slot``; the rows of all factors enter by few large products."""
        stack: list[Tensor] = []
        for slot, weight in weights.items():
            gram = self.grams.get(slot)
            if gram is None or weight == 0:
                continue
            if not isinstance(gram, FactorGram):
                gram.add_into(lower, weight)
                continue
            stack.append(gram.tensor() * weight**0.5)
            if sum(len(rows) for rows in stack) >= STACK_ROWS:
                add_gram(lower, torch.cat(stack), 1.0, self.accumulate)
                stack = []
        if stack:
            add_gram(lower, torch.cat(stack), 1.0, self.accumulate)

    def check_budget(self, rows: Iterable[int], *, folded: bool = False) -> None:
        """Raise OverBudget if the matrices would pass the budget.

        Args:
            rows: number of rows of each matrix.
            folded: whether there is one more, of folded classes.
        """
        if self.memory_budget is None:
            return
        needed = sum(self._bytes_for(n) for n in rows)
        if folded:
            needed += self._bytes_for(self.n_features)
        if needed > self.memory_budget:
            raise OverBudget(
                f"the sums would take {needed:,} bytes, the budget is {self.memory_budget:,}: "
                'nothing was added; use storage="auto" with a folder, fewer features, or fold '
                "finished classes"
            )

    def _bytes_for(self, rows: int) -> int:
        d = self.n_features
        factor, packed = 8 * d * min(rows, 2 * d), 4 * d * (d + 1)
        if self.storage == "auto":
            if rows < d / 2:
                return factor
            return 0 if self.folder is not None else packed
        return {"dense": 8 * d * d, "packed": packed, "memmap": 0, "factor": factor}[self.storage]

    def _empty(self) -> Gram:
        storage = "factor" if self.storage == "auto" else self.storage
        return empty_gram(self.n_features, storage, device=self.device, folder=self.folder)

    def _settled(self, gram: Gram) -> Gram:
        if (
            self.storage != "auto"
            or not isinstance(gram, FactorGram)
            or gram.rows < self.n_features / 2
        ):
            return gram
        return self._as_matrix(gram)

    def _as_matrix(self, gram: Gram) -> Gram:
        storage = "packed" if self.device.type == "cpu" else "dense"
        packed_bytes = 4 * self.n_features * (self.n_features + 1)
        if self.folder is not None and self.memory_budget is not None:
            held = sum(g.nbytes for g in self.grams.values() if not isinstance(g, MemmapGram))
            storage = "memmap" if held + packed_bytes > self.memory_budget else storage
        grown = empty_gram(self.n_features, storage, device=self.device, folder=self.folder)
        grown.add(gram)
        return grown
