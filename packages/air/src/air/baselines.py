"""What AIR is compared with, each computed from the stream itself: no figure is quoted.

All learn as AIR does: ``partial_fit`` on batches, ``end_task`` between tasks, ``predict`` at any time.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from air.classifier import AIRClassifier
from lipogram.analytic.blas import matmul
from lipogram.analytic.buffer import RandomBuffer
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


class LinearDiscriminant:
    """A learner whose head is linear in the features and follows from pooled class statistics."""

    def __init__(self) -> None:
        self.statistics: ClassStatistics | None = None
        self._head: tuple[torch.Tensor, torch.Tensor] | None = None

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn from a batch."""
        if self.statistics is None:
            self.statistics = ClassStatistics(np.shape(X)[1], pooled=True)
        self.statistics.update(X, y)
        self._head = None
        return self

    def end_task(self) -> Self:
        """Nothing happens between tasks."""
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,) of the largest score."""
        assert self.statistics is not None, "predict comes after partial_fit"
        if self._head is None:
            self._head = self._solve(self.statistics)
        weight, bias = self._head
        rows = as_rows(X, self.statistics.n_inputs).double()
        scores = matmul(rows, weight) + bias
        return self.statistics.index.array()[scores.argmax(1).numpy()]

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


class NearestClassMean(LinearDiscriminant):
    """The class whose mean is nearest: scores ``zᵀμ_y − ‖μ_y‖²/2``."""

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        mean = statistics.sums / torch.from_numpy(statistics.mass)[:, None]
        return mean.T.contiguous(), -mean.square().sum(1) / 2


class StreamingLDA(LinearDiscriminant):
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


class RanPAC:
    """Random projections and ridge (McDonnell et al., NeurIPS 2023), γ from the last task's hold-out.

    ``x = ReLU(z B)``, B ~ N(0, 1); after each task γ is the one of 10⁻⁸ … 10⁸ whose ridge on the first
    80 % of that task's rows has the least squared error on the last 20 %.

    Args:
        buffer_size: width of the projection, 10 000 in the paper.
        seed: seed of the projection.
    """

    GAMMAS = 10.0 ** np.arange(-8, 9)

    def __init__(self, buffer_size: int = 10_000, seed: int = 0) -> None:
        self.buffer_size, self.seed = buffer_size, seed
        self.gamma = 1.0
        self.statistics: ClassStatistics | None = None
        self._task: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._weight: torch.Tensor | None = None

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn from a batch."""
        if self.statistics is None:
            projection = RandomBuffer(np.shape(X)[1], self.buffer_size, init="normal", seed=self.seed)
            self.statistics = ClassStatistics(self.buffer_size, pooled=True, feature_map=projection)
        self.statistics.update(X, y)
        self._task.append((np.asarray(X), np.asarray(y)))
        self._weight = None
        return self

    def end_task(self) -> Self:
        """Choose γ from the rows of the task that ends, and let go of them."""
        if not self._task or self.statistics is None:
            return self
        rows, labels = (np.concatenate(parts) for parts in zip(*self._task, strict=True))
        self._task = []
        cut = int(0.8 * len(rows))
        if 0 < cut < len(rows):
            scores = self._held_out_errors(rows, labels, cut)
            self.gamma = float(self.GAMMAS[int(np.argmin(scores))])
        self._weight = None
        return self

    def _held_out_errors(
        self, rows: NDArray[Any], labels: NDArray[Any], cut: int
    ) -> NDArray[np.float64]:
        assert self.statistics is not None and self.statistics.feature_map is not None
        mapped = self.statistics.feature_map(as_rows(rows, self.statistics.n_inputs)).numpy()
        targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
        u, s, vt = np.linalg.svd(mapped[:cut], full_matrices=False)
        left, right = u.T @ targets[:cut], mapped[cut:] @ vt.T
        return np.array(
            [
                np.square(right @ (left * (s / (s**2 + gamma))[:, None]) - targets[cut:]).sum()
                for gamma in self.GAMMAS
            ]
        )

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,) of the largest score."""
        assert self.statistics is not None and self.statistics.feature_map is not None
        if self._weight is None:
            self._weight = self.statistics.solve(self.gamma).weight
        rows = self.statistics.feature_map(as_rows(X, self.statistics.n_inputs))
        return self.statistics.index.array()[matmul(rows, self._weight).argmax(1).numpy()]


class Oversampling(AIRClassifier):
    """Plain ridge with each class of a batch repeated until it is as large as the batch's largest.

    The repetition enters as a weight, which is its exact expectation. Without old rows it can balance
    the classes of one batch only.
    """

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Learn from a batch whose classes are made equally large."""
        _, where, counts = np.unique(np.asarray(y), return_inverse=True, return_counts=True)
        repeated = (counts.max(initial=1) / counts)[where] if len(counts) else np.ones(0)
        if sample_weight is not None:
            repeated = repeated * np.asarray(sample_weight)
        return super().partial_fit(X, y, classes, repeated)


BASELINES = ("ridge", "ncm", "slda", "ranpac", "oversampling")


def learner(name: str, *, gamma: float | str, buffer_size: int | None, seed: int = 0) -> StreamLearner:
    """AIR or a baseline by name, with the same ridge and buffer where it has one.

    Raises:
        KeyError: a name that is neither "air" nor one of :data:`BASELINES`.
    """
    head = {"gamma": gamma, "buffer_size": buffer_size, "seed": seed}
    make = {
        "air": lambda: AIRClassifier(**head),
        "ridge": lambda: AIRClassifier(class_weight="none", **head),
        "ncm": NearestClassMean,
        "slda": StreamingLDA,
        "ranpac": lambda: RanPAC(buffer_size or 2048, seed),
        "oversampling": lambda: Oversampling(class_weight="none", **head),
    }
    return make[name]()
