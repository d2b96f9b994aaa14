"""The public grid on which noisy numbers are released.

Numbers that are released in floating point can tell by their lowest bits what was added to them
(Mironov, CCS 2012), so they are clipped to a public box and rounded to a public grid. Both are
functions of the noisy numbers alone and cost nothing. Steps are powers of two and few enough for
float32, so what is sent is what was rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import mu_of, mu_on_grid

Numbers = NDArray[np.float64]
MOST_STEPS = 2**23
"""Steps on each side of zero for noise that may be rounded."""
EXACT_STEPS = 2**24 - 1
"""Steps on each side of zero that float32 holds exactly."""
FINEST = 2.0**-22
"""The least step for Gaussian noise: a signal of length 1 has a quarter of the exact steps."""
MOST_NUMBERS = 2**14
"""Coordinates with Gaussian noise, for which several releases are counted."""
LEAST_SIGMA, MOST_SIGMA = 2**17, 2**19
"""Steps to a σ: the most leave 24 σ beside the signal; with the least, the steps hardly count."""


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
        """For a signal of length ≤ 1 in noise of density ∝ exp(−ε‖x‖).

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
        return self.at(np.rint(numbers / self.step))

    def at(self, steps: Numbers) -> Numbers:
        """The numbers at whole multiples of the step, clipped to the box."""
        return np.asarray(np.clip(steps, -self.half, self.half) * self.step, dtype=np.float64)


def gaussian_grid(size: int, distance: float, epsilon: float, delta: float) -> tuple[Grid, int]:
    """The grid and the least whole σ, in its steps, of Gaussian noise for (ε, δ).

    Two signals at that distance are, rounded, at most ``distance/step + √size`` steps apart; the
    noise is calibrated to that, with the room that noise on whole numbers needs.

    Args:
        size: coordinates.
        distance: of any two signals at most.
        epsilon: ε of the worst case.
        delta: its δ.

    Raises:
        InvalidSetting: an ε that asks for more noise than a grid of float32 holds, or for less; or
            more than 2¹⁴ coordinates.
    """
    whole("size", size, most=MOST_NUMBERS)
    mu = mu_of(epsilon, delta)
    room = MOST_SIGMA * mu - math.sqrt(size)
    if room <= 0:
        raise InvalidSetting(
            f"epsilon {epsilon:g} with delta {delta:g} asks for so much noise that a step is more "
            "than a signal: raise one of them"
        )
    step = max(2.0 ** math.ceil(math.log2(distance / room)), FINEST)
    moved = distance / step + math.sqrt(size)
    if moved < LEAST_SIGMA * mu:
        raise InvalidSetting(
            f"epsilon {epsilon:g} with delta {delta:g} asks for so little noise that it hides "
            "nothing: lower one of them"
        )
    sigma = math.ceil(moved / mu_on_grid(size, (moved / mu) ** 2, epsilon, delta))
    return Grid(step, EXACT_STEPS), sigma
