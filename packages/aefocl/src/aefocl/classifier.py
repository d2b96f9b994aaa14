"""AEF-OCL: a closed-form head for a stream, balanced by pseudo-features when it is asked.

Reference: Zhuang et al., "Online Analytic Exemplar-Free Continual Learning with Large Models for
Imbalanced Autonomous Driving Task", arXiv 2405.17779, IEEE TVT 2024.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, get_args

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from aefocl.pseudo_features import (
    PseudoFeatures,
    Sampler,
    check_sobol,
    lowrank,
    of_settings,
    wanted,
)
from aefocl.stream_statistics import StreamStatistics
from lipogram.analytic.blas import Accumulate
from lipogram.analytic.buffer import Initialisation
from lipogram.analytic.estimator import AnalyticClassifier
from lipogram.analytic.gram_store import Storage
from lipogram.analytic.labels import Label
from lipogram.analytic.predictor import Solved
from lipogram.analytic.recursion import RecursiveRidge
from lipogram.analytic.rows import as_rows
from lipogram.analytic.settings import one_of, whole
from lipogram.analytic.solve import RidgeSolution
from lipogram.errors import FewPseudoFeatures, InvalidSetting


class Running:
    """The recursion that goes along with the stream, once its weights were asked for."""

    recursion: RecursiveRidge | None = None


class AEFOCLClassifier(AnalyticClassifier):
    """Ridge head of a stream that is balanced by pseudo-features at prediction.

    The real rows' sums are never touched by what is drawn: with ``N* = max N_y``, each class of
    ``N_y < N*`` rows gets ``N* − N_y`` pseudo-features in a copy, from which the head is solved:
    ``W̃ = (γI + Σ xxᵀ + Σ x̂x̂ᵀ)⁻¹ (Σ x eᵀ + Σ x̂ eᵀ)``.

    Args:
        gamma: ridge γ > 0. ``"gcv"`` and ``"cv"`` serve ``balance="off"`` only.
        buffer_size: width D of the random ReLU buffer, None for none.
        noise: τ ≥ 0, how far pseudo-features spread; 1 in the paper.
        budget: at most so many pseudo-features a class, each of a larger weight; None for all. A
            budget below D makes a spiky second moment, and is warned of.
        balance: ``"on_predict"``, or ``"off"`` for the plain head.
        balance_to: ``"max"``, ``"median"``, or a number of rows.
        solver: ``"accumulate"``, sums and one Cholesky when asked; ``"recursive"``, weights after
            every batch by the Woodbury identity, for parity and for predictions after each batch.
        sampler: ``"iid"`` (the paper's), ``"antithetic"``, ``"sobol"``; or ``"expected"``, the
            closed-form limit of infinitely many draws, which needs ``buffer_size=None``.
        covariance: ``"diag"`` (the paper's), ``"shared"``, ``"diag+shared"`` or ``"lowrank:R"``,
            see :class:`aefocl.pseudo_features.PseudoFeatures`.
        min_std: ``"pooled"`` spreads classes of fewer than five rows as the others; None does not.
        buffer_init, activation, buffer_scale, fit_intercept, storage, accumulate, memory_budget,
            folder, folds, device, space, seed: see :class:`lipogram.analytic.AnalyticClassifier`.

    Attributes:
        class_mean_: μ (k, d) of the incoming features. ``class_std_``: σ (k, d), unbiased.
        pseudo_count_: weight of the pseudo-features in the balanced head, (k,); their number, where
            every row weighs 1. ``drawn_count_``: those that are drawn for it, (k,).
        classes_, coef_, intercept_, class_count_, n_samples_seen_, condition_, gamma_, nbytes_: see
            :class:`lipogram.analytic.AnalyticClassifier`; ``coef_`` is the head in use.
    """

    statistics_: StreamStatistics
    _other: Solved  # the head that is not in use by default
    _balanced: bool | None
    _running: Running

    def __init__(
        self,
        *,
        gamma: float | str = 0.1,
        buffer_size: int | None = 8192,
        noise: float = 1.0,
        budget: int | None = None,
        balance: Literal["on_predict", "off"] = "on_predict",
        balance_to: Literal["max", "median"] | int = "max",
        solver: Literal["accumulate", "recursive"] = "accumulate",
        sampler: Sampler = "iid",
        covariance: str = "diag",
        min_std: Literal["pooled"] | None = None,
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
        super().__init__(
            gamma=gamma,
            buffer_size=buffer_size,
            buffer_init=buffer_init,
            activation=activation,
            buffer_scale=buffer_scale,
            fit_intercept=fit_intercept,
            storage=storage,
            accumulate=accumulate,
            memory_budget=memory_budget,
            folder=folder,
            folds=folds,
            device=device,
            space=space,
            seed=seed,
        )
        self.noise = noise
        self.budget = budget
        self.balance = balance
        self.balance_to = balance_to
        self.solver = solver
        self.sampler = sampler
        self.covariance = covariance
        self.min_std = min_std

    def check_settings(self) -> None:
        """Raise InvalidSetting for settings that cannot work."""
        super().check_settings()
        one_of("balance", self.balance, ("on_predict", "off"))
        one_of("solver", self.solver, ("accumulate", "recursive"))
        one_of("sampler", self.sampler, get_args(Sampler))
        lowrank(self.covariance)
        number = isinstance(self.noise, (int, float, np.integer, np.floating))
        if not number or isinstance(self.noise, bool) or not 0 <= self.noise < float("inf"):
            raise InvalidSetting(f"noise is {self.noise!r}, it must be finite and at least 0")
        if self.budget is not None:
            whole("budget", self.budget)
        if self.balance_to not in ("max", "median"):
            whole("balance_to", self.balance_to)
        if self.min_std not in (None, "pooled"):
            raise InvalidSetting(f'min_std is {self.min_std!r}, it must be None or "pooled"')
        if isinstance(self.gamma, str) and (self.balance != "off" or self.solver != "accumulate"):
            raise InvalidSetting(
                f'gamma={self.gamma!r} judges real rows only: use a number, or balance="off" with '
                'solver="accumulate"'
            )
        if self.sampler == "expected" and self.buffer_size is not None:
            raise InvalidSetting(
                'sampler="expected" knows no expectation behind a random ReLU buffer: use '
                "buffer_size=None, or another sampler"
            )
        if self.sampler == "expected" and self.solver == "recursive":
            raise InvalidSetting('solver="recursive" takes rows, sampler="expected" draws none')
        if self.solver == "recursive" and self.fit_intercept:
            raise InvalidSetting('solver="recursive" fits no intercept')

    def empty_statistics(self, n_features: int, **options: Any) -> StreamStatistics:
        """Statistics without a row, with the moments that the covariance needs."""
        feature_map = options.get("feature_map")
        incoming = n_features if feature_map is None else feature_map.in_features
        check_sobol(self.sampler, self.covariance, incoming)
        options["pooled"] = True
        return StreamStatistics(
            n_features,
            rank=lowrank(self.covariance),
            whole_covariance=self.covariance in ("shared", "diag+shared"),
            **options,
        )

    # ------------------------------------------------------------------ learning

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from a batch of any size, see :meth:`AnalyticClassifier.partial_fit`.

        Raises:
            InvalidSetting: weights with ``solver="recursive"``.
        """
        if self.solver == "recursive" and sample_weight is not None:
            raise InvalidSetting('solver="recursive" takes no sample_weight: use "accumulate"')
        recursion = self._running.recursion if self.__sklearn_is_fitted__() else None
        super().partial_fit(X, y, classes, sample_weight)
        if recursion is not None and np.shape(X)[0] and not scipy.sparse.issparse(X):
            rows = as_rows(X, self.n_features_in_, device=self.statistics_.device)
            x = self.buffer_(rows) if self.buffer_ is not None else rows
            self._running.recursion = recursion.declare(self.classes_).update(x, y)
        return self

    # ------------------------------------------------------------------ predicting

    def decision_function(self, X: Any, *, balanced: bool | None = None) -> NDArray[np.float64]:
        """Scores, see :meth:`AnalyticClassifier.decision_function`.

        Args:
            X: (n, d).
            balanced: the balanced head, or the plain one; None as ``balance`` says.
        """
        with self._head(balanced):
            return super().decision_function(X)

    def predict(self, X: Any, *, balanced: bool | None = None) -> NDArray[Any]:
        """Labels (n,); ``balanced`` as in :meth:`decision_function`."""
        with self._head(balanced):
            return super().predict(X)

    def predict_proba(self, X: Any, *, balanced: bool | None = None) -> NDArray[np.float64]:
        """Softmax of the scores (n, k), uncalibrated; ``balanced`` as before."""
        with self._head(balanced):
            return super().predict_proba(X)

    def as_module(
        self, backbone: nn.Module | None = None, *, balanced: bool | None = None
    ) -> nn.Module:
        """The predictor as a module, see :meth:`AnalyticClassifier.as_module`."""
        with self._head(balanced):
            return super().as_module(backbone)

    # ------------------------------------------------------------------ what it knows

    def sample_pseudo(self, label: Label, n: int) -> NDArray[np.float64]:
        """Draw n pseudo-features (n, d) of a class: those of the balanced head when it draws n.

        Raises:
            UnknownClass: it was never seen.
            InvalidSetting: n below 1.
        """
        check_is_fitted(self)
        whole("n", n)
        parts = of_settings(self._whole(), self).sample(label, n)
        return np.concatenate([part.cpu().numpy() for part in parts])

    @property
    def class_mean_(self) -> NDArray[np.float64]:
        """μ (k, d) of the incoming features."""
        check_is_fitted(self)
        mean: NDArray[np.float64] = self._whole().moments.mean.cpu().numpy()
        return mean

    @property
    def class_std_(self) -> NDArray[np.float64]:
        """σ (k, d) of the incoming features, unbiased; 0 for a class of one row."""
        check_is_fitted(self)
        variance = PseudoFeatures(self._whole()).variance  # as seen, whatever min_std draws
        std: NDArray[np.float64] = variance.sqrt().cpu().numpy()
        return std

    @property
    def pseudo_count_(self) -> NDArray[np.float64]:
        """Weight of the pseudo-features in the balanced head, (k,)."""
        check_is_fitted(self)
        return wanted(self.statistics_.mass, self.balance_to)

    @property
    def drawn_count_(self) -> NDArray[np.int64]:
        """Pseudo-features that are drawn for the balanced head, (k,)."""
        lacking = np.ceil(self.pseudo_count_).astype(np.int64)
        if self.sampler == "expected":
            return np.zeros_like(lacking)
        return lacking if self.budget is None else np.minimum(lacking, self.budget)

    # ------------------------------------------------------------------ solving

    def adopt(self, statistics: Any) -> Self:
        """Take over sums made elsewhere."""
        super().adopt(statistics)
        self._other, self._balanced, self._running = Solved(), None, Running()
        return self

    def _changed(self) -> Self:
        self._other, self._running.recursion = Solved(), None
        return super()._changed()

    @contextmanager
    def _head(self, balanced: bool | None) -> Iterator[None]:
        """Inside, the head in use is the balanced or the plain one."""
        default = self.balance == "on_predict"
        if balanced is None or balanced == default or not self.__sklearn_is_fitted__():
            yield
            return
        self._solved, self._other, self._balanced = self._other, self._solved, balanced
        try:
            yield
        finally:
            self._solved, self._other, self._balanced = self._other, self._solved, None

    def _solve(self) -> RidgeSolution:
        self._first_part()
        balanced = self.balance == "on_predict" if self._balanced is None else self._balanced
        if (not balanced and self.solver == "accumulate") or not self.statistics_.n_rows:
            return super()._solve()  # which says so where nothing was seen
        spread = (self.noise, self.sampler, self.covariance, self.min_std, self.seed)
        solved_as = (self.gamma, self.fit_intercept, self.solver, balanced)
        asked = (*solved_as, *spread, self.budget, self.balance_to)
        if self._solved.solution is None or self._solved.asked != asked:
            self.check_settings()
            if isinstance(self.gamma, str):
                raise InvalidSetting(
                    f"gamma={self.gamma!r} judges real rows only: set a number for the balanced "
                    "head"
                )
            solution = self._balanced_solution() if balanced else self._recursive().solution()
            self._solved.asked, self._solved.solution = asked, solution
            self._solved.gamma = float(self.gamma)
        solved = self._solved.solution
        assert solved is not None
        return solved

    def _balanced_solution(self) -> RidgeSolution:
        assert not isinstance(self.gamma, str)
        statistics, needed, drawn = self._whole(), self.pseudo_count_, self.drawn_count_
        source = of_settings(statistics, self)
        if self.sampler == "expected":
            system = source.expected(statistics.reweight(), needed)
            return system.solve(self.gamma, fit_intercept=self.fit_intercept)
        width = statistics.n_features
        if self.budget is not None and self.budget < min(width, needed.max(initial=0)):
            warnings.warn(
                f"a budget of {self.budget} pseudo-features for {width} features: few rows of a "
                f"large weight make a spiky second moment; {2 * width} or more are safer",
                FewPseudoFeatures,
                stacklevel=5,
            )
        if self.solver == "accumulate":
            system = source.drawn(statistics.reweight(), needed, drawn)
            return system.solve(self.gamma, fit_intercept=self.fit_intercept)
        copied = copy.deepcopy(self._recursive())
        for slot in np.flatnonzero(drawn).tolist():
            label, m = statistics.classes[slot], int(drawn[slot])
            root = (float(needed[slot]) / m) ** 0.5
            for part in source.sample(label, m):
                x = self.buffer_(part) if self.buffer_ is not None else part
                copied.update(x * root, np.full(len(part), label), target=root)
        return copied.solution()

    def _recursive(self) -> RecursiveRidge:
        """The recursion's state, begun from the sums where it is not there yet."""
        assert not isinstance(self.gamma, str)
        running = self._running
        if running.recursion is None or running.recursion.gamma != self.gamma:
            statistics = self._whole()
            running.recursion = RecursiveRidge.of_sums(
                statistics.reweight(), self.gamma, statistics.classes
            )
        return running.recursion

    def _whole(self) -> StreamStatistics:
        """The statistics of all rows, parts put together."""
        held: Any = self.statistics_
        parts = getattr(held, "parts", None)
        if parts is None:
            return self.statistics_
        total: StreamStatistics = parts[0].copy()
        for part in parts[1:]:
            total.merge(part)
        return total
