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

from afl.claims import claim_of
from afl.client_stats import ClientStats
from afl.joint_vector import check_unweighted, clip_of
from afl.noisy_stats import standard_normals, with_noise
from afl.privacy_unit import Unit, moves
from lipogram.analytic.labels import Label
from lipogram.discrete_gaussian import noise_key
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import mu_of

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
    unit: Unit = "row",
    bound: float | None = None,
    seed: int | None = None,
) -> tuple[ClientStats, float]:
    """Noisy statistics and the γ to solve them with; together (ε, δ)-private for each unit.

    With probability ``1 − ρ`` the noisy second moment plus γ is positive definite.

    Args:
        stats: pooled, with a clip: one client's, or a trusted server's total. To hide rows, they
            have no weights; to hide clients, it is a sum of :func:`afl.privacy_unit.bounded` ones.
        epsilon: ε > 0.
        delta: δ, far below one over the number of rows, or of clients.
        classes: labels that everybody knows.
        rho: ρ, chance that γ is too small.
        unit: what is hidden, a row or a client.
        bound: C that each client's sums were scaled down to; for the unit client.
        seed: for tests; None draws one from the system's secure source.

    Raises:
        InvalidSetting, IncompatibleFeatures: see :func:`afl.noisy_stats.release`.
    """
    clip = clip_of(stats)
    sensitivity = moves(unit, clip, bound)[unit]
    if unit == "row":
        check_unweighted(stats)
    mu = mu_of(epsilon, delta)
    of_eigenvalue, of_sums = (
        mu * math.sqrt(EIGENVALUE_SHARE),
        mu * math.sqrt(1 - EIGENVALUE_SHARE),
    )
    key = noise_key(seed)
    of_key = hashlib.sha256(b"eigenvalue" + key).digest()
    # By Weyl, one row moves the smallest eigenvalue by clip² at most, one client by the norm of its
    # second moment: √2 times that of the half of it.
    spread = (clip**2 if bound is None else math.sqrt(2.0) * bound) / of_eigenvalue
    least = float(torch.linalg.eigvalsh(stats.reweight().gram)[0])
    drawn = float(standard_normals(of_key, 1)[0])
    lower = max(0.0, least + spread * (drawn - float(ndtri(1 - rho / 2))))
    sigma = sensitivity / of_sums
    noisy = with_noise(stats, sigma, classes, key)
    noisy.noise = claim_of(unit, epsilon, delta, sigma, bound=bound)
    return noisy, max(0.0, noise_norm(sigma, stats.n_features, rho / 2) - lower)
