"""Noise and random choices from the operating system's secure source.

A cipher's stream under a fresh key from that source gives the random words
(:class:`~lipogram.discrete_gaussian.Stream`); no seed of NumPy or PyTorch has a part in it, so
there is none that regenerates the noise. ChaCha20 under an unknown key is not told from uniform
bits by any known means, and reading it is some ten times as fast as asking the system each time.

What is made of the words in floating point must be released on a grid only: the bits below it would
tell which sums a noisy value can come from (Mironov, CCS 2012). :func:`add_gaussian` does so;
whoever uses :func:`gamma_ball` has to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.settings import positive
from lipogram.discrete_gaussian import Stream, noise_key
from lipogram.errors import InvalidSetting, NotFinite

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.float64]
CHUNK = 1 << 16  # numbers at a time: more would leave the processor's cache
GRID_BITS = 24  # steps of the grid in a standard deviation, as a power of two
REACH = 2.0**27  # standard deviations beyond which a sum leaves the grid's exact numbers


def secure_stream(seed: int | None = None) -> Stream:
    """Random words under a fresh key of the system's secure source; under a seed's for a study."""
    return Stream(noise_key(seed))


def uniforms(stream: Stream, size: int) -> Numbers:
    """(size,) odd multiples of 2⁻⁵³ between 0 and 1, all 2⁵² equally likely.

    Neither end is among them, and none is rounded: an even multiple more, and the last would be 1.
    """
    return ((stream.words(size) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gamma_ball(stream: Stream, size: int, epsilon: float) -> Numbers:
    """(size,) noise of density ∝ exp(−ε‖x‖).

    Its direction is a normalised Gaussian; its length is Gamma(size, 1/ε), the sum of as many
    exponential draws.
    """
    from scipy.special import ndtri

    normal = ndtri(uniforms(stream, size))
    length = -np.log(uniforms(stream, size)).sum() / epsilon
    return normal * (length / np.linalg.norm(normal))


def bernoulli(stream: Stream, size: int, probability: float) -> NDArray[np.bool_]:
    """(size,) independent coins that are True with a probability, rounded down to 2⁻⁶⁴.

    Raises:
        InvalidSetting: a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise InvalidSetting(f"the probability is {probability!r}, it must lie in [0, 1]")
    limit = int(Fraction(probability) * 2**64)
    if limit == 2**64:
        return np.ones(size, dtype=bool)
    return stream.words(size) < np.uint64(limit)


def grid_step(std: float) -> float:
    """The power of two from 2⁻²⁵ to 2⁻²⁴ standard deviations on which noisy sums lie."""
    return 2.0 ** (math.frexp(std)[1] - 1 - GRID_BITS)


def gaussian(stream: Stream, size: int, std: float, step: float | None = None) -> Numbers:
    """(size,) Gaussian noise, rounded to multiples of a step, in float64.

    The quantile function at uniform numbers that have their digits in both tails: hundreds of them
    fall between two neighbours of the grid wherever |x| is below 13 standard deviations, and the
    chance of what is cut off beyond is below 2⁻¹²⁰.

    Args:
        stream: of random words.
        size: how many.
        std: the standard deviation.
        step: None for :func:`grid_step`.

    Raises:
        InvalidSetting: a standard deviation that is not finite and above 0.
    """
    from scipy.special import ndtri

    step = step or grid_step(positive("std", std))
    found = np.empty(size)
    for start in range(0, size, CHUNK):
        words = stream.words(min(CHUNK, size - start))
        tail = (words >> np.uint64(1)).astype(np.float64)
        if (few := np.flatnonzero(words < np.uint64(2**32))).size:  # their digits run out
            tail[few] += stream.words(few.size).astype(np.float64) * 2.0**-64
            tail[few] = np.maximum(tail[few], 2.0**-64)
        signs = np.where(words & np.uint64(1), 1.0, -1.0)
        found[start : start + CHUNK] = signs * np.rint(ndtri(tail * 2.0**-64) * (std / step)) * step
    return found


def add_gaussian(
    sums: Sequence[Tensor], std: float, sensitivity: float, *, stream: Stream | None = None
) -> list[Tensor]:
    """Sums with Gaussian noise, on a grid that is the same whatever the sums are.

    Each sum is rounded to the grid first. That moves two neighbours' sums apart by at most √d
    steps, d numbers in all, and the noise is larger by as much: for a million numbers by at most
    6·10⁻⁵ std/sensitivity of itself.

    Args:
        sums: floating-point tensors of any shape, on any device, together one vector; kept.
        std: the standard deviation for a vector of this sensitivity.
        sensitivity: the largest L2 distance between the vectors of two neighbouring data sets.
        stream: None, as for anything that is released, for one under a fresh key.

    Returns:
        The noisy sums, each with its tensor's shape, dtype and device.

    Raises:
        InvalidSetting: a standard deviation or sensitivity that is not finite and above 0.
        NotFinite: a sum that is NaN, infinite, or too far beyond the noise for its grid.
    """
    import torch

    stream = stream or secure_stream()
    step = grid_step(positive("std", std))
    apart = step * math.sqrt(sum(each.numel() for each in sums))
    widened = std * (1 + apart / positive("sensitivity", sensitivity))
    exact = [each.detach().to("cpu", torch.float64) for each in sums]
    for each in exact:
        if not bool((each.abs() < REACH * std).all()):  # NaN is not below
            raise NotFinite(
                "a sum to which noise should be added is NaN, infinite or beyond "
                f"{REACH:g} standard deviations of the noise: clip what goes into it"
            )
    noisy = []
    for given, each in zip(sums, exact, strict=True):
        noise = torch.from_numpy(gaussian(stream, each.numel(), widened, step)).view(each.shape)
        noisy.append(((each / step).round() * step + noise).to(given.device, given.dtype))
    return noisy
