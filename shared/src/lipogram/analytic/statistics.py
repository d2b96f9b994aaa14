"""The algebra of class statistics: one object, eight verbs.

Sums are independent of order, batches and machines, so states merge; they can be subtracted, so
rows can be forgotten; each class has its own, so classes can be re-weighted, moved to another
feature space, or augmented after the fact, and the ridge head is solved from them when it is asked
for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lipogram.analytic.class_sums import POOL, ClassSums, Pool, scattered
from lipogram.analytic.gram import DenseGram, from_lower
from lipogram.analytic.labels import Label
from lipogram.analytic.operators import chain, common_width, product, shifted
from lipogram.analytic.rows import uninterrupted
from lipogram.analytic.solve import RidgeSolution, RidgeSystem
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidSetting,
    NotSeen,
    UnknownClass,
)


class ClassStatistics(ClassSums):
    """Mergeable, removable, order-free statistics of a labelled feature stream.

    Verbs: ``update`` (and everything else about rows, see :class:`ClassSums`, which has the
    arguments), ``merge``, ``remove``, ``reweight``, ``augment``, ``widen``, ``transport`` and
    ``solve``; ``fold`` and ``drop`` end a class.
    """

    # ------------------------------------------------------------------ merge, remove, drop, fold

    def merge(self, other: ClassStatistics) -> Self:
        """Add another state's sums to these: the same as having seen its rows here.

        Raises:
            IncompatibleFeatures: other width, feature map, space, or pooling.
            ClosedClass: a class folded on one side that holds rows on the other.
        """
        self._check_same_space(other)
        if other is self:
            other = self.copy()
        for slot, label in enumerate(other.index.labels):
            mine = self.index.labels.index(label) if label in self.index else None
            if mine is None or not (self.counts[mine] and other.counts[slot]):
                continue
            if self.frozen.get(mine) != other.frozen.get(slot):
                raise ClosedClass(
                    f"class {label!r} was folded and has rows on both sides: merge before folding, "
                    "or keep classes open"
                )
        slots, new = self.index.plan(other.index.array())
        added = scattered(np.zeros(len(self.index) + len(new)), slots, other.counts).astype(
            np.int64
        )
        self._check_budget(added, [int(slots[slot]) for slot in other.frozen])
        other.flush()
        self.flush()
        with uninterrupted():
            self._grow(new)
            self.counts = self.counts + added
            self._mass = scattered(self._mass, slots, other._mass)
            where = torch.from_numpy(slots).to(self.device)
            self._sums.index_add_(0, where, other._sums)
            for slot, gram in other.store.grams.items():
                self.store.add(slot if slot == POOL else int(slots[slot]), gram)
            self.frozen.update({int(slots[slot]): weight for slot, weight in other.frozen.items()})
            self._pool.add(other._pool.row_sum, other._pool.mass, other._pool.energy)
        return self

    def remove(self, other: ClassStatistics) -> Self:
        """Subtract another state's sums: the same as never having seen its rows.

        A class that is left with no row disappears.

        Raises:
            IncompatibleFeatures: other width, feature map, space, or pooling.
            UnknownClass: a class that was never seen.
            NotSeen: more rows of a class than were counted, or sums that these cannot contain.
            ClosedClass: a class folded on one side only, or with another weight.
        """
        self._check_same_space(other)
        if other is self:
            other = self.copy()
        self.flush()
        other.flush()
        present = np.flatnonzero(other.counts)
        slots = {int(i): self.index.slot(other.index.labels[i]) for i in present}
        for theirs, mine in slots.items():
            self._check_contains(other, theirs, mine)
        with uninterrupted():
            for theirs, mine in slots.items():
                self._sums[mine] -= other._sums[theirs]
            where = list(slots.values())
            self.counts = scattered(self.counts, where, -other.counts[present])
            self._mass = scattered(self._mass, where, -other._mass[present])
            if not self.pooled:  # what stays is a sum of weights, whatever rounding made of it
                self._mass = self._mass.clip(min=0)
            for theirs, gram in other.store.grams.items():
                self.store.grams[POOL if theirs == POOL else slots[theirs]].subtract(gram)
            self._pool.add(-other._pool.row_sum, -other._pool.mass, -other._pool.energy)
            for label in [other.index.labels[i] for i in slots]:
                if not self.counts[self.index.slot(label)]:
                    self._forget_slot(label)
            if not (self.n_rows if self.pooled else self.frozen):  # nobody shares the pool now
                self.store.grams.pop(POOL, None)
                self._pool = Pool(self._zeros(self.n_features))
        return self

    def drop(self, label: Label) -> Self:
        """Remove a class, rows and label.

        Raises:
            UnknownClass: it was never seen.
            ClosedClass: it was folded or pooled; its rows must be removed instead.
        """
        slot = self.index.slot(label)
        if (self.pooled and self.counts[slot]) or slot in self.frozen:
            raise ClosedClass(
                f"class {label!r} is part of a pooled sum and cannot be taken out without its "
                "rows: remove the rows, or keep one matrix a class"
            )
        self.flush()
        with uninterrupted():
            self._forget_slot(label)
        return self

    def fold(self, weights: Mapping[Label, float]) -> Self:
        """Freeze classes: ``A_pool += w_y A_y``, and A_y is freed.

        Their common scale can still change at solve time, their ratios cannot.

        Args:
            weights: weight w_y > 0 of each class to fold.

        Raises:
            UnknownClass: a class that was never seen.
            NotSeen: a class without a row.
            ClosedClass: it was folded before.
            InvalidSetting: a weight that is not finite and positive, or pooled statistics.
        """
        if self.pooled:
            raise InvalidSetting("pooled statistics have nothing to fold")
        slots = {self.index.slot(label): (label, weight) for label, weight in weights.items()}
        for slot, (label, weight) in slots.items():
            if slot in self.frozen:
                raise ClosedClass(f"class {label!r} was folded before")
            if not self.counts[slot]:
                raise NotSeen(f"class {label!r} has no row to fold")
            if not 0 < weight < float("inf"):
                raise InvalidSetting(
                    f"weight {weight!r} of class {label!r} is not finite and positive"
                )
        self.flush()
        with uninterrupted():
            frozen = {slot: weight for slot, (_, weight) in slots.items()}
            pool = self.store.grams.get(POOL)
            if pool is not None:
                for slot, weight in frozen.items():
                    pool.add(self.store.grams[slot], weight)
            else:
                folded = DenseGram(self.n_features, device=self.device)
                self.store.weighted_into(folded.tensor(), frozen)
                self.store.add(POOL, folded)
            for slot, weight in frozen.items():
                self.store.grams.pop(slot, None)
                mass = weight * float(self._mass[slot])
                self._pool.add(weight * self._sums[slot], mass, mass)
            self.frozen.update(frozen)
        return self

    # ------------------------------------------------------------------ reweight, solve, and more

    def transport(
        self,
        operator: Tensor | Mapping[Label, Tensor | Sequence[Tensor]],
        *,
        offset: Tensor | None = None,
        space: str = "",
    ) -> Self:
        """Statistics of the rows after an affine map ``x → Tᵀx + b``.

        ``A ← TᵀAT + (Tᵀc)bᵀ + b(Tᵀc)ᵀ + m bbᵀ``, ``c ← Tᵀc + m b``.

        Args:
            operator: T (d, e) on this device, or one T a class (not for pooled or folded classes).
                A sequence of matrices is their product in order, which is never formed.
            offset: b (e,), 0 by default.
            space: identity of the features that come out.

        Returns:
            New statistics of width e without feature map.

        Raises:
            IncompatibleFeatures: an operator that does not take d features or is not finite, or an
                offset of another width.
            UnknownClass: operators for some of the classes only.
            ClosedClass: one operator a class where classes share a sum.
        """
        self.flush()
        if isinstance(operator, Mapping):
            if POOL in self.store.grams:
                raise ClosedClass("classes that share a pooled sum move by one operator")
            missing = [label for label in self.index.labels if label not in operator]
            if missing:
                raise UnknownClass(f"there is no operator for class {missing[0]!r}")
            each = {slot: chain(operator[label]) for slot, label in enumerate(self.index.labels)}
        else:
            each = dict.fromkeys(range(POOL, len(self.index)), chain(operator))
        width = common_width(each.values(), self.n_features, offset)
        moved = copy.copy(self)
        moved.n_features, moved.feature_map, moved.space = width, None, space
        moved.store = self.store.like()
        moved.store.n_features = moved.n_features
        moved._empty()
        moved.index, moved.counts = self.index.copy(), self.counts.copy()
        moved.frozen, moved._mass = dict(self.frozen), self._mass.copy()
        rows = [product(self._sums[i : i + 1], each[i]) for i in range(len(self.index))]
        moved._sums = torch.cat([moved._sums, *rows])
        moved.store.grams = {s: gram.transport(*each[s]) for s, gram in self.store.grams.items()}
        if POOL in self.store.grams:
            row_sum = product(self._pool.row_sum[None], each[POOL])[0]
            moved._pool = Pool(row_sum, self._pool.mass, self._pool.energy)
        if offset is not None:
            b, pool, sums = offset.detach().double(), moved._pool, moved._sums
            mass = torch.from_numpy(self._mass).to(self.device)
            for slot, gram in moved.store.grams.items():
                c, m = (pool.row_sum, pool.mass) if slot == POOL else (sums[slot], mass[slot])
                moved.store.grams[slot] = shifted(gram, c, float(m), b)
            moved._sums = sums + torch.outer(mass, b)
            pool.row_sum = pool.row_sum + pool.mass * b
        moved.store.settle(list(moved.store.grams))
        return moved

    def widen(self, covariance: Tensor) -> Self:
        """Statistics of the same rows with independent noise of mean 0 on each: ``A + m Σ``.

        The exact expectation of drawing it: c and N stay, ``A_y ← A_y + m_y Σ`` with the class's
        mass m_y, and a pooled sum grows by all the mass in it.

        Args:
            covariance: Σ (d, d) symmetric positive semi-definite, on this device.

        Raises:
            IncompatibleFeatures: another shape, or not finite.
        """
        d = self.n_features
        if tuple(covariance.shape) != (d, d) or not bool(torch.isfinite(covariance).all()):
            raise IncompatibleFeatures(
                f"a covariance of shape {tuple(covariance.shape)} is not ({d}, {d}) and finite"
            )
        wide = self.copy()
        spread = covariance.detach().double()
        for slot in wide.store.grams:
            mass = self._pool.mass if slot == POOL else float(self._mass[slot])
            wide.store.add(slot, from_lower(spread * mass, "dense"))
        return wide

    def augment(self, features: Any, labels: Any, *, sample_weight: Any = None) -> Self:
        """A copy with rows added that these statistics themselves never see (pseudo-features)."""
        return self.copy().update(features, labels, sample_weight=sample_weight)

    def reweight(self, class_weight: ArrayLike | None = None) -> RidgeSystem:
        """The ridge system ``Σ_y π_y A_y``, ``C[:, y] = π_y c_y``.

        Args:
            class_weight: π (k,) non-negative in slot order; None weighs each row by its own weight
                (a folded class by the weight it was folded with).

        Raises:
            InvalidSetting: another length, or a weight that is negative or not finite.
            ClosedClass: weights that change the ratio between folded or pooled classes.
        """
        self.flush()
        k = len(self.index)
        frozen = self._frozen()
        scale, pi = 1.0, np.array([frozen.get(slot, 1.0) for slot in range(k)])
        if class_weight is not None:
            pi = np.asarray(class_weight, dtype=np.float64)
            if pi.shape != (k,) or not np.isfinite(pi).all() or (pi < 0).any():
                raise InvalidSetting(
                    f"class_weight must be {k} finite numbers of at least 0, got {pi!r}"
                )
            scale = self.common_scale(pi)
        weight = torch.from_numpy(pi).to(self.device)
        own = weight.clone()
        own[list(frozen)] = 0.0
        own_mass = float(own.cpu().numpy() @ self._mass)
        lower = self._zeros(self.n_features, self.n_features)
        opened = {slot: float(pi[slot]) for slot in self.store.grams if slot != POOL}
        self.store.weighted_into(lower, {POOL: scale, **opened})
        return RidgeSystem(
            gram=lower,
            cross=(self._sums * weight[:, None]).T.contiguous(),
            row_sum=own @ self._sums + scale * self._pool.row_sum,
            target_sum=weight * torch.from_numpy(self._mass).to(self.device),
            mass=own_mass + scale * self._pool.mass,
            energy=own_mass + scale * self._pool.energy,
            rows=self.n_rows,
            accumulate=self.store.accumulate,
        )

    def common_scale(self, class_weight: NDArray[np.float64]) -> float:
        """The one factor between weights π (k,) and those with which classes were folded or pooled.

        Raises:
            ClosedClass: there is no such factor.
        """
        ratios = [class_weight[slot] / w for slot, w in self._frozen().items() if self.counts[slot]]
        if ratios and not np.allclose(ratios, ratios[0], rtol=1e-9, atol=0):
            raise ClosedClass(
                "folded or pooled classes keep the weights they were added with, up to one common "
                "factor: re-weighting needs one matrix a class (pooled=False, no folding)"
            )
        return float(ratios[0]) if ratios else 1.0

    def solve(
        self, gamma: float, *, class_weight: ArrayLike | None = None, fit_intercept: bool = False
    ) -> RidgeSolution:
        """``W = (Σ π_y A_y + γI)⁻¹ [π_y c_y]``: :meth:`reweight` and :meth:`RidgeSystem.solve`."""
        return self.reweight(class_weight).solve(gamma, fit_intercept=fit_intercept)

    def _frozen(self) -> dict[int, float]:
        return dict.fromkeys(range(len(self.index)), 1.0) if self.pooled else self.frozen

    def _forget_slot(self, label: Label) -> None:
        slot = self.index.remove(label)
        self.counts, self._mass = np.delete(self.counts, slot), np.delete(self._mass, slot)
        self._sums = torch.cat([self._sums[:slot], self._sums[slot + 1 :]])
        self.store.delete(slot)
        self.frozen = {s - (s > slot): w for s, w in self.frozen.items() if s != slot}

    def _check_same_space(self, other: ClassStatistics) -> None:
        if self.n_features != other.n_features or self.n_inputs != other.n_inputs:
            raise IncompatibleFeatures(
                f"these statistics hold {self.n_features} features of {self.n_inputs} inputs, "
                f"the others {other.n_features} of {other.n_inputs}"
            )
        if self.device != other.device:
            raise IncompatibleFeatures(
                f"these statistics live on {self.device}, the others on {other.device}: save one "
                "and load it on the other's device"
            )
        mine = self.feature_map.fingerprint if self.feature_map is not None else "none"
        theirs = other.feature_map.fingerprint if other.feature_map is not None else "none"
        if mine != theirs:
            raise IncompatibleFeatures(
                f"the feature map here is {mine[:12]}…, there {theirs[:12]}…: states merge only "
                "when buffer settings and seed are the same"
            )
        if self.space != other.space:
            raise IncompatibleFeatures(
                f"the backbone here is {self.space[:12] or 'unnamed'}…, there "
                f"{other.space[:12] or 'unnamed'}…: features of different backbones do not add up"
            )
        if self.pooled != other.pooled:
            raise IncompatibleFeatures(
                "one side is pooled and the other is not: neither can be turned into the other "
                "without rows"
            )

    def _check_contains(self, other: ClassStatistics, theirs: int, mine: int) -> None:
        label, n = self.index.labels[mine], int(other.counts[theirs])
        if self.frozen.get(mine) != other.frozen.get(theirs):
            raise ClosedClass(
                f"class {label!r} was folded on one side only, or with another weight: its rows "
                "cannot be removed"
            )
        if n > self.counts[mine]:
            raise NotSeen(f"{n} rows of class {label!r} to remove, {self.counts[mine]} were seen")
        shared = self.pooled or mine in self.frozen
        have = self.store.grams[POOL if shared else mine].diagonal()
        less = other.store.grams[POOL if shared else theirs].diagonal()
        mass, minus = self._pool.mass, other._pool.mass
        if not self.pooled:
            mass, minus = float(self._mass[mine]), float(other._mass[theirs])
        if minus > mass * (1 + 1e-6) or bool((less > have * (1 + 1e-6)).any()):
            raise NotSeen(
                f"the rows of class {label!r} to remove are larger than all that were seen"
            )
        left = float((self._sums[mine] - other._sums[theirs]).abs().max())
        # Cauchy-Schwarz: c² ≤ m A_jj. Sums that cancel are rounded in proportion to this bound.
        energy = self._pool.energy if self.pooled else mass / self.frozen.get(mine, 1.0)
        bound = 1e-6 * (max(energy, 0.0) * float(have.max())) ** 0.5
        if n == self.counts[mine] and left > bound:
            raise NotSeen(f"the rows of class {label!r} to remove are not the ones that were seen")
