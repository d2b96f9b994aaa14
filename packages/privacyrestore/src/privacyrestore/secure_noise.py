"""Noise from the operating system's secure source, and the public grid on which it is released.

A cipher's stream under a fresh key from that source gives the random words (`lipogram`'s
:class:`~lipogram.discrete_gaussian.Stream`); no seed of NumPy or PyTorch has a part in it. Numbers
that are released in floating point can tell by their lowest bits what was added to them (Mironov,
CCS 2012), so they are clipped to a public box and rounded to a public grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipogram.discrete_gaussian import Stream, noise_key

Numbers = NDArray[np.float64]
MOST_STEPS = 2**23
"""Steps on each side of zero: multiples of a power of two up to there are exact in float32."""


def secure_stream(seed: int | None = None) -> Stream:
    """Random words under a fresh key of the system's secure source; under a seed's for a study."""
    return Stream(noise_key(seed))


def uniforms(stream: Stream, size: int) -> Numbers:
    """(size,) numbers strictly between 0 and 1, each of 2⁵³ equally likely ones."""
    return ((stream.words(size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def gamma_ball(stream: Stream, size: int, epsilon: float) -> Numbers:
    """(size,) noise of density ∝ exp(−ε‖x‖).

    Its direction is a normalised Gaussian; its length is Gamma(size, 1/ε), the sum of as many
    exponential draws.
    """
    from scipy.special import ndtri

    normal = ndtri(uniforms(stream, size))
    length = -np.log(uniforms(stream, size)).sum() / epsilon
    return normal * (length / np.linalg.norm(normal))


@dataclass(frozen=True)
class Grid:
    """Public multiples of a step, up to a public bound.

    Attributes:
        step: a power of two.
        half: the largest multiple.
    """

    step: float
    half: int

    @classmethod
    def fitting(cls, size: int, epsilon: float) -> Grid:
        """For a signal of length ≤ 1 in noise of :func:`gamma_ball`.

        The step is at most a thousandth of the noise's expected length; the bound is passed less
        often than once in 10¹⁵ draws. With so little noise that both cannot be had in float32, the
        step is coarser.
        """
        expected = size / epsilon
        bound = 1 + expected + (12 * math.sqrt(size) + 40) / epsilon
        exponent = math.floor(math.log2(1e-3 * expected))
        exponent = max(exponent, math.ceil(math.log2(bound / MOST_STEPS)))
        step = 2.0**exponent
        return cls(step, math.ceil(bound / step))

    def rounded(self, numbers: Numbers) -> Numbers:
        """Clipped to the box and rounded to the grid."""
        steps = np.clip(np.rint(numbers / self.step), -self.half, self.half)
        return np.asarray(steps * self.step, dtype=np.float64)
