"""Choosing the ridge γ from the sums alone: no row has to be kept.

Generalised cross-validation (Golub, Heath & Wahba 1979) serves unweighted rows. With class weights
its degrees of freedom no longer describe the held-out error, so weighted rules use fold statistics:
the sums of F disjoint folds give the exact held-out squared loss of each. A few rows of rare
classes then carry most of that loss, so its minimum is uncertain and as a rule too small: the
largest γ within one standard error (Breiman, Friedman, Olshen & Stone 1984, §3.4.3) classifies rare
classes better.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from lipogram.analytic.blas import matmul
from lipogram.analytic.solve import RidgeSolution, RidgeSystem, eigen_path

CANDIDATES = 33


def gamma_grid(system: RidgeSystem, candidates: int = CANDIDATES) -> NDArray[np.float64]:
    """Logarithmic grid 10⁻⁵ … 10³ times the mean eigenvalue of A, (candidates,) ascending."""
    mean_eigenvalue = float(system.gram.diagonal().sum()) / system.gram.shape[0]
    scale = mean_eigenvalue if mean_eigenvalue > 0 else 1.0
    return np.logspace(-5, 3, candidates) * scale


def gcv_scores(
    system: RidgeSystem, gammas: NDArray[np.float64], *, fit_intercept: bool = False
) -> NDArray[np.float64]:
    """``n·RSS(γ) / (n − df(γ))²`` for each γ, (len(gammas),).

    With ``A = VΛVᵀ`` and ``Z = VᵀC``:
    ``RSS = Σ‖y‖² − Σ_j ‖Z_j‖² (λ_j + 2γ)/(λ_j + γ)²`` and ``df = Σ_j λ_j/(λ_j + γ)``.
    A γ whose df reaches n scores infinity.
    """
    values, _, projected = eigen_path(system, fit_intercept=fit_intercept)
    power = projected.square().sum(1)
    energy, extra = system.energy, 0.0
    if fit_intercept and system.mass > 0:
        energy -= float(system.target_sum.square().sum()) / system.mass
        extra = 1.0
    scores = np.empty(len(gammas))
    for i, gamma in enumerate(gammas):
        shifted = values + gamma
        residual = max(energy - float((power * (values + 2 * gamma) / shifted.square()).sum()), 0.0)
        free = system.rows - float((values / shifted).sum()) - extra
        scores[i] = system.rows * residual / free**2 if free > 0 else np.inf
    return scores


def fold_losses(
    train: Iterable[RidgeSystem],
    held_out: Iterable[RidgeSystem],
    gammas: NDArray[np.float64],
    *,
    fit_intercept: bool = False,
) -> NDArray[np.float64]:
    """Held-out weighted squared loss of each fold for each γ, (F, len(gammas)).

    Args:
        train: the sums without fold f, for each f.
        held_out: the sums of fold f alone, weighted alike.
        gammas: candidates.
        fit_intercept: whether the model has an intercept.
    """
    losses = []
    for rest, fold in zip(train, held_out, strict=True):
        values, vectors, projected = eigen_path(rest, fit_intercept=fit_intercept)
        row = np.empty(len(gammas))
        for i, gamma in enumerate(gammas):
            weight = matmul(vectors, projected / (values + gamma)[:, None])
            intercept = torch.zeros_like(rest.target_sum)
            if fit_intercept and rest.mass > 0:
                intercept = (rest.target_sum - weight.T @ rest.row_sum) / rest.mass
            row[i] = fold.loss(RidgeSolution(weight, intercept, float("nan"), 0.0))
        losses.append(row)
    return np.stack(losses)


def largest_within_one_error(losses: NDArray[np.float64]) -> int:
    """Last candidate whose summed loss is within one standard error of the smallest.

    Args:
        losses: (F, candidates), F ≥ 2, candidates from small γ to large.
    """
    total = losses.sum(0)
    best = int(np.argmin(total))
    error = losses[:, best].std(ddof=1) * np.sqrt(len(losses))
    return int(np.flatnonzero(total <= total[best] + error)[-1])
