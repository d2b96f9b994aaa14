"""Class statistics kept in F parts, so that each part can judge a γ chosen without it.

A row's part follows from its own values, not from its place in the stream: any order, batching or
partition gives the same parts, duplicates stay together, and a row that is removed is removed from
where it went.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lipogram.analytic.labels import Label, LabelIndex, as_labels
from lipogram.analytic.rows import as_rows, as_weights, uninterrupted
from lipogram.analytic.selection import fold_losses
from lipogram.analytic.solve import RidgeSystem
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidFeatures, InvalidSetting, OverBudget

HASHED_ROWS = 1024


class SplitStatistics:
    """F :class:`ClassStatistics` whose sum is the model and whose differences validate it.

    Args:
        empty: statistics whose settings each part takes, and an F-th of its memory budget.
        folds: F ≥ 2.

    Raises:
        InvalidSetting: fewer than two folds.
    """

    def __init__(self, empty: ClassStatistics, folds: int = 5) -> None:
        if folds < 2:
            raise InvalidSetting(f"folds is {folds}, it must be at least 2")
        self.parts = [empty.like() for _ in range(folds)]
        budget = empty.store.memory_budget
        for part in self.parts:
            part.store.memory_budget = None if budget is None else budget // folds

    @classmethod
    def of(cls, parts: list[ClassStatistics]) -> Self:
        """The statistics whose parts these are, taken over as they stand."""
        made = cls(parts[0], len(parts))
        made.parts = list(parts)
        return made

    @property
    def index(self) -> LabelIndex:
        """Labels and their slots, the same in each part."""
        return self.parts[0].index

    @property
    def frozen(self) -> dict[int, float]:
        """Slots of folded classes: none, see :meth:`fold`."""
        return {}

    @property
    def classes(self) -> list[Label]:
        """Labels in order of appearance."""
        return self.parts[0].classes

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class, (k,)."""
        total: NDArray[np.int64] = np.stack([part.counts for part in self.parts]).sum(0)
        return total

    @property
    def mass(self) -> NDArray[np.float64]:
        """Summed weights of each class, (k,)."""
        total: NDArray[np.float64] = np.stack([part.mass for part in self.parts]).sum(0)
        return total

    @property
    def n_rows(self) -> int:
        """Rows counted."""
        return sum(part.n_rows for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in self.parts)

    def like(self) -> Self:
        """Empty parts with the same settings."""
        twin = copy.copy(self)
        twin.parts = [part.like() for part in self.parts]
        return twin

    def copy(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin.parts = [part.copy() for part in self.parts]
        return twin

    def declare(self, labels: Any) -> Self:
        """Give classes their slots, the same in each part."""
        for part in self.parts:
            part.declare(labels)
        return self

    def update(self, features: Any, labels: Any, *, sample_weight: Any = None) -> Self:
        """Add rows, each to its part, all or none; see :meth:`ClassStatistics.update`."""
        first = self.parts[0]
        rows = as_rows(features, first.n_inputs, device=first.device)
        values = as_labels(labels)
        _, new = first.index.plan(values)
        if len(values) != len(rows):
            raise InvalidFeatures(f"{len(rows)} rows of features, {len(values)} labels")
        weight = as_weights(sample_weight, len(rows), first.device)
        where = parts_of(rows, len(self.parts))
        planned = [_counted(values[where == i]) for i in range(len(self.parts))]
        self._check_budget(planned)
        with uninterrupted():
            self.declare(new)
            for i, part in enumerate(self.parts):
                mine = torch.from_numpy(np.flatnonzero(where == i)).to(rows.device)
                part.update(
                    rows[mine],
                    values[where == i],
                    sample_weight=None if weight is None else weight[mine].cpu(),
                    check_finite=False,
                )
        return self

    def merge(self, other: SplitStatistics) -> Self:
        """Add another state's parts to these, all or none."""
        self._check_folds(other)
        self.parts[0]._check_same_space(other.parts[0])
        self.parts[0].index.plan(other.parts[0].index.array())
        added = [dict(zip(p.classes, p.counts.tolist(), strict=True)) for p in other.parts]
        self._check_budget(added)
        with uninterrupted():
            self.declare(other.parts[0].index.array())
            for part, more in zip(self.parts, other.parts, strict=True):
                part.merge(more)
        return self

    def remove(self, other: SplitStatistics) -> Self:
        """Subtract another state's parts from these, all or none; classes left empty disappear."""
        self._check_folds(other)
        left = self.copy()
        for part, less in zip(left.parts, other.parts, strict=True):
            part.remove(less)
        gone = dict(zip(other.classes, other.counts, strict=True))
        kept = [
            label
            for label, n in zip(self.classes, self.counts, strict=True)
            if not gone.get(label) or n > gone[label]
        ]
        # A class may be left with rows in one part only: every part gets the same slots again.
        labels = _as_array(kept)
        self.parts = [part.like().declare(labels).merge(part) for part in left.parts]
        return self

    def drop(self, label: Label) -> Self:
        """Remove a class from each part."""
        slot = self.parts[0].index.slot(label)
        for part in sorted(self.parts, key=lambda p: -p.counts[slot]):  # who refuses comes first
            part.drop(label)
        return self

    def fold(self, weights: Mapping[Label, float]) -> Self:
        """Not offered: a folded class cannot be held out."""
        raise InvalidSetting('gamma="cv" needs every class open: use a number, or policy="gcil"')

    def common_scale(self, class_weight: NDArray[np.float64]) -> float:
        """Factor on folded classes: always 1, there are none."""
        return 1.0

    def reweight(self, class_weight: ArrayLike | None = None) -> RidgeSystem:
        """The ridge system of all parts together; see :meth:`ClassStatistics.reweight`."""
        return _total([part.reweight(class_weight) for part in self.parts])

    def gamma_losses(
        self,
        class_weight: ArrayLike | None,
        gammas: NDArray[np.float64],
        *,
        fit_intercept: bool = False,
    ) -> NDArray[np.float64]:
        """Held-out weighted squared loss of each part for each γ, (F, len(gammas))."""
        held_out = [part.reweight(class_weight) for part in self.parts]
        train = (_total(held_out[:i] + held_out[i + 1 :]) for i in range(len(held_out)))
        return fold_losses(train, held_out, gammas, fit_intercept=fit_intercept)

    def _check_folds(self, other: SplitStatistics) -> None:
        if len(self.parts) != len(other.parts):
            raise IncompatibleFeatures(
                f"{len(self.parts)} folds here, {len(other.parts)} there: parts add up only when "
                "rows were dealt alike"
            )

    def _check_budget(self, added: list[dict[Label, int]]) -> None:
        for part, more in zip(self.parts, added, strict=True):
            known = dict(zip(part.classes, part.counts.tolist(), strict=True))
            rows = [known.get(x, 0) + more.get(x, 0) for x in dict.fromkeys([*known, *more])]
            try:
                part.store.check_budget([sum(rows)] if part.pooled else [n for n in rows if n])
            except OverBudget as error:
                raise OverBudget(f"one of {len(self.parts)} folds: {error}") from None


def parts_of(rows: Tensor, folds: int) -> NDArray[np.int64]:
    """Part (n,) of each row, from the bits of its float32 values (multiply-shift hashing).

    The same on every machine and in every version: nothing is drawn.
    """
    odd = _mixed(np.arange(1, rows.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    hashed = np.empty(len(rows), dtype=np.uint64)
    for i in range(0, len(rows), HASHED_ROWS):
        values = rows[i : i + HASHED_ROWS].float().cpu().numpy() + np.float32(0)  # −0 becomes 0
        hashed[i : i + HASHED_ROWS] = (values.view(np.uint32) * odd).sum(1, dtype=np.uint64)
    return ((_mixed(hashed) >> np.uint64(33)) % np.uint64(folds)).astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number scattered over 64 bits (the finaliser of SplitMix64; Steele et al., 2014)."""
    z = values * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _counted(labels: NDArray[Any]) -> dict[Label, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _as_array(labels: list[Label]) -> NDArray[Any]:
    return np.asarray(labels) if labels else np.empty(0, dtype=np.int64)


def _total(systems: list[RidgeSystem]) -> RidgeSystem:
    first, *others = systems
    return replace(
        first,
        gram=sum((s.gram for s in others), first.gram),
        cross=sum((s.cross for s in others), first.cross),
        row_sum=sum((s.row_sum for s in others), first.row_sum),
        target_sum=sum((s.target_sum for s in others), first.target_sum),
        mass=sum(s.mass for s in systems),
        energy=sum(s.energy for s in systems),
        rows=sum(s.rows for s in systems),
    )
