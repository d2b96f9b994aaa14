"""The recursion as analytic continual learning published it, to measure against.

``K = (I + X R Xᵀ)⁻¹``, ``R ← R − R Xᵀ K X R`` and ``W ← W + R Xᵀ (Y − X W)`` with the new R (ACIL,
Zhuang et al., NeurIPS 2022), as the authors' code computes it: an explicit inverse, and products
from left to right, so that every batch multiplies two D×D matrices. To learn with, there is
:class:`lipogram.analytic.ClassStatistics`, and :class:`lipogram.analytic.recursion.RecursiveRidge`
where weights must be current after every batch.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class PublishedRecursion:
    """R (d, d) and the weights W (d, k), updated batch by batch.

    Args:
        width: d.
        classes: k, known from the start.
        gamma: ridge γ.

    Attributes:
        r: ``(γI + Σ XᵀX)⁻¹``, float64.
        weight: W, float64.
    """

    def __init__(self, width: int, classes: int, *, gamma: float) -> None:
        self.r = torch.eye(width, dtype=torch.float64) / gamma
        self.weight = torch.zeros(width, classes, dtype=torch.float64)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Learn from rows x (b, d) float64 with label ids y (b,) from 0 to k − 1."""
        targets = torch.nn.functional.one_hot(y, self.weight.shape[1]).double()
        k = torch.inverse(torch.eye(len(x), dtype=torch.float64) + x @ self.r @ x.T)
        self.r -= self.r @ x.T @ k @ x @ self.r
        self.weight += self.r @ x.T @ (targets - x @ self.weight)


def published_recursion(
    features: NDArray[Any], labels: NDArray[Any], classes: int, *, gamma: float, batch: int
) -> Tensor:
    """Weights (d, k) float64 after all rows (n, d), in batches.

    Args:
        features: (n, d) float64.
        labels: (n,) ids from 0 to k − 1.
        classes: k.
        gamma: ridge γ.
        batch: rows to an update.
    """
    held = PublishedRecursion(features.shape[1], classes, gamma=gamma)
    for i in range(0, len(labels), batch):
        held.update(
            torch.from_numpy(features[i : i + batch]), torch.from_numpy(labels[i : i + batch])
        )
    return held.weight
