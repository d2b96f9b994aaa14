"""A private ridge head whose γ adapts to how well the features are spread.

The idea of AdaSSP (Wang, "Revisiting differentially private linear regression", UAI 2018, algorithm
2): release the smallest eigenvalue of G, then G and Q, and regularise by as much as the noise may
have bent G beyond that eigenvalue. The constants here are derived in ``docs/adassp.md``, for exact
Gaussian accounting and a sharper bound on the noise, and are smaller than the published ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from scipy.special import ndtri

from afl.client_stats import ClientStats
from afl.gaussian_mechanism import mu_of
from afl.noisy_stats import noise_key, sensitivity_of, standard_normals, with_noise
from lipogram.analytic.labels import Label
from lipogram.errors import InvalidSetting

EIGENVALUE_SHARE = 0.1  # of μ²


def noise_norm(sigma: float, width: int, rho: float) -> float:
    """What the noise subtracts from an eigenvalue at most, with probability ``1 − ρ``.

    ``2σ(√d + √ln(1/ρ))`` for a symmetric matrix with entries N(0, σ²), independent on and above
    the diagonal.

    Args:
        sigma: σ of an entry.
        width: d.
        rho: ρ in (0, 1).
    """
    if not 0 < rho < 1:
        raise InvalidSetting(f"rho is {rho!r}, it must lie between 0 and 1")
    return 2.0 * sigma * (math.sqrt(width) + math.sqrt(math.log(1.0 / rho)))


def adassp(
    stats: ClientStats,
    *,
    epsilon: float,
    delta: float,
    classes: Sequence[Label],
    rho: float = 0.05,
    seed: int | None = None,
) -> tuple[ClientStats, float]:
    """Noisy statistics and the γ to solve them with; together (ε, δ)-private for each row.

    With probability ``1 − ρ`` the noisy second moment plus γ is positive definite.

    Args:
        stats: pooled, with a clip, unweighted: one client's, or a trusted server's total.
        epsilon: ε > 0.
        delta: δ, far below one over the number of rows.
        classes: labels that everybody knows.
        rho: ρ, chance that γ is too small.
        seed: for tests; None draws one from the system's secure source.

    Raises:
        InvalidSetting, IncompatibleFeatures: see :func:`afl.noisy_stats.release`.
    """
    if stats.clip is None:
        raise InvalidSetting("noise hides rows of a known size: make the statistics with a clip")
    mu = mu_of(epsilon, delta)
    of_eigenvalue, of_sums = (
        mu * math.sqrt(EIGENVALUE_SHARE),
        mu * math.sqrt(1 - EIGENVALUE_SHARE),
    )
    key = noise_key(seed)
    of_key = hashlib.sha256(b"eigenvalue" + key).digest()
    # One row changes the smallest eigenvalue by at most clip² (Weyl).
    spread = stats.clip**2 / of_eigenvalue
    least = float(torch.linalg.eigvalsh(stats.reweight().gram)[0])
    drawn = float(standard_normals(of_key, 1)[0])
    lower = max(0.0, least + spread * (drawn - float(ndtri(1 - rho / 2))))
    sigma = sensitivity_of(stats.clip) / of_sums
    noisy = with_noise(stats, sigma, classes, key)
    noisy.noise = {"unit": "row", "epsilon": epsilon, "delta": delta, "sigma": sigma}
    return noisy, max(0.0, noise_norm(sigma, stats.n_features, rho / 2) - lower)
