"""Recursive least squares, for parity with code that updates its weights after every batch.

``R ← R − R Xᵀ (I + X R Xᵀ)⁻¹ X R`` and ``W ← W + R Xᵀ (Y − X W)`` from ``R = I/γ``, ``W = 0`` give
the ridge weights of everything seen (ACIL, Zhuang et al., NeurIPS 2022). Accumulating sums gives
the same weights
with more digits and at a fraction of the cost: prefer :class:`lipogram.analytic.ClassStatistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import blas
from torch import Tensor

from lipogram.analytic.blas import matmul, on_cpu, symmetric
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.rows import as_rows, uninterrupted
from lipogram.analytic.solve import (
    RidgeSolution,
    RidgeSystem,
    check_gamma,
    cholesky,
    cholesky_solve,
    symmetric_product,
)
from lipogram.errors import InvalidFeatures


class RecursiveRidge:
    """Ridge weights that are current after every batch, by the Woodbury identity.

    Batches are cut into pieces of at most ``d/8`` rows: the recursion loses digits as a piece nears
    d rows or γ gets small. Nothing can be merged, removed or re-weighted.

    Args:
        n_features: width d.
        gamma: ridge γ > 0, fixed from the start.
        device: where R (d, d) lives.

    Attributes:
        weight: W (d, k) float64, columns in the order of ``classes``.
    """

    def __init__(
        self, n_features: int, gamma: float, *, device: torch.device | str = "cpu"
    ) -> None:
        check_gamma(gamma)
        self.n_features, self.gamma = n_features, float(gamma)
        self.index = LabelIndex()
        self.weight = torch.zeros(n_features, 0, dtype=torch.float64, device=device)
        self._r = torch.eye(n_features, dtype=torch.float64, device=device) / self.gamma

    @property
    def classes(self) -> NDArray[Any]:
        """Labels (k,) in order of appearance."""
        return self.index.array()

    @classmethod
    def of_sums(cls, system: RidgeSystem, gamma: float, classes: Sequence[Label]) -> Self:
        """The recursion as if it had seen the rows behind these sums.

        Args:
            system: sums (d, d) and (d, k).
            gamma: ridge γ > 0.
            classes: labels (k,) of the columns.
        """
        made = cls(system.gram.shape[0], gamma, device=system.gram.device)
        factor, _ = cholesky(system.gram, made.gamma)
        made._r = cholesky_solve(factor, made._r * made.gamma)  # (A + γI)⁻¹ I
        made.weight = cholesky_solve(factor, system.cross)
        made.index = LabelIndex(classes)
        return made

    def solution(self) -> RidgeSolution:
        """The weights, with no estimate of their condition."""
        zero = self.weight.new_zeros(self.weight.shape[1])
        return RidgeSolution(self.weight, zero, float("nan"), 0.0)

    def declare(self, labels: Any) -> Self:
        """Give classes their columns before any row of them is there."""
        _, new = self.index.plan(labels)
        self._grow(new)
        return self

    def update(self, features: Any, labels: Any, *, target: float = 1.0) -> Self:
        """Learn from rows (n, d) with labels (n,); all of them or, on bad input, none.

        Args:
            features: (n, d); a row of weight w is its features times ``√w``.
            labels: (n,).
            target: what a row scores in its class's column, ``√w`` for such a row.

        Raises:
            InvalidFeatures, InvalidLabels: see there.
        """
        rows = as_rows(features, self.n_features, device=self.weight.device).double()
        slots, new = self.index.plan(labels)
        if len(slots) != len(rows):
            raise InvalidFeatures(f"{len(rows)} rows of features, {len(slots)} labels")
        with uninterrupted():
            self._grow(new)
            piece = max(1, self.n_features // 8)
            where = torch.from_numpy(slots).to(rows.device)
            for i in range(0, len(rows), piece):
                self._update(rows[i : i + piece], where[i : i + piece], target)
        return self

    def _grow(self, new: Sequence[Label]) -> None:
        self.index.extend(new)
        grown = self.weight.new_zeros(self.n_features, len(new))
        self.weight = torch.cat([self.weight, grown], dim=1)

    def _update(self, x: Tensor, slots: Tensor, target: float) -> None:
        p = symmetric_product(self._r, x.T.contiguous())  # R Xᵀ
        # S = I + X R Xᵀ = L Lᵀ; with Q = R Xᵀ L⁻ᵀ both updates are products with Q.
        factor, _ = cholesky(matmul(x, p), 1.0)
        q = torch.linalg.solve_triangular(factor.tril(), p.T, upper=False)  # Qᵀ
        residual = -matmul(x, self.weight)
        residual[torch.arange(len(x), device=x.device), slots] += target
        gain = torch.linalg.solve_triangular(factor.tril(), residual, upper=False)
        self.weight = self.weight + matmul(q.T.contiguous(), gain)
        if on_cpu(self._r):
            rows = np.ascontiguousarray(q.numpy())
            blas.dsyrk(-1.0, rows.T, beta=1.0, c=self._r.numpy().T, overwrite_c=1)
        else:
            self._r = symmetric(self._r - q.T @ q)
