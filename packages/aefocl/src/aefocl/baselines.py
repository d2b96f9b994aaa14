"""What pseudo-features are compared with, each computed from the stream: no figure is quoted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aefocl.classifier import AEFOCLClassifier
from aefocl.online import OnlineLearner
from aefocl.pseudo_features import Sampler
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.estimator import AnalyticClassifier
from lipogram.analytic.linear_heads import LinearHead, NearestClassMean, StreamingLDA
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import InvalidSetting

BASELINES = ("plain", "slda", "ncm", "air")
METHODS = ("aefocl", "aefocl-shared", *BASELINES)


class ClassBalancedRidge(LinearHead):
    """Ridge in which each class weighs the same: AIR (Fang et al., arXiv 2408.10349).

    ``W = (Σ_y π_y A_y + γI)⁻¹[π_y c_y]`` with ``π_y ∝ 1/N_y`` of mean 1 over the classes. It keeps
    one second moment a class, where pseudo-features need one for all.

    Args:
        gamma: ridge γ > 0.
        buffer_size: width of the random buffer, None for none.
        seed: of the buffer.
    """

    def __init__(self, gamma: float, buffer_size: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.gamma, self.buffer_size, self.seed = gamma, buffer_size, seed

    def _begin(self, width: int) -> ClassStatistics:
        if self.buffer_size is None:
            return ClassStatistics(width)
        buffer = RandomBuffer(width, self.buffer_size, seed=self.seed)
        return ClassStatistics(self.buffer_size, feature_map=buffer)

    def _solve(self, statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
        weight = 1 / np.asarray(statistics.mass)
        solution = statistics.solve(self.gamma, class_weight=weight / weight.mean())
        return solution.weight, solution.intercept


def learner(
    name: str,
    *,
    gamma: float,
    buffer_size: int | None,
    noise: float = 1.0,
    budget: int | None = None,
    sampler: Sampler = "iid",
    space: str = "",
    seed: int = 0,
) -> OnlineLearner:
    """A method by name, with the same ridge and buffer where it has one.

    ``aefocl`` is the paper's. ``aefocl-shared`` is ours: pseudo-features spread by the class's own
    diagonal and by the covariance within all classes; without a buffer none is drawn, for their
    expectation is known. ``plain`` is the same head without any.

    Args:
        name: one of :data:`METHODS`.
        gamma: ridge γ > 0, of all but the nearest mean and LDA.
        buffer_size: width of the random buffer, None for none.
        noise: τ of pseudo-features, see :class:`AEFOCLClassifier`.
        budget: most pseudo-features of a class, None for all.
        sampler: how they are drawn.
        space: identity of the features.
        seed: of buffer and draws.

    Raises:
        InvalidSetting: an unknown name.
    """
    common: dict[str, Any] = {"gamma": gamma, "buffer_size": buffer_size, "seed": seed}
    drawn = {"noise": noise, "budget": budget, "space": space, **common}
    match name:
        case "aefocl":
            return AEFOCLClassifier(sampler=sampler, **drawn)
        case "aefocl-shared":
            quiet: Sampler = sampler if buffer_size else "expected"
            return AEFOCLClassifier(sampler=quiet, covariance="diag+shared", **drawn)
        case "plain":
            return AnalyticClassifier(space=space, **common)
        case "air":
            return ClassBalancedRidge(**common)
        case "slda":
            return StreamingLDA()
        case "ncm":
            return NearestClassMean()
    raise InvalidSetting(f"method {name!r} is none of {', '.join(METHODS)}")
