"""The paper's own uploads, and its law for adding them up.

A client of the paper sends ``C_k = X_kᵀX_k + γI`` and ``W_k = C_k⁻¹ X_kᵀY_k`` (He et al., AFL, CVPR
2025). ``C_k W_k`` is the cross term again, so two uploads add up like sums, and the pairwise law is
the mean of the heads weighted by their C. The clients' γ pile up to Kγ, which the paper takes out
at the end ("regularisation intermediary").
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from afl.errors import RejectedUpload
from afl.head import solve_system
from lipogram.analytic.settings import positive
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import IllConditioned, InvalidSetting

Matrix = NDArray[np.float64]


def sums_of_upload(weight: ArrayLike, covariance: ArrayLike, gamma: float) -> tuple[Matrix, Matrix]:
    """``G = C − γI`` (d, d) and ``Q = C W`` (d, k) of one upload, checked.

    Args:
        weight: W (d, k).
        covariance: C (d, d).
        gamma: the client's γ ≥ 0.

    Raises:
        RejectedUpload: shapes that do not fit, NaN or infinity, a C that is not symmetric, or a G
            that is not positive semi-definite.
    """
    w, c = np.asarray(weight, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or w.ndim != 2 or w.shape[0] != c.shape[0]:
        raise RejectedUpload(f"a head {w.shape} and a matrix {c.shape} are no upload")
    if not (np.isfinite(w).all() and np.isfinite(c).all()):
        raise RejectedUpload("the upload holds NaN or infinity")
    scale = float(np.abs(c).max(initial=0.0))
    skew = np.abs(c - c.T)
    if skew.max(initial=0.0) > 1e-8 * scale:
        i, j = np.unravel_index(int(skew.argmax()), skew.shape)
        raise RejectedUpload(
            f"the matrix is not symmetric: entry ({i}, {j}) is {c[i, j]:g}, ({j}, {i}) is "
            f"{c[j, i]:g}"
        )
    gram = (c + c.T) / 2 - gamma * np.eye(len(c))
    least = float(np.linalg.eigvalsh(gram)[0]) if len(c) else 0.0
    if least < -1e-8 * scale:
        raise RejectedUpload(
            f"the matrix less gamma has an eigenvalue {least:g}: it is no second moment, or gamma "
            f"is not {gamma:g}"
        )
    return gram, c @ w


def aggregate_aa(
    weights: Sequence[ArrayLike],
    covariances: Sequence[ArrayLike],
    gamma: float,
    *,
    clean: bool | str = True,
) -> Tensor:
    """The joint head (d, k) float64 of the paper's uploads, through their sums.

    Args:
        weights: W_k (d, k) of each client.
        covariances: C_k (d, d).
        gamma: the γ that each client added, 0 or more.
        clean: True takes Kγ out, ``"joint"`` leaves one γ, as pooled ridge regression has it, False
            leaves all.

    Raises:
        RejectedUpload: see :func:`sums_of_upload`; the client's position is named.
        InvalidSetting: no upload, unequal numbers of heads and matrices, or an unknown ``clean``.
    """
    if clean not in (True, False, "joint"):
        raise InvalidSetting(f'clean is {clean!r}, it must be True, False or "joint"')
    if not weights or len(weights) != len(covariances):
        raise InvalidSetting(f"{len(weights)} heads and {len(covariances)} matrices")
    if gamma != 0:
        positive("gamma", gamma)
    gram: Matrix | float = 0.0
    cross: Matrix | float = 0.0
    for number, (w, c) in enumerate(zip(weights, covariances, strict=True)):
        try:
            g, q = sums_of_upload(w, c, gamma)
        except RejectedUpload as error:
            raise RejectedUpload(f"upload {number}: {error}") from None
        if np.shape(gram) not in ((), g.shape) or np.shape(cross) not in ((), q.shape):
            raise RejectedUpload(f"upload {number} has another shape than those before it")
        gram, cross = gram + g, cross + q
    kept = {True: 0.0, "joint": gamma, False: gamma * len(weights)}[clean]
    return _solved(torch.from_numpy(np.asarray(gram)), torch.from_numpy(np.asarray(cross)), kept)


def pairwise_law(weights: Sequence[Matrix], covariances: Sequence[Matrix]) -> Matrix:
    """The published fold over clients, two at a time, with its inverses.

    ``W ← V_u W + V_v W_k`` with ``V_u = I − R_u C_v + R_u C_v (C_u + C_v)⁻¹ C_v`` and its mirror
    image. It is what the sums are compared with: the same head at some 22 d³ operations a client.

    Args:
        weights: W_k (d, k).
        covariances: C_k (d, d), regular.
    """
    weight, c_u = weights[0], covariances[0]
    r_u = np.linalg.inv(c_u)
    eye = np.eye(len(c_u))
    for w_v, c_v in zip(weights[1:], covariances[1:], strict=True):
        r_v, both = np.linalg.inv(c_v), np.linalg.inv(c_u + c_v)
        rc_u, rc_v = r_u @ c_v, r_v @ c_u
        mine = eye - rc_u + rc_u @ both @ c_v
        theirs = eye - rc_v + rc_v @ both @ c_u
        weight = mine @ weight + theirs @ w_v
        c_u, r_u = c_u + c_v, both
    return weight


def _solved(gram: Tensor, cross: Tensor, gamma: float) -> Tensor:
    d, k = cross.shape
    zeros = torch.zeros(k, dtype=torch.float64)
    system = RidgeSystem(
        gram, cross, torch.zeros(d, dtype=torch.float64), zeros, 0.0, 0.0, rows=4 * d
    )
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        weight, *_ = solve_system(system, gamma)
    for each in raised:
        warnings.warn(str(each.message), IllConditioned, stacklevel=3)
    return weight
