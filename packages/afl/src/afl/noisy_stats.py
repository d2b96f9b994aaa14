"""Statistics with noise: what a client may publish whoever looks at them.

One row with ‖z‖ ≤ B adds ``z zᵀ`` to G, z to one column of Q, and 1 to one count. As one vector
``(half of G, B·Q, B²·counts)`` that moves it by ``√(B⁴ + B²·B² + B⁴) = √3·B²`` at most, since half
of a symmetric matrix, each entry once, is no longer than the whole. Gaussian noise of that
sensitivity hides each row (add or remove one).

Noise drawn in floating point leaks through its last bits (Mironov, CCS 2012); sums that are rounded
to a grid afterwards, as totals are, blur them, which is no proof. Seeds come from the system's
secure source.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

import numpy as np
import torch

from afl.client_stats import ClientStats
from afl.gaussian_mechanism import noise_std
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
    if stats.per_class or (stats.mass != stats.counts).any() or stats.noise is not None:
        raise InvalidSetting("noise is for pooled statistics of unweighted rows, and once")
    labels = list(classes)
    if outside := [label for label in stats.classes if label not in labels]:
        raise IncompatibleFeatures(f"class {outside[0]!r} is not in the list of classes")
    clip, d, k = stats.clip, stats.n_features, len(labels)
    sigma = noise_std(epsilon, delta, sensitivity_of(clip))
    rng = np.random.Generator(np.random.PCG64(secrets.randbits(256) if seed is None else seed))
    sums, counts = np.zeros((k, d)), np.zeros(k)
    where = [labels.index(label) for label in stats.classes]
    sums[where], counts[where] = stats.sums.cpu().numpy(), stats.counts
    gram = stats.gram_packed.numpy()
    counted = np.rint(counts + rng.normal(0.0, sigma / clip**2, k)).clip(min=0)
    return ClientStats.from_parts(
        torch.from_numpy(gram + rng.normal(0.0, sigma, gram.shape)),
        torch.from_numpy(sums + rng.normal(0.0, sigma / clip, sums.shape)).T,
        counted.astype(np.int64),
        labels,
        n_features=d,
        space=stats.space,
        clip=clip,
        feature_map=stats.feature_map,
        noise={"unit": "row", "epsilon": epsilon, "delta": delta, "sigma": sigma},
    )
