"""Linear heads that follow from pooled class statistics, to compare methods with.

All learn a stream in the same way: ``partial_fit`` on batches, ``end_task`` between tasks,
``predict`` at any time.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from lipogram.analytic.blas import matmul
from lipogram.analytic.rows import as_rows
from lipogram.analytic.solve import cholesky, cholesky_solve
from lipogram.analytic.statistics import ClassStatistics


class StreamLearner(Protocol):
    """What a stream needs of a learner; features (n, d), labels (n,)."""

    def partial_fit(self, X: Any, y: Any) -> Any:
        """Learn from a batch."""

    def end_task(self) -> Any:
        """The task is over."""

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,)."""


class LinearHead:
    """A learner whose head is linear and follows from pooled class statistics."""

    def __init__(self) -> None:
        self.statistics: ClassStatistics | None = None
        self._head: tuple[torch.Tensor, torch.Tensor] | None = None

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn from a batch."""
        if self.statistics is None:
            self.statistics = self._begin(np.shape(X)[1])
        self.statistics.update(X, y)
        self._head = None
        return self

    def end_task(self) -> Self:
        """Nothing happens between tasks."""
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,) of the largest score.

        Raises:
            NotFittedError: nothing was learnt yet.
        """
        if self.statistics is None:
            raise NotFittedError("predict comes after partial_fit")
        if self._head is None:
            self._head = self._solve(self.statistics)
        weight, bias = self._head
        rows = as_rows(X, self.statistics.n_inputs).double()
        feature_map = self.statistics.feature_map
        scores = matmul(rows if feature_map is None else feature_map(rows), weight) + bias
        labels: NDArray[Any] = self.statistics.index.array()[scores.argmax(1).numpy()]
        return labels

    def _begin(self, width: int) -> ClassStatistics:
        return ClassStatistics(width, pooled=True)

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


class NearestClassMean(LinearHead):
    """The class whose mean is nearest: scores ``zᵀμ_y − ‖μ_y‖²/2``."""

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        mean = statistics.sums / torch.from_numpy(statistics.mass)[:, None]
        return mean.T.contiguous(), -mean.square().sum(1) / 2


class StreamingLDA(LinearHead):
    """Linear discriminant analysis with one shrunk covariance (Hayes & Kanan, CVPR-W 2020).

    ``Λ = ((1 − ε)Σ + εI)⁻¹``, scores ``zᵀΛμ_y − μ_yᵀΛμ_y/2``, with Σ the exact pooled within-class
    covariance of everything seen (the paper updates it row by row, which weighs early rows a little
    less).

    Args:
        shrinkage: ε in (0, 1], 10⁻⁴ in the paper.
    """

    def __init__(self, shrinkage: float = 1e-4) -> None:
        super().__init__()
        self.shrinkage = shrinkage

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        mass = torch.from_numpy(statistics.mass)[:, None]
        mean = statistics.sums / mass
        scatter = statistics.reweight().gram - matmul((mean * mass).T.contiguous(), mean)
        covariance = scatter * ((1 - self.shrinkage) / float(mass.sum()))
        factor, _ = cholesky(covariance, self.shrinkage)
        weight = cholesky_solve(factor, mean.T.contiguous())
        return weight, -(mean * weight.T).sum(1) / 2
