"""Old statistics kept true while a network is trained by somebody else's loop.

After each task, show the calibrator the task's rows under the old network and the new one; it moves
what it holds of earlier classes, adds the new ones, and solves the head of all classes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from dpcr.analytic_head import AnalyticHead
from dpcr.calibration import RULES, CategoryProjection, calibrate, check_cip
from dpcr.calibrator_state import read_calibrator, write_calibrator
from dpcr.held_out_classes import HeldOutClasses
from dpcr.projectors import Projector, class_projector
from dpcr.reconstruction import Normalize, check_reconstruction, reconstruct
from dpcr.shift_accumulator import ShiftAccumulator, checked_pair, width
from dpcr.shift_map import Prior, ShiftMap, prior_for
from lipogram.analytic.gram_store import STORAGES, Storage
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import flag, one_of
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import (
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class DriftCalibrator:
    """Second moments of all classes, moved after each task into the present feature space.

    Args:
        gamma: ridge γ of the head, see :func:`dpcr.reconstruct`.
        eps: ridge ε of the shift map: ``"classes"``, chosen by leaving out classes, whose errors
            then widen the old statistics (:class:`dpcr.HeldOutClasses`; every batch needs labels);
            or ``"auto"`` or a number, see :meth:`dpcr.ShiftAccumulator.solve`.
        prior: what a direction without rows does: ``"zero"``, ``"identity"``, or ``"auto"``, which
            is the identity where the widths are equal.
        bias: whether the shift map has an offset.
        cip: category-wise projection, see :func:`dpcr.calibrate`.
        normalize: ``"category"`` or None, see :func:`dpcr.reconstruct`.
        repeat: ``"error"`` refuses classes of earlier tasks; ``"merge"`` adds their new rows.
        head_rows: which rows of the present task enter its head: ``"stored"``, those whose
            statistics are kept; ``"observed"``, those of :meth:`observe` (the authors' way, where
            these are augmented).
        pooled: one second moment for all classes: d² numbers, and no class can be taken out.
        storage: how second moments are held, see :mod:`lipogram.analytic.gram`.
        device: where sums and solutions live.

    Attributes:
        bank: statistics of the classes of finished tasks in the space of the last of them; None
            before.
        shift: the map of the last finished task, None before the second.
        head: its head, None before the first.
        tasks: tasks finished.

    Raises:
        InvalidSetting: a setting outside its values.
    """

    pairs: ShiftAccumulator | HeldOutClasses  # of the task at hand
    observed: ClassStatistics | None  # its rows from observe()
    plain: ClassStatistics | None  # its rows from observe_new()

    def __init__(
        self,
        *,
        gamma: float = 200.0,
        eps: float | Literal["auto", "classes"] = "classes",
        prior: Prior | Literal["auto"] = "auto",
        bias: bool = False,
        cip: CategoryProjection = "none",
        normalize: Normalize = "category",
        repeat: Literal["error", "merge"] = "error",
        head_rows: Literal["stored", "observed"] = "stored",
        pooled: bool = False,
        storage: Storage = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        check_reconstruction(gamma, normalize)
        ShiftAccumulator.check_settings(
            eps="auto" if eps == "classes" else eps,
            prior="zero" if prior == "auto" else prior,
            bias=bias,
        )
        check_cip(cip)
        one_of("repeat", repeat, ("error", "merge"))
        one_of("head_rows", head_rows, ("stored", "observed"))
        one_of("storage", storage, STORAGES)
        if flag("pooled", pooled) and cip != "none":
            raise InvalidSetting(
                f'cip={cip!r} needs one second moment a class: use pooled=False, or cip="none"'
            )
        if eps == "classes" and (bias or cip != "none"):
            raise InvalidSetting(
                'eps="classes" fits no offset and goes with cip="none" only: use eps="auto"'
            )
        if cip != "none" and bias:
            raise InvalidSetting(f"cip={cip!r} takes no bias: an offset leaves the row space")
        self.gamma, self.eps, self.prior, self.bias = gamma, eps, prior, bias
        self.cip, self.normalize, self.repeat, self.head_rows = cip, normalize, repeat, head_rows
        self.pooled, self.storage, self.device = pooled, storage, torch.device(device)
        self.bank: ClassStatistics | None = None
        self.shift: ShiftMap | None = None
        self.head: AnalyticHead | None = None
        self.projectors: dict[Label, Projector] = {}
        self.tasks = 0
        self._begin()

    # ------------------------------------------------------------------ the task at hand

    def observe(self, x_old: Any, x_new: Any, y: Any = None) -> Self:
        """Add a batch of the present task; all of it or, on an error, nothing.

        Args:
            x_old: (n, d) features under the network of the last finished task; None in the first
                task.
            x_new: (n, e) features of the same samples under the present network.
            y: (n,) labels; None where the batch only says how features moved.

        Raises:
            InvalidFeatures: unequal numbers of rows, other widths than before, NaN or infinity.
            InvalidLabels: a class of an earlier task with ``repeat="error"``, or labels that are
                none.
        """
        if x_old is None:
            if y is None:
                raise InvalidFeatures(
                    "a batch without old features and without labels says nothing"
                )
            self.observed = self._with_rows(self.observed, x_new, y)
            return self
        old, new = checked_pair(x_old, x_new, self.pairs.widths, self.device)
        if self.bank is not None and old.shape[1] != self.bank.n_features:
            raise InvalidFeatures(
                f"old features have width {old.shape[1]}, those of the last task had "
                f"{self.bank.n_features}"
            )
        self._check_width(new.shape[1])
        if y is None and isinstance(self.pairs, HeldOutClasses):
            raise InvalidLabels(
                'a batch without labels: eps="classes" leaves out classes; eps="auto" takes pairs '
                "without"
            )
        if y is not None:
            self.observed = self._with_rows(self.observed, x_new, y)
        if isinstance(self.pairs, HeldOutClasses):
            self.pairs.update(old, new, y)
        else:
            self.pairs.update(old, new)
        return self

    def observe_new(self, x_new: Any, y: Any) -> Self:
        """Add rows of the present task under the present network, un-augmented.

        Once there are such rows, the statistics kept of this task's classes are theirs alone; the
        rows of :meth:`observe` then serve the shift map (and the head, as ``head_rows`` says).

        Raises:
            InvalidFeatures, InvalidLabels: as :meth:`observe`.
        """
        self.plain = self._with_rows(self.plain, x_new, y)
        return self

    def finish(self, shift: ShiftMap | None = None) -> AnalyticHead:
        """End the task: move the old classes, add the new ones, solve the head of all.

        Args:
            shift: a map to use instead of the one the observed pairs give, for instance
                ``ShiftMap.identity(d)`` where the network did not change.

        Raises:
            InvalidFeatures: the task is empty.
            NotSeen: there are old classes, and no pair says how they moved.
            InvalidLabels: classes that :meth:`observe` saw and :meth:`observe_new` did not.
            IncompatibleFeatures: the map starts from another width, or leads to another than the
                new rows have.
        """
        stored = self.plain if self.plain is not None else self.observed
        if stored is None and not self.pairs.rows and shift is None:
            raise InvalidFeatures("the task is empty: nothing was observed since the last finish()")
        self._check_classes()
        bank, projectors = self.bank, self.projectors
        if bank is None:
            if stored is None or shift is not None:
                raise InvalidFeatures(
                    "the first task needs labelled rows, and there is nothing to move yet"
                )
            bank = self._empty(stored.n_features)
        else:
            shift = self._shift() if shift is None else shift
            known = projectors if self._keeps_projectors else None
            bank = calibrate(bank, replace(shift, new_space=""), cip=self.cip, projectors=known)
        shown = self.observed if self.head_rows == "observed" else None
        if shown is not None:
            head = self._head(bank, shown)
        if stored is not None:
            bank.merge(stored)
        if shown is None:
            head = self._head(bank)
        if self._keeps_projectors:
            projectors = self._projectors(bank, stored)
        self.bank, self.head, self.projectors, self.shift = bank, head, projectors, shift
        self.tasks += 1
        self._begin()
        return head

    def discard(self) -> Self:
        """Forget what was observed since the last :meth:`finish`.

        On a ``copy.copy`` it leaves the original's observations alone: so a task can be tried.
        """
        self._begin()
        return self

    def move(self, vectors: Any) -> Tensor:
        """Vectors (n, d) embedded by the last network but one, as the last one would, (n, e).

        Raises:
            NotSeen: no task with a drift is finished.
            InvalidFeatures: another width, NaN or infinity.
        """
        if self.shift is None:
            raise NotSeen("no drift is known yet: finish a second task first")
        return self.shift(vectors)

    # ------------------------------------------------------------------ several workers

    def merge(self, other: DriftCalibrator) -> Self:
        """Add what another worker observed of the same task; both must hold the same old classes.

        Raises:
            IncompatibleFeatures: other widths, or another history.
        """
        self._check_history(other)
        pairs: Any = self.pairs.copy()
        pairs.merge(other.pairs)
        observed = _merged(self.observed, other.observed)
        plain = _merged(self.plain, other.plain)
        self.pairs, self.observed, self.plain = pairs, observed, plain
        return self

    def all_reduce(self, group: ProcessGroup | None = None) -> Self:
        """Add what all ranks observed of the task, on each of them; every rank must call.

        Then :meth:`finish` gives every rank the same head.

        Raises:
            IncompatibleFeatures: on every rank, where the ranks' rows do not fit together.
        """
        from lipogram.analytic.distributed import all_reduce_statistics
        from lipogram.analytic.messages import exchange

        pairs = self.pairs.all_reduce(group)
        mine = [None if s is None else s.n_features for s in (self.observed, self.plain)]
        told = exchange(mine, group)
        parts: list[ClassStatistics | None] = []
        for i, own in enumerate((self.observed, self.plain)):
            widths = {each[i] for each in told if each[i] is not None}
            if len(widths) > 1:
                raise IncompatibleFeatures(f"the ranks hold rows of widths {sorted(widths)}")
            if widths:
                filled = own if own is not None else self._empty(widths.pop())
                parts.append(all_reduce_statistics(filled, group))
            else:
                parts.append(None)
        self.pairs, (self.observed, self.plain) = pairs, parts
        return self

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | Path) -> Path:
        """Write everything, the unfinished task included, to one safetensors file, atomically."""
        return write_calibrator(self, path)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """The calibrator that :meth:`save` wrote; it goes on where it stopped.

        Raises:
            FileNotFoundError: no such file.
            CorruptState: a damaged or hostile file, or one of another kind.
        """
        return read_calibrator(cls, path, device=device)

    def settings(self) -> dict[str, Any]:
        """The arguments this calibrator was made with, without the device."""
        names = (
            *("gamma", "eps", "prior", "bias", "cip", "normalize", "repeat", "head_rows"),
            *("pooled", "storage"),
        )
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------------ inside

    @property
    def _keeps_projectors(self) -> bool:
        return self.cip == "rank"

    def _head(self, bank: ClassStatistics, current: ClassStatistics | None = None) -> AnalyticHead:
        return reconstruct(bank, current=current, gamma=self.gamma, normalize=self.normalize)

    def _shift(self) -> ShiftMap:
        if not self.pairs.rows:
            raise NotSeen(
                "no pair of old and new features was observed, so nothing says how the old classes "
                "moved: call observe(x_old, x_new), or finish(ShiftMap.identity(d)) if the network "
                "did not change"
            )
        if isinstance(self.pairs, HeldOutClasses):
            return self.pairs.solve(prior=self.prior)
        assert self.eps != "classes"
        prior = prior_for(self.pairs.widths) if self.prior == "auto" else self.prior
        return self.pairs.solve(eps=self.eps, prior=prior, bias=self.bias)

    def _check_width(self, given: int) -> None:
        widths = {s.n_features for s in (self.observed, self.plain) if s is not None}
        widths |= {self.pairs.widths[1]} if self.pairs.widths else set()
        if widths - {given}:
            raise InvalidFeatures(
                f"new features have width {given}, this task's had {min(widths - {given})}"
            )

    def _begin(self) -> None:
        by_class = self.eps == "classes"
        self.pairs = (HeldOutClasses if by_class else ShiftAccumulator)(device=self.device)
        self.observed = self.plain = None

    def _empty(self, n_features: int) -> ClassStatistics:
        return ClassStatistics(
            n_features, pooled=self.pooled, storage=self.storage, device=self.device
        )

    def _with_rows(self, statistics: ClassStatistics | None, x: Any, y: Any) -> ClassStatistics:
        held = statistics if statistics is not None else self._empty(width(x))
        self._check_width(held.n_features)
        if self.bank is not None:
            index = self.bank.index
            slots, _ = index.plan(y)
            again = [index.labels[s] for s in sorted(set(slots.tolist())) if s < len(index)]
            if again and self.repeat == "error":
                raise InvalidLabels(
                    f'class {again[0]!r} belongs to an earlier task: use repeat="merge" to add '
                    "its rows to what is known of it"
                )
        return held.update(x, y)

    def _check_classes(self) -> None:
        if self.plain is None or self.observed is None:
            return
        missing = [label for label in self.observed.classes if label not in self.plain.index]
        if missing:
            raise InvalidLabels(
                f"class {missing[0]!r} was observed, and observe_new() was called for other "
                "classes only: give it its un-augmented rows too"
            )

    def _projectors(
        self, bank: ClassStatistics, stored: ClassStatistics | None
    ) -> dict[Label, Projector]:
        """Those of old classes stay: a regular map keeps the row space that it started from."""
        fresh = set(stored.classes) if stored is not None else set()
        return {
            label: self.projectors[label]
            if label in self.projectors and label not in fresh
            else class_projector(bank, label, rule=RULES[self.cip])
            for label in bank.classes
        }

    def _check_history(self, other: DriftCalibrator) -> None:
        same = self.tasks == other.tasks and (self.bank is None) == (other.bank is None)
        if same and self.bank is not None and other.bank is not None:
            mine, theirs = self.bank, other.bank
            same = mine.classes == theirs.classes and torch.equal(mine.sums, theirs.sums)
        if not same or self.settings() != other.settings():
            raise IncompatibleFeatures(
                "the two calibrators have other settings or hold other old classes: workers of one "
                "task start from copies of one calibrator"
            )


def _merged(mine: ClassStatistics | None, theirs: ClassStatistics | None) -> ClassStatistics | None:
    if theirs is None:
        return mine
    return theirs.copy() if mine is None else mine.copy().merge(theirs)
