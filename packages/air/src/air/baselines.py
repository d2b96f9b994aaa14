"""What AIR is compared with, each computed from the stream itself: no figure is quoted.

All learn as AIR does: ``partial_fit`` on batches, ``end_task`` between tasks, ``predict`` at any
    time.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from air.classifier import AIRClassifier
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.linear_heads import (
    LinearHead,
    NearestClassMean,
    StreamingLDA,
    StreamLearner,
)
from lipogram.analytic.rows import as_rows
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IllConditioned


class RanPAC(LinearHead):
    """Random projections and ridge (McDonnell et al., NeurIPS 2023), γ from held-out rows.

    ``x = ReLU(z B)``, B ~ N(0, 1); after each task γ is the one of 10⁻⁸ … 10⁸ whose ridge on the
    first 80 % of that task's rows has the least squared error on the last 20 %.

    Args:
        buffer_size: width of the projection, 10 000 in the paper.
        seed: seed of the projection.
    """

    GAMMAS = 10.0 ** np.arange(-8, 9)

    def __init__(self, buffer_size: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        self.buffer_size, self.seed = buffer_size, seed
        self.gamma = 1.0
        self._task: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn from a batch; its rows are kept until the task ends."""
        self._task.append((np.asarray(X), np.asarray(y)))
        return super().partial_fit(X, y)

    def end_task(self) -> Self:
        """Choose γ from the rows of the task that ends, and let go of them."""
        if self._task:
            rows, labels = (np.concatenate(parts) for parts in zip(*self._task, strict=True))
            self._task = []
            cut = int(0.8 * len(rows))
            if 0 < cut < len(rows):
                errors = self._held_out_errors(self._map(rows.shape[1]), rows, labels, cut)
                self.gamma = float(self.GAMMAS[int(np.argmin(errors))])
            self._head = None
        return self

    def _held_out_errors(
        self, projection: RandomBuffer, rows: NDArray[Any], labels: NDArray[Any], cut: int
    ) -> NDArray[np.float64]:
        mapped = projection(as_rows(rows, projection.in_features)).numpy()
        targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
        u, s, vt = np.linalg.svd(mapped[:cut], full_matrices=False)
        left, right = u.T @ targets[:cut], mapped[cut:] @ vt.T
        return np.array(
            [
                np.square(right @ (left * (s / (s**2 + gamma))[:, None]) - targets[cut:]).sum()
                for gamma in self.GAMMAS
            ]
        )

    def _map(self, width: int) -> RandomBuffer:
        held = self.statistics.feature_map if self.statistics is not None else None
        if isinstance(held, RandomBuffer):
            return held
        return RandomBuffer(width, self.buffer_size, init="normal", seed=self.seed)

    def _begin(self, width: int) -> ClassStatistics:
        return ClassStatistics(self.buffer_size, pooled=True, feature_map=self._map(width))

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings():  # its own choice of γ is the method, however small
            warnings.simplefilter("ignore", IllConditioned)
            solution = statistics.solve(self.gamma)
        return solution.weight, solution.intercept


class Oversampling(AIRClassifier):
    """Plain ridge with each class of a batch repeated until it is as large as the batch's largest.

    The repetition enters as a weight, which is its exact expectation. Without old rows it can
    balance the classes of one batch only.
    """

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from a batch whose classes are made equally large."""
        _, where, counts = np.unique(np.asarray(y), return_inverse=True, return_counts=True)
        repeated = (counts.max(initial=1) / counts)[where] if len(counts) else np.ones(0)
        if sample_weight is not None:
            repeated = repeated * np.asarray(sample_weight)
        return super().partial_fit(X, y, classes, repeated)


BASELINES = ("ridge", "ncm", "slda", "ranpac", "oversampling")


def learner(
    name: str, *, gamma: float | str, buffer_size: int | None, seed: int = 0
) -> StreamLearner:
    """AIR or a baseline by name, with the same ridge and buffer where it has one.

    Raises:
        KeyError: a name that is neither "air" nor one of :data:`BASELINES`.
    """
    rule = "balanced" if name == "air" else "none"
    match name:
        case "air" | "ridge":
            return AIRClassifier(gamma=gamma, buffer_size=buffer_size, class_weight=rule, seed=seed)
        case "oversampling":
            return Oversampling(gamma=gamma, buffer_size=buffer_size, class_weight=rule, seed=seed)
        case "ncm":
            return NearestClassMean()
        case "slda":
            return StreamingLDA()
        case "ranpac":
            return RanPAC(buffer_size or 2048, seed)
    raise KeyError(name)
