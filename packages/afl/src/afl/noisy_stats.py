"""Statistics with noise: what a client may publish whoever looks at them.

Noise lies on ``(half of G, B·Q, B²·counts)`` and hides one row, or all rows of the client; see
:mod:`afl.privacy_unit` for what each means and how far it moves that vector.

Noise drawn in floating point leaks through its last bits (Mironov, CCS 2012); sums that are rounded
to a grid afterwards, as totals are, blur them, which is no proof. The numbers come from the stream
of a cipher (ChaCha20) whose key is drawn from the system's secure source. Noise of whole numbers,
which has no such bits, is in :mod:`afl.noise_shares`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from afl.claims import claim_of
from afl.client_stats import ClientStats
from afl.joint_vector import check_unweighted, clip_of, from_joint_vector, joint_vector
from afl.masking import mask
from afl.privacy_unit import Unit, bounded, moves
from lipogram.analytic.labels import Label
from lipogram.discrete_gaussian import noise_key
from lipogram.gaussian_mechanism import noise_std


def release(
    stats: ClientStats,
    *,
    epsilon: float,
    delta: float,
    classes: Sequence[Label],
    unit: Unit = "row",
    bound: float | None = None,
    seed: int | None = None,
) -> ClientStats:
    """Statistics that are (ε, δ)-differentially private for each row, or for the client.

    With the unit client, a message with the client's rows is (ε, δ)-close to one without any; that
    it sent a message stays visible. Sums longer than the bound are scaled down first.

    The noisy counts become whole numbers of at least 0; that and everything computed from the
    result costs nothing more. Releasing the same rows again does: see
    :class:`lipogram.gaussian_mechanism.Spent` and :mod:`afl.spent_file`.

    Args:
        stats: pooled, with a clip, of rows without weights.
        epsilon: ε > 0.
        delta: δ, far below one over the number of rows, or of clients.
        classes: labels that everybody knows; which of them occur here stays private.
        unit: what is hidden.
        bound: C, largest length of a client's sums; for the unit client.
        seed: for tests; None draws one from the system's secure source.

    Raises:
        InvalidSetting: no clip, weights, one second moment a class, an ε or δ outside its range, or
            a bound that does not fit the unit.
        IncompatibleFeatures: a class that is not in the list.
    """
    sensitivity = moves(unit, clip_of(stats), bound)[unit]
    sigma = noise_std(epsilon, delta, sensitivity)
    check_unweighted(stats)
    held = stats if bound is None else bounded(stats, bound)
    noisy = with_noise(held, sigma, classes, noise_key(seed))
    noisy.noise = claim_of(unit, epsilon, delta, sigma, bound=bound)
    return noisy


def with_noise(
    stats: ClientStats, sigma: float, classes: Sequence[Label], key: bytes
) -> ClientStats:
    """Statistics with N(0, σ²) on ``(half of G, B·Q, B²·counts)``; what that is worth is not said.

    Args:
        stats: see :func:`release`; weighted rows count by their weights.
        sigma: σ.
        classes: labels of the result.
        key: 32 bytes that are used once, see
            :func:`lipogram.discrete_gaussian.noise_key`.

    Raises:
        InvalidSetting, IncompatibleFeatures: see :func:`release`.
    """
    vector = joint_vector(stats, classes)
    return from_joint_vector(
        vector + sigma * standard_normals(key, vector.size),
        classes,
        n_features=stats.n_features,
        clip=clip_of(stats),
        space=stats.space,
        feature_map=stats.feature_map,
    )


def standard_normals(key: bytes, size: int) -> NDArray[np.float64]:
    """(size,) numbers of N(0, 1): the normal quantiles of the cipher's uniform stream."""
    uniform = ((mask(key, size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    quantiles: NDArray[np.float64] = ndtri(uniform)
    return quantiles
