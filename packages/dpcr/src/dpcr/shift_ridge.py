"""The ridge regression behind a shift map: one eigendecomposition, and every ε is cheap from there.

Generalised cross-validation (Golub, Heath & Wahba 1979) picks ε from the sums. It is written
without differences of nearly equal numbers, since ε far below the smallest eigenvalue is what an
exactly linear drift asks for: with ``A = VΛVᵀ``, ``Z = VᵀC`` and r eigenvalues above rounding,

    ``RSS(ε) = RSS(0) + Σ_j ‖Z_j‖² ε²/(λ_j (λ_j + ε)²)``  and  ``n − df = n − r + Σ_j ε/(λ_j + ε)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from lipogram.analytic.blas import matmul, on_cpu
from lipogram.analytic.solve import RidgeSystem, eigen_path

EPS = torch.finfo(torch.float64).eps
RELATIVE_GRID = np.logspace(-12, 1, 27)  # candidates for ε over tr(A)/d
INTERPOLATING_TOLERANCE = 0.05  # fewer rows than features: scores this close are the same


@dataclass(frozen=True)
class RidgePath:
    """A ridge regression in its eigenbasis.

    Attributes:
        values: eigenvalues λ above rounding (r,), ascending.
        vectors: their eigenvectors (d, r).
        projected: ``Z = VᵀC`` (r, e).
        scale: mean eigenvalue tr(A)/d, the unit of a relative ε.
        free: rows that are no parameter, ``n − r`` less one for an intercept; at least 0.
        unexplained: ``RSS(0)``, at least 0.
    """

    values: Tensor
    vectors: Tensor
    projected: Tensor
    scale: float
    free: int
    unexplained: float

    def weight(self, eps: float) -> Tensor:
        """``(A + εI)⁻¹ C`` (d, e); with ε = 0 the solution of smallest norm."""
        return matmul(self.vectors, self.projected / (self.values + eps)[:, None])

    def effective_rank(self, eps: float) -> float:
        """``Σ λ/(λ + ε)``: directions that the map follows."""
        return float((self.values / (self.values + eps)).sum())

    def scores(self, grid: Tensor) -> Tensor:
        """``RSS/(n − df)²`` of each ε > 0 of a grid (g,)."""
        power = self.projected.square().sum(1)
        shifted = self.values + grid[:, None]
        bias = (power * grid[:, None].square() / (self.values * shifted.square())).sum(1)
        free = self.free + (grid[:, None] / shifted).sum(1)
        return (self.unexplained + bias) / free.square()

    def chosen(self) -> float:
        """The ε of smallest score.

        Where the rows can be interpolated the score is flat towards 0, and the smallest ε whose
        score is within 5 % of the best is taken.
        """
        if not len(self.values):
            return 0.0
        grid = torch.from_numpy(RELATIVE_GRID * self.scale).to(self.values.device)
        scores = self.scores(grid)
        near = 1 + (INTERPOLATING_TOLERANCE if not self.free else 0.0)
        return float(grid[int(torch.nonzero(scores <= scores.min() * near)[0])])

    def truncated(self, rank: int) -> RidgePath:
        """The same with the ``rank`` largest eigenvalues only (principal component regression)."""
        kept = max(len(self.values) - rank, 0)
        lost = self.projected[:kept].square().sum(1) / self.values[:kept]
        return RidgePath(
            self.values[kept:],
            self.vectors[:, kept:],
            self.projected[kept:],
            self.scale,
            self.free + kept,
            self.unexplained + float(lost.sum()),
        )


def ridge_path(system: RidgeSystem, *, bias: bool = False) -> RidgePath:
    """The path of a system whose targets have width e; centred sums where there is a bias."""
    gram, cross = system.centred if bias else (system.gram, system.cross)
    d, scale = len(gram), float(gram.diagonal().mean())
    if 2 * system.rows < d and on_cpu(gram):
        values, vectors = few_axes(gram)
        projected = matmul(vectors.T.contiguous(), cross)
    else:
        values, vectors, projected = eigen_path(system, fit_intercept=bias)
    kept = values > (values.max() if len(values) else 0.0) * d * EPS
    values, vectors, projected = values[kept], vectors[:, kept].contiguous(), projected[kept]
    energy = system.energy
    if bias and system.mass > 0:
        energy -= float(system.target_sum.square().sum()) / system.mass
    free = max(system.rows - bias - len(values), 0)
    unexplained = energy - float((projected.square().sum(1) / values).sum())
    # Rows that can be interpolated leave nothing, and what rounding makes of nothing has a sign.
    unexplained = max(unexplained, 0.0) if free else 0.0
    return RidgePath(values, vectors, projected, scale, free, unexplained)


def few_axes(lower: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and eigenvectors (d, r) of a matrix (d, d) of low rank r, ascending.

    A pivoted Cholesky factor ``A = L Lᵀ`` of d·r numbers takes d r² operations, and ``LᵀL`` has the
    same eigenvalues: a few hundred rows of a thousand features take a fifth of the full time.
    """
    factor, pivots, rank, _ = lapack.dpstrf(lower.numpy(), lower=1, tol=-1.0)
    left = np.tril(factor)[:, :rank]
    values, inner = np.linalg.eigh(left.T @ left)
    sound = values > (values[-1] if rank else 0.0) * len(lower) * EPS
    values, inner = values[sound], inner[:, sound]
    vectors = np.empty((len(lower), len(values)))
    vectors[pivots - 1] = left @ (inner / np.sqrt(values))
    return torch.from_numpy(values), torch.from_numpy(vectors)
