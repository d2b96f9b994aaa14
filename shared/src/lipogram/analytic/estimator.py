"""The scikit-learn face of closed-form learning: a ridge head over class statistics.

:class:`AnalyticClassifier` is plain ridge regression on one-hot targets, the head of the analytic
continual learning family (ACIL, Zhuang et al., NeurIPS 2022), computed by accumulating sums and
solving on demand. Methods derive from it and say how classes are weighted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from lipogram.analytic.blas import Accumulate
from lipogram.analytic.buffer import ACTIVATIONS, Initialisation, RandomBuffer
from lipogram.analytic.estimator_state import load_estimator, save_estimator
from lipogram.analytic.gram_store import STORAGES, Storage
from lipogram.analytic.inputs import checked_batch, feed, unchanged_on_error
from lipogram.analytic.predictor import RidgePredictor, Solved
from lipogram.analytic.settings import flag, one_of, positive, whole
from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidSetting, UnknownClass

MOST_FOLDS = 1000


class AnalyticClassifier(RidgePredictor):
    """Ridge classifier on frozen features that learns in one pass and keeps no rows.

    ``min_W Σ_i ‖e_{y_i} − Wᵀx_i‖² + γ‖W‖²`` with ``x = φ(z B)`` for a random buffer B, or
    ``x = z``. Any order, batching and partition of the rows gives the same weights.

    Args:
        gamma: ridge γ > 0; ``"gcv"`` (generalised cross-validation) or ``"cv"`` (held-out loss of
            fold statistics, at ``folds`` times the memory; where classes weigh differently, the
            largest γ within one standard error) choose it from the sums. A new value is used from
            the next prediction on.
        buffer_size: width D of the random buffer, None for none.
        buffer_init: distribution of its weights, see :class:`RandomBuffer`.
        activation: its non-linearity.
        buffer_scale: factor on its weights.
        fit_intercept: fit an unpenalised intercept. The papers do not.
        storage: how second moments are held, see :mod:`lipogram.analytic.gram`.
        accumulate: precision of the products; sums and solutions are float64.
        memory_budget: bytes the second moments may take, None for no limit.
        folder: folder for memory-mapped second moments.
        folds: parts for ``gamma="cv"``, 2 to 1000.
        device: where sums and solutions live.
        space: identity of the features (a backbone's fingerprint); states of different spaces do
            not merge.
        seed: seed of the buffer.

    Attributes:
        classes_: labels; sorted after ``fit``, later ones appended in order of appearance.
        coef_: (k, D) float64, one row a class. ``intercept_``: (k,).
        class_count_: rows of each class, (k,) int64. ``n_samples_seen_``: their sum.
        condition_: condition number of the last solve. ``gamma_``: the ridge that was used.
        nbytes_: bytes held by the sums.
    """

    def __init__(
        self,
        *,
        gamma: float | str = 0.1,
        buffer_size: int | None = None,
        buffer_init: Initialisation = "uniform_fan_in",
        activation: str = "relu",
        buffer_scale: float = 1.0,
        fit_intercept: bool = False,
        storage: Storage = "auto",
        accumulate: Accumulate = "float64",
        memory_budget: int | None = None,
        folder: str | None = None,
        folds: int = 5,
        device: str = "cpu",
        space: str = "",
        seed: int = 0,
    ) -> None:
        self.gamma = gamma
        self.buffer_size = buffer_size
        self.buffer_init = buffer_init
        self.activation = activation
        self.buffer_scale = buffer_scale
        self.fit_intercept = fit_intercept
        self.storage = storage
        self.accumulate = accumulate
        self.memory_budget = memory_budget
        self.folder = folder
        self.folds = folds
        self.device = device
        self.space = space
        self.seed = seed

    # ------------------------------------------------------------------ what a method decides

    def _pooled(self) -> bool:
        """Whether one second moment serves all classes."""
        return True

    def empty_statistics(self, n_features: int, **options: Any) -> ClassStatistics:
        """Statistics without a row, of the kind that the method needs."""
        return ClassStatistics(n_features, **options)

    def check_settings(self) -> None:
        """Raise InvalidSetting for settings that cannot work; called before anything is fitted."""
        if isinstance(self.gamma, str):
            if self.gamma not in ("gcv", "cv"):
                raise InvalidSetting(f'gamma is {self.gamma!r}, it must be a number, "gcv" or "cv"')
        else:
            positive("gamma", self.gamma)
        if self.buffer_size is not None:
            whole("buffer_size", self.buffer_size)
        one_of("buffer_init", self.buffer_init, get_args(Initialisation))
        one_of("activation", self.activation, ACTIVATIONS)
        positive("buffer_scale", self.buffer_scale)
        flag("fit_intercept", self.fit_intercept)
        one_of("storage", self.storage, STORAGES)
        one_of("accumulate", self.accumulate, get_args(Accumulate))
        if self.memory_budget is not None:
            whole("memory_budget", self.memory_budget, least=0)
        whole("folds", self.folds, least=2, most=MOST_FOLDS)
        whole("seed", self.seed, least=0)
        if not isinstance(self.space, str):
            raise InvalidSetting(f"space is {self.space!r}, it must be a string")

    # ------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Forget everything and learn from rows X (n, d) with labels y (n,).

        Raises:
            InvalidFeatures, InvalidLabels, InvalidSetting, OverBudget: see there; what was learnt
                before is kept.
        """
        self.check_settings()
        with unchanged_on_error(self):
            rows, labels, weight = checked_batch(self, X, y, sample_weight, reset=True, at_least=1)
            statistics = self._new_statistics(rows.shape[1]).declare(np.unique(labels))
            feed(statistics, rows, labels, weight)
        return self.adopt(statistics)

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from more rows; new classes may come at any time, and an error changes nothing.

        Args:
            X: (n, d); n = 0 is allowed.
            y: (n,) labels.
            classes: labels to give slots now; never needed.
            sample_weight: (n,) non-negative.

        Raises:
            InvalidFeatures, InvalidLabels, InvalidSetting, ClosedClass, OverBudget: see there.
        """
        if self.__sklearn_is_fitted__():
            rows, labels, weight = checked_batch(self, X, y, sample_weight, reset=False, at_least=0)
            _learn(self._changed().statistics_, rows, labels, weight, classes)
            return self
        self.check_settings()
        with unchanged_on_error(self):
            rows, labels, weight = checked_batch(self, X, y, sample_weight, reset=True, at_least=0)
            statistics = self._new_statistics(rows.shape[1])
            _learn(statistics, rows, labels, weight, classes)
        return self.adopt(statistics)

    def forget(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Unlearn rows exactly: afterwards the state is that of never having seen them.

        Raises:
            NotSeen: more rows of a class than were counted, or rows the sums cannot contain.
            UnknownClass: a class that was never seen.
            ClosedClass: a class that was folded.
        """
        check_is_fitted(self)
        rows, labels, weight = checked_batch(self, X, y, sample_weight, reset=False, at_least=0)
        for label in np.unique(labels).tolist():
            if label not in self.statistics_.classes:
                raise UnknownClass(
                    f"class {label!r} was never seen, so none of its rows can be forgotten"
                )
        gone: Any = self.statistics_.like()
        feed(gone, rows, labels, weight)
        mine: Any = self._changed().statistics_
        mine.remove(gone)
        return self

    def drop_classes(self, labels: Any) -> Self:
        """Remove whole classes, without their rows; all of them or, on an error, none.

        Raises:
            UnknownClass: a class that was never seen.
            ClosedClass: a class whose second moment is part of a pooled sum.
        """
        check_is_fitted(self)
        left = self.statistics_.copy()
        for label in np.atleast_1d(np.asarray(labels)).tolist():
            left.drop(label)
        return self.adopt(left)

    def merge(self, other: AnalyticClassifier) -> Self:
        """Add what another classifier of the same features has learnt; on an error, nothing.

        Raises:
            IncompatibleFeatures: other widths, buffers, backbones, or kinds of state.
        """
        check_is_fitted(self)
        check_is_fitted(other)
        mine: Any = self.statistics_
        if isinstance(mine, SplitStatistics) != isinstance(other.statistics_, SplitStatistics):
            raise IncompatibleFeatures(
                'one side has gamma="cv" and keeps its sums in parts, the other does not'
            )
        self._changed()
        mine.merge(other.statistics_)
        return self

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | Path) -> Path:
        """Write settings, sums and buffer to one safetensors file, atomically.

        Raises:
            InvalidSetting: a setting that no file can hold (a function).
        """
        check_is_fitted(self)
        return save_estimator(self, path)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", folder: str | None = None) -> Self:
        """The classifier that :meth:`save` wrote; it goes on learning where it stopped.

        Raises:
            FileNotFoundError: no such file.
            CorruptState: a damaged or hostile file, or one of another method.
        """
        return load_estimator(cls, path, device=device, folder=folder)

    def adopt(self, statistics: ClassStatistics | SplitStatistics) -> Self:
        """Take over sums made elsewhere (summed over processes, drawn from a file)."""
        self.statistics_ = statistics
        self.n_features_in_ = self._first_part().n_inputs
        self._solved = Solved()
        return self

    # ------------------------------------------------------------------ inside

    def _new_statistics(self, width: int) -> ClassStatistics | SplitStatistics:
        feature_map = None
        if self.buffer_size is not None:
            feature_map = RandomBuffer(
                width,
                self.buffer_size,
                init=self.buffer_init,
                activation=self.activation,
                scale=self.buffer_scale,
                seed=self.seed,
            )
        statistics = self.empty_statistics(
            feature_map.out_features if feature_map is not None else width,
            pooled=self._pooled(),
            storage=self.storage,
            accumulate=self.accumulate,
            feature_map=feature_map,
            space=self.space,
            memory_budget=self.memory_budget,
            folder=self.folder,
            device=self.device,
        )
        return SplitStatistics(statistics, self.folds) if self.gamma == "cv" else statistics

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _learn(statistics: Any, rows: Any, labels: Any, weight: Any, classes: Any) -> None:
    known = set(statistics.classes)
    try:
        if classes is not None:
            statistics.declare(classes)
        feed(statistics, rows, labels, weight)
    except BaseException:
        seen = dict(zip(statistics.classes, statistics.counts.tolist(), strict=True))
        for label in statistics.classes:
            if label not in known and not seen[label]:  # an interrupt can come after the rows
                statistics.drop(label)
        raise
