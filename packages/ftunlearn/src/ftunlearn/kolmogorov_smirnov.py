"""The two-sample Kolmogorov-Smirnov test."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lipogram.errors import InvalidProbes

EXACT_UP_TO = 1_000_000  # cells of the table of paths, about half a second


def ks_two_sample(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Are two samples from one distribution?

    D = max |F_a − F_b| over the empirical distributions. The p value is exact up to a million pairs
    of sample sizes (for samples without ties; with them it is an upper bound), by the proportion of
    lattice paths that leave the band |i/n − j/m| < D (Hodges 1958); beyond that it is Kolmogorov's
    limit 2·Σ_k (−1)^(k−1)·exp(−2k²·D²·nm/(n+m)).

    Args:
        a: (n,) numbers.
        b: (m,) numbers.

    Returns:
        D and the two-sided p value.

    Raises:
        InvalidProbes: an empty sample, or a value that is NaN.
    """
    first = np.sort(np.asarray(a, dtype=np.float64).ravel())
    second = np.sort(np.asarray(b, dtype=np.float64).ravel())
    n, m = len(first), len(second)
    if not n or not m or np.isnan(first).any() or np.isnan(second).any():
        raise InvalidProbes("the test needs two samples of numbers, none of them NaN")
    values = np.concatenate([first, second])
    below_a = np.searchsorted(first, values, side="right")
    below_b = np.searchsorted(second, values, side="right")
    band = int(np.abs(below_a * m - below_b * n).max())  # n·m·D, exactly
    statistic = band / (n * m)
    if band == 0:
        return 0.0, 1.0
    p = (
        _exact(n, m, band)
        if n * m <= EXACT_UP_TO
        else _limit(statistic * math.sqrt(n * m / (n + m)))
    )
    return statistic, min(1.0, max(0.0, p))


def _exact(n: int, m: int, band: int) -> float:
    """Probability that a random path from (0, 0) to (n, m) touches |i·m − j·n| ≥ band.

    By columns: outside[j] is the share of the paths to (i, j) that touched it. The last step to
    (i, j) came from (i−1, j) with probability i/(i+j).
    """
    outside = [float(j * n >= band) for j in range(m + 1)]
    for j in range(1, m + 1):
        outside[j] = max(outside[j], outside[j - 1])
    for i in range(1, n + 1):
        outside[0] = 1.0 if i * m >= band else outside[0]
        for j in range(1, m + 1):
            if abs(i * m - j * n) >= band:
                outside[j] = 1.0
            else:
                outside[j] = (i * outside[j] + j * outside[j - 1]) / (i + j)
    return outside[m]


def _limit(x: float) -> float:
    if x < 0.2:  # 1 − 3e-13, where the alternating sum would need many terms
        return 1.0
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
