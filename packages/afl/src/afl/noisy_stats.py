"""Statistics with noise: what a client may publish whoever looks at them.

One row with ‖z‖ ≤ B adds ``z zᵀ`` to G, z to one column of Q, and 1 to one count. As one vector
``(half of G, B·Q, B²·counts)`` that moves it by ``√(B⁴ + B²·B² + B⁴) = √3·B²`` at most, since half
of a symmetric matrix, each entry once, is no longer than the whole. Gaussian noise of that
sensitivity hides each row (add or remove one).

Noise drawn in floating point leaks through its last bits (Mironov, CCS 2012); sums that are rounded
to a grid afterwards, as totals are, blur them, which is no proof. The numbers come from the stream
of a cipher (ChaCha20) whose key is drawn from the system's secure source.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from afl.client_stats import ClientStats
from afl.gaussian_mechanism import noise_std
from afl.masking import mask
from lipogram.analytic.labels import Label
from lipogram.errors import IncompatibleFeatures, InvalidSetting


def sensitivity_of(clip: float) -> float:
    """Most by which one row of norm ``clip`` or less moves ``(half of G, B·Q, B²·counts)``."""
    return math.sqrt(3.0) * clip**2


def release(
    stats: ClientStats,
    *,
    epsilon: float,
    delta: float,
    classes: Sequence[Label],
    seed: int | None = None,
) -> ClientStats:
    """Statistics that are (ε, δ)-differentially private for each row.

    The noisy counts become whole numbers of at least 0; that and everything computed from the
    result costs nothing more. Releasing the same rows again does: see
    :class:`afl.gaussian_mechanism.Spent`.

    Args:
        stats: pooled, with a clip, of rows without weights.
        epsilon: ε > 0.
        delta: δ, far below one over the number of rows.
        classes: labels that everybody knows; which of them occur here stays private.
        seed: for tests; None draws one from the system's secure source.

    Raises:
        InvalidSetting: no clip, weights, one second moment a class, or an ε or δ outside its range.
        IncompatibleFeatures: a class that is not in the list.
    """
    if stats.clip is None:
        raise InvalidSetting("noise hides rows of a known size: make the statistics with a clip")
    sigma = noise_std(epsilon, delta, sensitivity_of(stats.clip))
    noisy = with_noise(stats, sigma, classes, noise_key(seed))
    noisy.noise = {"unit": "row", "epsilon": epsilon, "delta": delta, "sigma": sigma}
    return noisy


def with_noise(
    stats: ClientStats, sigma: float, classes: Sequence[Label], key: bytes
) -> ClientStats:
    """Statistics with N(0, σ²) on ``(half of G, B·Q, B²·counts)``; what that is worth is not said.

    Args:
        stats: see :func:`release`.
        sigma: σ.
        classes: labels of the result.
        key: 32 bytes that are used once, see :func:`noise_key`.

    Raises:
        InvalidSetting, IncompatibleFeatures: see :func:`release`.
    """
    if stats.clip is None:
        raise InvalidSetting("noise hides rows of a known size: make the statistics with a clip")
    if stats.per_class or (stats.mass != stats.counts).any() or stats.noise is not None:
        raise InvalidSetting("noise is for pooled statistics of unweighted rows, and once")
    labels = list(classes)
    if outside := [label for label in stats.classes if label not in labels]:
        raise IncompatibleFeatures(f"class {outside[0]!r} is not in the list of classes")
    clip, d, k = stats.clip, stats.n_features, len(labels)
    sums, counts = np.zeros((k, d)), np.zeros(k)
    where = [labels.index(label) for label in stats.classes]
    sums[where], counts[where] = stats.sums.cpu().numpy(), stats.counts
    gram = stats.gram_packed.numpy()
    drawn = sigma * standard_normals(key, gram.size + sums.size + k)
    of_gram, of_sums, of_counts = np.split(drawn, [gram.size, gram.size + sums.size])
    counted = np.rint(counts + of_counts / clip**2).clip(min=0)
    return ClientStats.from_parts(
        torch.from_numpy(gram + of_gram),
        torch.from_numpy(sums + of_sums.reshape(k, d) / clip).T,
        counted.astype(np.int64),
        labels,
        n_features=d,
        space=stats.space,
        clip=clip,
        feature_map=stats.feature_map,
    )


def noise_key(seed: int | None = None) -> bytes:
    """32 bytes from the system's secure source, or, for tests, from a seed."""
    if seed is None:
        return secrets.token_bytes(32)
    return hashlib.sha256(f"seed {seed}".encode()).digest()


def standard_normals(key: bytes, size: int) -> NDArray[np.float64]:
    """(size,) numbers of N(0, 1): the normal quantiles of the cipher's uniform stream."""
    uniform = ((mask(key, size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    quantiles: NDArray[np.float64] = ndtri(uniform)
    return quantiles
