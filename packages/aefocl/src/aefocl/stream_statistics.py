"""Class statistics of a stream that also know how each class's own features spread.

The ridge head needs the sums of what leaves the random buffer; pseudo-features are drawn before
it. So beside :class:`lipogram.analytic.ClassStatistics` of the buffered rows stand the moments of
the rows themselves, changed by the same verbs, together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor

from aefocl.class_moments import ClassMoments, restored
from lipogram.analytic.labels import Label
from lipogram.analytic.rows import as_rows, as_weights, uninterrupted
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidSetting

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class StreamStatistics(ClassStatistics):
    """Pooled class statistics with the moments of each class's incoming features.

    Args:
        rank: directions of each class's covariance that are kept, see :class:`ClassMoments`.
        whole_covariance: also keep ``Σ z zᵀ`` (d, d) of the incoming features, which a pooled
            within-class covariance needs where there is a buffer; without one the sums have it.
        options: as :class:`lipogram.analytic.ClassStatistics`; ``pooled`` is True.

    Attributes:
        moments: count, mean and spread of each class, by slot.
        incoming: pooled statistics of the incoming features, None where these are the sums' own.
    """

    moments: ClassMoments
    incoming: ClassStatistics | None

    def __init__(
        self,
        n_features: int,
        *,
        rank: int = 0,
        whole_covariance: bool = False,
        **options: Any,
    ) -> None:
        self.rank, self.whole_covariance = rank, whole_covariance
        super().__init__(n_features, **options)

    def _empty(self) -> None:
        super()._empty()
        self.moments = ClassMoments(self.n_inputs, rank=self.rank, device=self.device)
        self.incoming = None
        if self.whole_covariance and self.feature_map is not None:
            self.incoming = ClassStatistics(
                self.n_inputs, pooled=True, chunk_rows=self.chunk_rows, device=self.device
            )

    # ------------------------------------------------------------------ the verbs

    def update(
        self, features: Any, labels: Any, *, sample_weight: Any = None, check_finite: bool = True
    ) -> Self:
        """Add rows, see :meth:`lipogram.analytic.ClassStatistics.update`; all of them or none."""
        rows = as_rows(features, self.n_inputs, device=self.device, check_finite=check_finite)
        slots, _ = self.index.plan(labels)
        weight = as_weights(sample_weight, rows.shape[0], self.device)
        batch = {}
        if len(slots) == len(rows) and len(rows):
            where = torch.from_numpy(slots).to(self.device)
            batch = self.moments.of_batch(rows, where, weight)
        before = self.n_rows
        with uninterrupted():
            try:
                super().update(rows, labels, sample_weight=weight, check_finite=False)
            finally:  # where the feature map failed, the rows count as seen and wait
                if self.n_rows != before:
                    self.moments.add(batch)
                    if self.incoming is not None:
                        self.incoming.update(rows, labels, sample_weight=weight, check_finite=False)
        return self

    def update_targets(
        self, features: Any, targets: Any, classes: Sequence[Label], *, sample_weight: Any = None
    ) -> Self:
        """Raise InvalidSetting: a row of several classes has no class whose spread it tells."""
        raise InvalidSetting("pseudo-features need one label a row, not soft targets")

    def merge(self, other: ClassStatistics) -> Self:
        """Add another state's rows, moments included."""
        theirs = self._checked(other)
        held = [(label, theirs.moments.classes[slot]) for slot, label in enumerate(theirs.classes)]
        with uninterrupted():
            super().merge(theirs)
            self.moments.add({self.index.slot(label): more for label, more in held})
            if self.incoming is not None and theirs.incoming is not None:
                self.incoming.merge(theirs.incoming)
        return self

    def remove(self, other: ClassStatistics) -> Self:
        """Subtract another state's rows, moments included.

        Raises:
            InvalidSetting: low-rank covariances, which do not come apart again.
        """
        if self.rank:
            raise InvalidSetting(
                'covariance="lowrank" keeps the strongest directions only, and rows do not come '
                'out of those: use "diag", "shared" or "diag+shared" to be able to forget'
            )
        theirs = self._checked(other)
        held = {
            label: theirs.moments.classes[slot]
            for slot, label in enumerate(theirs.classes)
            if theirs.counts[slot]
        }
        incoming = None
        if self.incoming is not None and theirs.incoming is not None:
            # Rows that the sums may hold can be too large before the buffer: asked of a copy first.
            incoming = self.incoming.copy().remove(theirs.incoming)
        with uninterrupted():
            super().remove(theirs)
            left = {self.index.slot(c): less for c, less in held.items() if c in self.index}
            self.moments.subtract(left)
            self.incoming = incoming
        return self

    def copy(self) -> Self:
        """An independent copy."""
        twin = super().copy()
        twin.moments = self.moments.copy()
        twin.incoming = None if self.incoming is None else self.incoming.copy()
        return twin

    def transport(self, *operator: Any, **options: Any) -> NoReturn:
        """Raise InvalidSetting: moments before the buffer know nothing of a map behind it."""
        raise InvalidSetting("statistics with moments do not move to other features")

    def widen(self, covariance: Tensor) -> NoReturn:
        """Raise InvalidSetting, as :meth:`transport`."""
        raise InvalidSetting("statistics with moments take no noise but that of drawn rows")

    # ------------------------------------------------------------------ keeping

    def own_kind(self) -> str:
        """What is held beside the sums: states that hold other things do not add up."""
        kept = ["means and variances"]
        kept += ["the covariance of incoming features"] if self.incoming is not None else []
        kept += [f"{self.rank} directions a class"] if self.rank else []
        return ", ".join(kept)

    def own_tensors(self) -> dict[str, Tensor]:
        """What a file holds beside the sums."""
        held = self.moments.tensors()
        if self.incoming is not None:
            held["incoming"] = self.incoming.reweight().gram
        return held

    def take_own(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`own_tensors` named.

        Raises:
            KeyError, ValueError: tensors that do not fit the sums.
        """
        self.moments = restored(tensors, len(self.index), self.n_inputs, self.rank, self.device)
        if self.incoming is not None:
            self.incoming = _pooled_sums(self, tensors["incoming"].to(self.device))

    def reduce_own(self, mine: Self, own: Mapping[int, int], group: ProcessGroup | None) -> None:
        """Take over the moments of all ranks.

        Args:
            mine: this rank's statistics.
            own: slot here to slot there, for the classes that this rank has.
            group: the ranks.

        Raises:
            InvalidSetting: low-rank covariances, on every rank.
        """
        from lipogram.analytic.distributed import all_reduce_statistics
        from lipogram.analytic.messages import reduced

        if self.rank:
            raise InvalidSetting('ranks do not add up low-rank covariances: use "diag" or "shared"')
        if mine.incoming is not None:
            self.incoming = all_reduce_statistics(mine.incoming, group)
        k, d = len(self.index), self.n_inputs
        held = ClassMoments(d, device=self.device)
        held.grow(k)
        held.add({slot: mine.moments.classes[there] for slot, there in own.items() if slot >= 0})
        mass, total = reduced([held.mass, (held.mass[:, None] * held.mean).flatten()], group)
        mean = total.reshape(k, d) / mass.clamp(min=1e-300)[:, None]
        spread = held.m2 + held.mass[:, None] * (held.mean - mean).square()
        (m2,) = reduced([spread.flatten()], group)
        tensors = {"moments/mean": mean, "moments/m2": m2.reshape(k, d), "moments/mass": mass}
        self.moments = restored(tensors, k, d, 0, self.device)

    # ------------------------------------------------------------------ inside

    def _grow(self, new: Sequence[Label]) -> None:
        super()._grow(new)
        self.moments.grow(len(self.index) - len(self.moments))

    def _forget_slot(self, label: Label) -> None:
        self.moments.delete(self.index.slot(label))
        super()._forget_slot(label)

    def _checked(self, other: ClassStatistics) -> StreamStatistics:
        self._check_same_space(other)
        same = isinstance(other, StreamStatistics) and self.rank == other.rank
        if not isinstance(other, StreamStatistics) or not same:
            raise IncompatibleFeatures(
                "the other state keeps no moments of its classes, or low-rank ones of another rank"
            )
        if (self.incoming is None) != (other.incoming is None):
            raise IncompatibleFeatures(
                "one side keeps the covariance of incoming features and the other does not: use "
                "one covariance setting for both"
            )
        return other


def _pooled_sums(statistics: StreamStatistics, lower: Tensor) -> ClassStatistics:
    """Pooled statistics of the incoming features from their moments and second moment."""
    from lipogram.analytic.class_sums import POOL
    from lipogram.analytic.gram import from_lower

    d = statistics.n_inputs
    if tuple(lower.shape) != (d, d) or not bool(torch.isfinite(lower).all()):
        raise ValueError(f"incoming is {tuple(lower.shape)}")
    made = ClassStatistics(d, pooled=True, device=statistics.device)
    made.declare(statistics.classes)
    made.counts = statistics.counts.copy()
    mass = statistics.moments.mass
    made._mass = mass.cpu().numpy().copy()
    made._sums = mass[:, None] * statistics.moments.mean
    made._pool.add(made._sums.sum(0), float(mass.sum()), float(mass.sum()))
    made.store.add(POOL, from_lower(lower.tril(), "dense"))
    return made
