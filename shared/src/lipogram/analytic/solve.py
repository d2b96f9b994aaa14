"""Weighted ridge regression from its normal equations: one Cholesky factorisation, no inverse.

The objective is ``Σ_i w_i ‖y_i − Wᵀx_i − b‖² + γ‖W‖²``; the sums over the rows say everything.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import blas, lapack
from torch import Tensor

from lipogram.analytic.blas import Accumulate, matmul, on_cpu
from lipogram.errors import IllConditioned, InvalidSetting, SingularSystem

POWER_ITERATIONS = 10
SETTLED = 0.05  # growth of an eigenvalue's estimate below which it is taken


@dataclass(frozen=True)
class RidgeSolution:
    """Weights of a ridge regression and how far to trust them.

    Attributes:
        weight: (d, k) float64.
        intercept: (k,) float64, zero when none was fitted.
        condition: estimate of the 2-norm condition number of ``A + γI``.
        jitter: what had to be added to γ to make the matrix positive definite; 0 as a rule.
    """

    weight: Float[Tensor, "d k"]
    intercept: Float[Tensor, " k"]
    condition: float
    jitter: float


@dataclass(frozen=True)
class RidgeSystem:
    """The sums of a least-squares problem with rows ``x_i``, targets ``y_i``, weights ``w_i``.

    Attributes:
        gram: ``A = Σ w x xᵀ`` (d, d), lower triangle valid.
        cross: ``C = Σ w x yᵀ`` (d, k).
        row_sum: ``s = Σ w x`` (d,).
        target_sum: ``m = Σ w y`` (k,).
        mass: ``Σ w``.
        energy: ``Σ w ‖y‖²``.
        rows: number of rows that entered.
        accumulate: precision in which the products were formed.
    """

    gram: Float[Tensor, "d d"]
    cross: Float[Tensor, "d k"]
    row_sum: Float[Tensor, " d"]
    target_sum: Float[Tensor, " k"]
    mass: float
    energy: float
    rows: int
    accumulate: Accumulate = "float64"

    def solve(
        self, gamma: float | int, *, fit_intercept: bool = False, allow_singular: bool = False
    ) -> RidgeSolution:
        """``W = (A + γI)⁻¹ C``; with an intercept, the same on centred sums.

        Args:
            gamma: ridge γ > 0, in units of the summed squared features.
            fit_intercept: also fit b, unpenalised.
            allow_singular: accept γ = 0.

        Raises:
            InvalidSetting: γ is not finite or not positive.
            SingularSystem: no Cholesky factorisation exists, even with jitter.
        """
        check_gamma(gamma, allow_singular)
        gamma = float(gamma)
        gram, cross = self.centred if fit_intercept else (self.gram, self.cross)
        factor, jitter = cholesky(gram, gamma)
        condition = condition_number(gram, gamma + jitter, factor)
        self._warn(gamma, condition)
        weight = cholesky_solve(factor, cross)
        intercept = torch.zeros_like(self.target_sum)
        if fit_intercept and self.mass > 0:
            intercept = (self.target_sum - weight.T @ self.row_sum) / self.mass
        return RidgeSolution(weight, intercept, condition, jitter)

    def loss(self, solution: RidgeSolution) -> float:
        """Weighted squared error of any weights on the rows behind these sums, from the sums alone.

        ``Σ w‖y‖² − 2 tr(WᵀC) + tr(WᵀAW)`` and the terms of the intercept.
        """
        w, b = solution.weight, solution.intercept
        quadratic = (w * symmetric_product(self.gram, w)).sum()
        linear = (w * self.cross).sum() + b @ self.target_sum - b @ (w.T @ self.row_sum)
        return float(self.energy - 2 * linear + quadratic + self.mass * (b @ b))

    @cached_property
    def centred(self) -> tuple[Tensor, Tensor]:
        """``A − s sᵀ/Σw`` and ``C − s mᵀ/Σw``."""
        if self.mass <= 0:
            return self.gram, self.cross
        gram = self.gram - torch.outer(self.row_sum, self.row_sum / self.mass)
        return gram, self.cross - torch.outer(self.row_sum, self.target_sum / self.mass)

    def _warn(self, gamma: float, condition: float) -> None:
        digits = condition * torch.finfo(getattr(torch, self.accumulate)).eps
        if digits > 0.1:
            warnings.warn(
                f"condition number {condition:.1e} with {self.accumulate} sums: the weights may "
                f"have no correct digit; raise gamma (now {gamma:g}) or accumulate in float64",
                IllConditioned,
                stacklevel=4,
            )
        d = self.gram.shape[0]
        mean_eigenvalue = float(self.gram.diagonal().sum()) / d
        if 0.5 < self.rows / d < 2 and gamma < 1e-3 * mean_eigenvalue:
            warnings.warn(
                f"{self.rows} rows for {d} features with gamma {gamma:g}: this is the "
                "interpolation (double descent) peak; a gamma of "
                f"{1e-2 * mean_eigenvalue:.2g} or more is safer",
                IllConditioned,
                stacklevel=4,
            )


def check_gamma(gamma: object, allow_singular: bool = False) -> None:
    """Raise InvalidSetting unless γ is a finite positive number (or 0 where allowed)."""
    if isinstance(gamma, (int, float, np.integer, np.floating)) and not isinstance(gamma, bool):
        number = float(gamma)
        if math.isfinite(number) and (number > 0 or (number == 0 and allow_singular)):
            return
    raise InvalidSetting(f"gamma is {gamma!r}, it must be a finite number above 0")


def cholesky(lower: Float[Tensor, "d d"], gamma: float) -> tuple[Tensor, float]:
    """Cholesky factor L (d, d) of ``A + (γ + jitter) I`` and the jitter that was needed.

    A factorisation that fails is tried again with jitter γ·10^k, k = 0..6, with a warning.

    Raises:
        SingularSystem: the last of them failed too, or the matrix is not finite.
    """
    if not bool(torch.isfinite(lower.diagonal()).all()):
        raise SingularSystem("the sums are not finite: features overflowed when they were squared")
    base = gamma if gamma > 0 else 1e-12 * max(float(lower.diagonal().max()), 1e-300)
    for jitter in (0.0, *(base * 10.0**k for k in range(7))):
        factor = _try_cholesky(lower, gamma + jitter)
        if factor is not None:
            if jitter:
                warnings.warn(
                    f"the matrix was not positive definite in float64: gamma {gamma:g} was raised "
                    f"by {jitter:g}",
                    IllConditioned,
                    stacklevel=4,
                )
            return factor, jitter
    raise SingularSystem(
        f"no Cholesky factorisation with gamma {gamma:g}, nor with jitter up to {base * 1e6:g}: "
        "raise gamma, or look for rows that were removed but never added"
    )


def _try_cholesky(lower: Tensor, ridge: float) -> Tensor | None:
    shifted = lower.clone()
    shifted.diagonal().add_(ridge)
    if on_cpu(shifted):
        # Row-major lower = column-major upper, so LAPACK factors it in place as UᵀU.
        _, failed = lapack.dpotrf(shifted.numpy().T, lower=0, overwrite_a=1, clean=0)
        factor = shifted
    else:
        factor, failed = torch.linalg.cholesky_ex(shifted)
    # Some LAPACKs report no failure on NaN, which reaches the diagonal of the factor.
    if int(failed) or not bool(torch.isfinite(factor.diagonal()).all()):
        return None
    return factor


def cholesky_solve(factor: Float[Tensor, "d d"], right: Float[Tensor, "d k"]) -> Tensor:
    """Solution X (d, k) of ``L Lᵀ X = B``; only the lower triangle of L is read."""
    if on_cpu(factor):
        solution, _ = lapack.dpotrs(factor.numpy().T, right.numpy(), lower=0)
        return torch.from_numpy(np.ascontiguousarray(solution))
    return torch.cholesky_solve(right, factor.tril())


def symmetric_product(lower: Float[Tensor, "d d"], right: Float[Tensor, "d k"]) -> Tensor:
    """``A B`` (d, k) for a symmetric A whose lower triangle is valid."""
    if on_cpu(lower):
        return torch.from_numpy(
            np.ascontiguousarray(blas.dsymm(1.0, lower.numpy().T, right.numpy()))
        )
    triangle = lower.tril()
    return triangle @ right + triangle.tril(-1).T @ right


def condition_number(
    lower: Float[Tensor, "d d"], ridge: float, factor: Float[Tensor, "d d"]
) -> float:
    """Estimate of the 2-norm condition number of ``A + ridge·I``.

    Power iterations give the largest eigenvalue, inverse iterations with the Cholesky factor the
    smallest, at most ten of each; both are estimates from inside, so the true number is at least
    this one.
    """

    def product(x: Tensor) -> Tensor:
        return symmetric_product(lower, x) + ridge * x

    start = torch.linspace(1.0, 2.0, lower.shape[0], dtype=torch.float64, device=lower.device)
    start = (start / start.norm())[:, None]
    return _largest(product, start) * _largest(lambda x: cholesky_solve(factor, x), start)


def _largest(product: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Largest eigenvalue of a symmetric product, until it grows by less than a twentieth."""
    last = 0.0
    for _ in range(POWER_ITERATIONS):
        x = product(x)
        norm = float(x.norm())
        if not norm > last * (1 + SETTLED):
            return max(norm, last)
        x, last = x / norm, norm
    return last


def eigen_path(
    system: RidgeSystem, *, fit_intercept: bool = False
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"], Float[Tensor, "d k"]]:
    """Eigenvalues λ (d,), eigenvectors V (d, d) and ``VᵀC``: every γ costs O(d k) from here."""
    gram, cross = system.centred if fit_intercept else (system.gram, system.cross)
    if on_cpu(gram):
        values, vectors, _ = lapack.dsyevd(gram.numpy().T, lower=0)
        lam, v = torch.from_numpy(values), torch.from_numpy(np.ascontiguousarray(vectors))
    else:
        lam, v = torch.linalg.eigh(gram)
    return lam.clamp(min=0), v, matmul(v.T.contiguous(), cross)
