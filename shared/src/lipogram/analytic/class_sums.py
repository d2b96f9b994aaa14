"""What a labelled feature stream leaves behind: three sums a class, and the ways rows enter them.

For each class y, with feature rows x and weights w,

    ``A_y = Σ w x xᵀ``   ``c_y = Σ w x``   ``m_y = Σ w``   ``N_y`` = number of rows.

One-hot targets make column y of the cross term equal to c_y, so these say everything a ridge
regression asks for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipogram.analytic.blas import Accumulate, matmul
from lipogram.analytic.buffer import Buffer
from lipogram.analytic.gram_store import GramStore, Storage
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.rows import as_rows, as_weights, uninterrupted
from lipogram.analytic.waiting_rows import Batch, WaitingRows
from lipogram.errors import ClosedClass, IncompatibleFeatures, InvalidFeatures, InvalidSetting

CHUNK_ROWS = 1024
POOL = -1  # the slot of the matrix that pooled classes share


@dataclass
class Pool:
    """Sums over the rows of all pooled or folded classes, with their weights already in.

    Their matrix is slot ``POOL`` of the store.
    """

    row_sum: Tensor
    mass: float = 0.0
    energy: float = 0.0

    def add(self, row_sum: Tensor, mass: float, energy: float) -> None:
        """Add the sums of more rows; negative to subtract."""
        self.row_sum += row_sum
        self.mass += mass
        self.energy += energy


class ClassSums:
    """The sums of a labelled feature stream, in float64, and the ways rows enter them.

    Rows wait until ``chunk_rows`` of them are there (or a sum is asked for), so a stream of tiny
    batches runs at the speed of large ones.

    Args:
        n_features: width d of the rows that enter the sums.
        pooled: one A for all classes instead of one a class: d² numbers whatever the number of
            classes, and no class can be re-weighted or dropped afterwards.
        storage: how each A is held, see :mod:`lipogram.analytic.gram`; ``"auto"`` keeps the rows
            of a class until there are d/2 of them, then packs.
        accumulate: precision of the products; sums and solutions are float64 always.
        feature_map: applied to incoming rows chunk by chunk, a :mod:`lipogram.analytic.buffer`.
        space: identity of the incoming features (a backbone's fingerprint); states of different
            spaces do not merge.
        chunk_rows: rows to a product.
        memory_budget: bytes that the A may take; None for no limit.
        folder: where files of memory-mapped storage go; with ``storage="auto"``, classes beyond
            the budget go there.
        device: where the sums live. ``packed`` and ``memmap`` need the CPU.

    Raises:
        InvalidSetting: a setting outside its values.
    """

    def __init__(
        self,
        n_features: int,
        *,
        pooled: bool = False,
        storage: Storage = "auto",
        accumulate: Accumulate = "float64",
        feature_map: Buffer | None = None,
        space: str = "",
        chunk_rows: int = CHUNK_ROWS,
        memory_budget: int | None = None,
        folder: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_features < 1:
            raise InvalidSetting(f"n_features is {n_features}, it must be at least 1")
        if chunk_rows < 1:
            raise InvalidSetting(f"chunk_rows is {chunk_rows}, it must be at least 1")
        if feature_map is not None and feature_map.out_features != n_features:
            raise IncompatibleFeatures(
                f"the feature map gives {feature_map.out_features} features, not {n_features}"
            )
        self.store = GramStore(
            n_features,
            storage=storage,
            accumulate=accumulate,
            memory_budget=memory_budget,
            folder=folder,
            device=device,
        )
        self.n_features, self.pooled = n_features, pooled
        self.feature_map, self.space, self.chunk_rows = feature_map, space, chunk_rows
        self._empty()

    def _empty(self) -> None:
        self.index = LabelIndex()
        self.counts = np.zeros(0, dtype=np.int64)
        self.frozen: dict[int, float] = {}
        self._mass = np.zeros(0)
        self._sums = self._zeros(0, self.n_features)
        self._pool = Pool(self._zeros(self.n_features))
        self._waiting = WaitingRows(self.chunk_rows)

    # ------------------------------------------------------------------ what it holds

    @property
    def n_inputs(self) -> int:
        """Width of the rows that :meth:`update` takes."""
        return self.feature_map.in_features if self.feature_map is not None else self.n_features

    @property
    def classes(self) -> list[Label]:
        """Labels in order of appearance."""
        return list(self.index.labels)

    @property
    def n_rows(self) -> int:
        """Rows counted."""
        return int(self.counts.sum())

    @property
    def mass(self) -> NDArray[np.float64]:
        """Summed weights m_y of each class, (k,)."""
        self.flush()
        return self._mass.copy()

    @property
    def sums(self) -> Tensor:
        """Class sums c_y, (k, d) float64."""
        self.flush()
        return self._sums[: len(self.index)].clone()

    def gram(self, label: Label) -> Tensor:
        """``A_y`` of one class as a symmetric (d, d) tensor.

        Raises:
            UnknownClass: the label was never seen.
            ClosedClass: the class was folded or pooled, so its own A is gone.
        """
        self.flush()
        slot = self.index.slot(label)
        if self.pooled or slot in self.frozen:
            raise ClosedClass(
                f"class {label!r} is part of a pooled sum: it has no matrix of its own"
            )
        gram = self.store.grams.get(slot)
        return gram.full() if gram is not None else self._zeros(self.n_features, self.n_features)

    @property
    def device(self) -> torch.device:
        """Where the sums live."""
        return self.store.device

    @property
    def nbytes(self) -> int:
        """Bytes held by the A, the c and the waiting rows; memory-mapped files are included."""
        return self.store.nbytes + self._sums.numel() * 8 + self._waiting.nbytes

    def like(self) -> Self:
        """Empty statistics with the same settings."""
        twin = copy.copy(self)
        twin.store = self.store.like()
        twin._empty()
        return twin

    def copy(self) -> Self:
        """An independent copy."""
        self.flush()
        twin = self.like()
        twin.store = self.store.copy()
        twin.index, twin.counts, twin.frozen = (
            self.index.copy(),
            self.counts.copy(),
            dict(self.frozen),
        )
        twin._mass, twin._sums = self._mass.copy(), self._sums.clone()
        twin._pool = Pool(self._pool.row_sum.clone(), self._pool.mass, self._pool.energy)
        return twin

    # ------------------------------------------------------------------ of a derived class

    def own_kind(self) -> str:
        """What a derived class holds beside the sums, in words; all ranks must hold the same."""
        return "nothing"

    def own_tensors(self) -> dict[str, Tensor]:
        """What a derived class holds beside the sums, by name, for a file."""
        return {}

    def take_own(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over :meth:`own_tensors` from a file; KeyError or ValueError where they misfit."""

    def reduce_own(self, mine: Self, own: Mapping[int, int], group: Any) -> None:
        """Add up over processes what ``mine`` holds beside the sums; ``own`` maps slots to its."""

    # ------------------------------------------------------------------ update

    def declare(self, labels: Any) -> Self:
        """Give classes their slots before any row of them is there."""
        _, new = self.index.plan(labels)
        self._grow(new)
        return self

    def update(
        self, features: Any, labels: Any, *, sample_weight: Any = None, check_finite: bool = True
    ) -> Self:
        """Add rows; all of them or, on an error, none.

        Should the feature map fail (out of memory), the rows count as seen and wait: the next call
        that needs them maps them again. So do the rows that a Ctrl-C finds waiting.

        Args:
            features: (n, n_inputs), any float dtype; n = 0 is allowed.
            labels: (n,) integers or strings; unseen ones get a slot.
            sample_weight: (n,) non-negative, 1 by default.
            check_finite: False skips the search for NaN and infinity.

        Raises:
            InvalidFeatures, InvalidLabels, InvalidSetting: see there.
            ClosedClass: a class that was folded.
            OverBudget: the sums would pass ``memory_budget``.
        """
        rows = as_rows(features, self.n_inputs, device=self.device, check_finite=check_finite)
        slots, new = self.index.plan(labels)
        if len(slots) != rows.shape[0]:
            raise InvalidFeatures(f"{rows.shape[0]} rows of features, {len(slots)} labels")
        weight = as_weights(sample_weight, rows.shape[0], self.device)
        if not len(slots):
            return self
        added = np.bincount(slots, minlength=len(self.index) + len(new))
        self._check_open(added)
        self._check_budget(added)
        with uninterrupted() as interrupts:
            self._grow(new)
            self.counts = self.counts + added
            where = torch.from_numpy(slots).to(self.device)
            self._waiting.append(Batch(rows, where, weight))
            try:
                enough = self._waiting.rows >= self.chunk_rows
                while enough and self._waiting.rows and not interrupts:
                    self._commit(self._waiting.chunk())
            finally:
                self._waiting.own()
        return self

    def update_targets(
        self, features: Any, targets: Any, classes: Sequence[Label], *, sample_weight: Any = None
    ) -> Self:
        """Add rows with soft or multi-hot targets to pooled statistics.

        Args:
            features: (n, n_inputs).
            targets: (n, len(classes)) finite; column j is the target of ``classes[j]``. A row
                counts for each class whose target is not 0.
            classes: labels of the columns.
            sample_weight: (n,) non-negative.

        Raises:
            InvalidSetting: these statistics are not pooled.
            InvalidFeatures, InvalidLabels: see there.
        """
        if not self.pooled:
            raise InvalidSetting("soft targets need pooled=True: no row belongs to one class")
        rows = as_rows(features, self.n_inputs, device=self.device)
        y = as_rows(targets, len(classes), device=self.device).double()
        if y.shape[0] != rows.shape[0]:
            raise InvalidFeatures(f"{rows.shape[0]} rows of features, {y.shape[0]} of targets")
        slots, new = self.index.plan(list(classes))
        weight = as_weights(sample_weight, rows.shape[0], self.device)
        added = scattered(
            np.zeros(len(self.index) + len(new)), slots, (y != 0).sum(0).cpu().numpy()
        )
        added = added.astype(np.int64)
        self._check_budget(added)
        if len(rows) > self.chunk_rows:  # all chunks or none, should the feature map fail
            whole = self.copy()
            for i in range(0, len(rows), self.chunk_rows):
                part = slice(i, i + self.chunk_rows)
                w = None if weight is None else weight[part]
                whole.update_targets(rows[part], y[part], classes, sample_weight=w)
            vars(self).update(vars(whole))
            return self
        self.flush()
        x = self._mapped(rows)
        w = self._ones(len(y)) if weight is None else weight
        weighted = w[:, None] * y
        with uninterrupted():
            self.store.reserve([POOL])
            self._grow(new)
            where = torch.from_numpy(slots).to(self.device)
            self.store.add_rows(POOL, x * w.sqrt()[:, None])
            self._pool.add(w @ x, float(w.sum()), float((weighted * y).sum()))
            self._sums.index_add_(0, where, matmul(weighted.T.contiguous(), x))
            self._mass = scattered(self._mass, slots, weighted.sum(0).cpu().numpy())
            self.counts = self.counts + added
            self.store.settle([POOL])
        return self

    def flush(self) -> None:
        """Bring the waiting rows into the sums. Every reading verb calls it."""
        while self._waiting.rows:
            with uninterrupted():
                self._commit(self._waiting.chunk())

    def _commit(self, batch: Batch) -> None:
        """Add the first chunk of the queue; what can fail comes before the first sum changes."""
        x = self._mapped(batch.rows)
        slots, weight = batch.slots, batch.weight
        weighted = x if weight is None else x * weight[:, None]
        scaled = x if weight is None else x * weight.sqrt()[:, None]
        by_slot = {POOL: scaled} if self.pooled else grouped(scaled, slots)
        added = np.bincount(
            slots.cpu().numpy(),
            None if weight is None else weight.cpu().numpy(),
            minlength=len(self._mass),
        )
        self.store.reserve(by_slot)
        self._sums.index_add_(0, slots, weighted)
        self._mass = self._mass + added
        if self.pooled:
            self._pool.add(weighted.sum(0), float(added.sum()), float(added.sum()))
        for slot, rows in by_slot.items():
            self.store.add_rows(slot, rows)
        self._waiting.discard()
        self.store.settle(by_slot)

    def _mapped(self, rows: Tensor) -> Tensor:
        return rows.double() if self.feature_map is None else self.feature_map(rows)

    # ------------------------------------------------------------------ inside

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)

    def _ones(self, n: int) -> Tensor:
        return torch.ones(n, dtype=torch.float64, device=self.device)

    def _grow(self, new: Sequence[Label]) -> None:
        if not new:
            return
        self.index.extend(new)
        k = len(self.index)
        self.counts = np.append(self.counts, np.zeros(len(new), dtype=np.int64))
        self._mass = np.append(self._mass, np.zeros(len(new)))
        self._sums = torch.cat([self._sums, self._zeros(k - self._sums.shape[0], self.n_features)])

    def _check_open(self, added: NDArray[np.int64]) -> None:
        for slot in np.flatnonzero(added[: len(self.index)]).tolist() if self.frozen else ():
            if slot in self.frozen:
                raise ClosedClass(
                    f"class {self.index.labels[slot]!r} was folded: it takes no more rows"
                )

    def _check_budget(self, added: NDArray[np.int64], frozen: Iterable[int] = ()) -> None:
        """Raise OverBudget unless added[slot] more rows fit; slots in ``frozen`` are folded too."""
        if self.store.memory_budget is None:
            return
        after = added.copy()
        after[: len(self.counts)] += self.counts
        folded = {*self.frozen, *frozen}
        open_rows = [int(n) for slot, n in enumerate(after) if n and slot not in folded]
        self.store.check_budget([sum(open_rows)] if self.pooled else open_rows, folded=bool(folded))


def grouped(rows: Tensor, slots: Tensor) -> dict[int, Tensor]:
    """Rows (n, d) by slot (n,), in their order: one (n_slot, d) for each slot that occurs."""
    order = torch.argsort(slots, stable=True)
    found, counts = torch.unique_consecutive(slots[order], return_counts=True)
    return dict(zip(found.tolist(), torch.split(rows[order], counts.tolist()), strict=True))


def scattered(totals: NDArray[Any], slots: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Totals with values added at slots, which may repeat."""
    result = totals.copy()
    np.add.at(result, slots, values)
    return result
