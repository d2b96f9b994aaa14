"""What a head can say once sums are there: the γ it takes, its weights, scores and labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from torch import nn

from lipogram.analytic.blas import matmul
from lipogram.analytic.buffer import Buffer
from lipogram.analytic.inputs import checked_rows, dense_chunks
from lipogram.analytic.selection import gamma_grid, gcv_scores, largest_within_one_error
from lipogram.analytic.solve import RidgeSolution, RidgeSystem
from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import InvalidSetting


class Solved:
    """What the last solve gave, and the settings it was asked with."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] | None = None
        self.solution: RidgeSolution | None = None
        self.gamma: float = float("nan")


class RidgePredictor(ClassifierMixin, BaseEstimator):
    """Predictions from class statistics; the head is solved when it is asked for.

    A solution is kept until the sums, γ, the intercept or the class weights change.
    """

    gamma: float | str
    fit_intercept: bool
    device: str
    statistics_: ClassStatistics | SplitStatistics
    n_features_in_: int
    _solved: Solved

    # ------------------------------------------------------------------ what a method decides

    def _class_weight(self) -> NDArray[np.float64] | None:
        """Weight π of one unit of mass of each class, (k,), at solve time; None for 1."""
        return None

    def check_settings(self) -> None:
        """Raise InvalidSetting for settings that cannot work."""
        raise NotImplementedError

    # ------------------------------------------------------------------ predicting

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores ``Wᵀx + b``: (n, k), or for two classes (n,), positive for ``classes_[1]``."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,) with the largest score, among classes with at least one row."""
        scores = self._scores(X)
        scores[:, self.class_count_ == 0] = -np.inf
        labels: NDArray[Any] = self.classes_[scores.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Softmax of the scores, (n, k). Ridge scores are no log-odds: these are not calibrated."""
        scores = self._scores(X)
        powers: NDArray[np.float64] = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def _scores(self, X: Any) -> NDArray[np.float64]:
        self._first_part()
        rows = checked_rows(self, X, reset=False)
        solution = self._solve()
        parts = []
        for z in dense_chunks(rows, self.n_features_in_, self.device):
            x = self.buffer_(z) if self.buffer_ is not None else z.double()
            parts.append((matmul(x, solution.weight) + solution.intercept).cpu().numpy())
        return np.concatenate(parts)

    def as_module(self, backbone: nn.Module | None = None) -> nn.Module:
        """The predictor in float32, ``backbone → buffer → linear``, for TorchScript and ONNX.

        Args:
            backbone: module from images (n, …) to features (n, d), put into evaluation mode; None
                takes features.

        Returns:
            A module from its input to scores (n, k), columns in the order of ``classes_``.
        """
        weight, intercept = self._solve().weight, self._solve().intercept
        # Drawn nowhere: the global generator is not ours.
        linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta").to_empty(device="cpu")
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(intercept)
        stages = [backbone, self.buffer_.as_module() if self.buffer_ is not None else None, linear]
        return nn.Sequential(*(stage for stage in stages if stage is not None)).eval()

    # ------------------------------------------------------------------ what it knows

    @property
    def buffer_(self) -> Buffer | None:
        """The feature map, or None."""
        return self._first_part().feature_map

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (k,)."""
        return self._first_part().index.array()

    @property
    def class_count_(self) -> NDArray[np.int64]:
        """Rows of each class, (k,)."""
        self._first_part()
        return self.statistics_.counts.copy()

    @property
    def n_samples_seen_(self) -> int:
        """Rows counted."""
        self._first_part()
        return self.statistics_.n_rows

    @property
    def coef_(self) -> NDArray[np.float64]:
        """Weights (k, D)."""
        weight: NDArray[np.float64] = self._solve().weight.T.cpu().numpy()
        return weight

    @property
    def intercept_(self) -> NDArray[np.float64]:
        """Intercepts (k,)."""
        intercept: NDArray[np.float64] = self._solve().intercept.cpu().numpy()
        return intercept

    @property
    def condition_(self) -> float:
        """Estimated condition number of ``A + γI``."""
        return self._solve().condition

    @property
    def gamma_(self) -> float:
        """The ridge γ in use, chosen or given."""
        self._solve()
        return self._solved.gamma

    @property
    def nbytes_(self) -> int:
        """Bytes held by the sums."""
        self._first_part()
        return self.statistics_.nbytes

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "statistics_")

    # ------------------------------------------------------------------ solving

    def _first_part(self) -> ClassStatistics:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet: call fit or partial_fit"
            )
        held = self.statistics_
        return held.parts[0] if isinstance(held, SplitStatistics) else held

    def _solve(self) -> RidgeSolution:
        if not self._first_part().index.labels or not self.statistics_.n_rows:
            raise NotFittedError(f"this {type(self).__name__} has seen no row yet")
        weight, solved = self._class_weight(), self._solved
        asked = (self.gamma, self.fit_intercept, None if weight is None else weight.tobytes())
        if solved.solution is None or solved.asked != asked:
            self.check_settings()
            system = self.statistics_.reweight(weight)
            gamma = self._chosen_gamma(system, weight)
            solution = system.solve(gamma, fit_intercept=self.fit_intercept)
            solved.asked, solved.solution, solved.gamma = asked, solution, gamma
            return solution
        return solved.solution

    def _chosen_gamma(self, system: RidgeSystem, weight: NDArray[np.float64] | None) -> float:
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        gammas = gamma_grid(system)
        if self.gamma == "gcv":
            scores = gcv_scores(system, gammas, fit_intercept=self.fit_intercept)
            return float(gammas[int(np.argmin(scores))])
        held = self.statistics_
        if not isinstance(held, SplitStatistics):
            raise InvalidSetting(
                'gamma="cv" needs sums kept in folds, and these were not: set it before the first '
                "row, or use a number"
            )
        losses = held.gamma_losses(weight, gammas, fit_intercept=self.fit_intercept)
        if weight is None or np.ptp(weight[held.counts > 0]) <= 1e-9 * weight.max():
            return float(gammas[int(np.argmin(losses.sum(0)))])
        return float(gammas[largest_within_one_error(losses)])

    def _changed(self) -> Self:
        """Called before the sums change, since an interrupt may come once they have."""
        self._solved.solution = None
        return self
