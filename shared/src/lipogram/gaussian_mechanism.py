"""How much Gaussian noise makes a release differentially private, exactly.

A Gaussian release with ``μ = sensitivity/σ`` is (ε, δ)-differentially private if and only if
``δ ≥ Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)`` (Balle & Wang, ICML 2018, theorem 8), and releases of the
same rows compose to ``μ = √Σμ_i²`` (Dong, Roth & Su, Journal of the Royal Statistical Society B,
2022, corollary 3.3). Neither loses anything, so no other accountant is needed for such releases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import log_ndtr

from lipogram.analytic.settings import positive
from lipogram.errors import InvalidSetting

LEAST_MU, LARGEST_MU = 1e-6, 1e6  # beyond, the digits of delta_of run out
LARGEST_EPSILON = 1e12  # on a grid, beyond counts as much
SPARE = 40.0  # of δ, exp(−40) goes to the tails beyond the grid's comparison


def delta_of(mu: float, epsilon: float) -> float:
    """The least δ of a Gaussian release with ``μ = sensitivity/σ`` at a given ε ≥ 0."""
    if mu == 0:
        return 0.0
    above = float(log_ndtr(mu / 2 - epsilon / mu))
    below = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(-math.exp(above) * math.expm1(min(below - above, 0.0)), 0.0)


def epsilon_of(mu: float, delta: float) -> float:
    """The least ε of a Gaussian release with ``μ = sensitivity/σ`` at a given δ.

    Raises:
        InvalidSetting: a δ outside (0, 1), or a μ that is negative or above a million.
    """
    _check_delta(delta)
    if not 0 <= mu <= LARGEST_MU:
        raise InvalidSetting(f"mu is {mu!r}, it must be from 0 to {LARGEST_MU:g}")
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(mu, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
        if middle in (low, high) and math.nextafter(low, high) >= high:
            break
    return high


def mu_of(epsilon: float, delta: float) -> float:
    """The largest ``μ = sensitivity/σ`` that is (ε, δ)-differentially private.

    Raises:
        InvalidSetting: an ε that is not finite and positive, a δ outside (0, 1), or both so small
            that no noise in reach is enough.
    """
    positive("epsilon", epsilon)
    _check_delta(delta)
    low, high = LEAST_MU, 1.0
    if delta_of(low, epsilon) > delta:
        raise InvalidSetting(
            f"epsilon {epsilon:g} with delta {delta:g} asks for more noise than "
            f"{1 / LEAST_MU:g} times the sensitivity: raise one of them"
        )
    while delta_of(high, epsilon) <= delta and high < LARGEST_MU:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if delta_of(middle, epsilon) <= delta else (low, middle)
    return min(low, LARGEST_MU)


def noise_std(epsilon: float, delta: float, sensitivity: float) -> float:
    """The least σ of Gaussian noise for (ε, δ) at an L2 sensitivity.

    Raises:
        InvalidSetting: see :func:`mu_of`; a sensitivity that is not finite and positive.
    """
    return positive("sensitivity", sensitivity) / mu_of(epsilon, delta)


def grid_gap(size: int, variance: float, epsilon: float, delta: float) -> tuple[float, float]:
    """What noise on whole numbers costs beyond continuous noise: part of ε, and what is left of δ.

    A sum of discrete Gaussians is compared with the rounded continuous one: their laws are within
    ``exp(±x²/24S⁴)`` and ``exp(±1/12S²)`` of each other. That costs ``D(T² + 4)/24S²`` of ε, with
    ``T² = 2(ε + ln(2D/δ) + 40)``, and of δ the factor ``exp(−D/6S²) − exp(−40)``.

    Args:
        size: D numbers; of several releases that count together, all of theirs.
        variance: S² of the noise in each, in steps; at least T².
        epsilon: ε.
        delta: δ.
    """
    reach = 2.0 * (epsilon + math.log(2.0 * size / delta) + SPARE)
    left = math.exp(-size / (6 * variance)) - math.exp(-SPARE)
    return size * (reach + 4.0) / (24.0 * variance), delta * left


def mu_on_grid(size: int, variance: float, epsilon: float, delta: float) -> float:
    """:func:`mu_of` for discrete Gaussian noise: with the room that :func:`grid_gap` takes.

    Raises:
        InvalidSetting: a grid so coarse that nothing of ε is left, or see :func:`mu_of`.
    """
    epsilon = min(epsilon, LARGEST_EPSILON)
    gap, left = grid_gap(size, variance, epsilon, delta)
    return mu_of(epsilon - gap, left)


@dataclass(frozen=True)
class Spent:
    """What releases of the same rows have cost together.

    Attributes:
        mu: their composed μ; infinite where a release bounds nothing.
    """

    mu: float = 0.0

    def and_then(self, sigma: float, sensitivity: float) -> Spent:
        """With one more release."""
        return Spent(math.hypot(self.mu, sensitivity / positive("sigma", sigma)))

    def epsilon(self, delta: float) -> float:
        """ε of everything so far at a δ."""
        return math.inf if self.mu > LARGEST_MU else epsilon_of(self.mu, delta)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise InvalidSetting(f"delta is {delta!r}, it must lie between 0 and 1")
