"""What releases about one subject cost together.

Pure releases add up, each ε for itself. Gaussian ones compose by their μ (Dong, Roth & Su, 2022,
corollary 3.3), which loses nothing, with the room that noise on whole numbers needs beside it; they
are read at the least δ among them, so one more release never makes less of the others. Both kinds
together add their ε.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lipogram.errors import InvalidSetting

LARGEST_MU = 1e5  # beyond, an ε of 10⁹ and more is no bound


@dataclass(frozen=True)
class Release:
    """The cost of one release.

    Attributes:
        local_epsilon: its worst case over any two inputs; may be infinite.
        delta: δ of that, above 0 where the noise is Gaussian; 0 for a pure one.
        metric_epsilon: of metric privacy; None where there is none.

    Raises:
        InvalidSetting: an ε that is not above 0, or a δ outside [0, 1).
    """

    local_epsilon: float
    delta: float = 0.0
    metric_epsilon: float | None = None

    def __post_init__(self) -> None:
        if not self.local_epsilon > 0 or not 0 <= self.delta < 1:
            raise InvalidSetting(
                f"a release of ε {self.local_epsilon!r} and δ {self.delta!r}: ε is above 0, δ from "
                "0 and below 1"
            )
        if self.metric_epsilon is not None and not 0 < self.metric_epsilon < math.inf:
            raise InvalidSetting(
                f"a release of metric ε {self.metric_epsilon!r}: it is finite and above 0"
            )


@dataclass(frozen=True)
class Spent:
    """The cost of several.

    Attributes:
        releases: how many.
        local_epsilon: the worst case over any two inputs of all of them.
        delta: δ of that.
        metric_epsilon: their sum over the distance between the signals; None where a release has
            no metric ε, and no sum of them bounds anything.
    """

    releases: int = 0
    local_epsilon: float = 0.0
    delta: float = 0.0
    metric_epsilon: float | None = 0.0

    def sentence(self) -> str:
        """In words; the metric ε never without the worst case."""
        count = f"{self.releases} release{'' if self.releases == 1 else 's'}"
        at = f" at δ = {self.delta:g}" if self.delta else ""
        amount = "no bound" if math.isinf(self.local_epsilon) else f"{self.local_epsilon:.4g}"
        metric = f"metric ε {self.metric_epsilon:.4g}, " if self.metric_epsilon else ""
        return f"{count}, {metric}worst-case local ε {amount}{at}"


def spent(releases: Sequence[Release]) -> Spent:
    """What they cost together."""
    pure = math.fsum(each.local_epsilon for each in releases if not each.delta)
    noisy = [each for each in releases if each.delta]
    metric = [each.metric_epsilon for each in releases if each.metric_epsilon is not None]
    total = math.fsum(metric) if len(metric) == len(releases) else None
    if not noisy:
        return Spent(len(releases), pure, 0.0, total)
    delta = min(each.delta for each in noisy)
    return Spent(len(releases), pure + _composed(noisy, delta), delta, total)


def _composed(noisy: Sequence[Release], delta: float) -> float:
    """ε at δ of Gaussian releases on the grids of `privacyrestore.noise_grid`."""
    if len(noisy) == 1:
        return noisy[0].local_epsilon
    from lipogram.gaussian_mechanism import epsilon_of, grid_gap
    from privacyrestore.noise_grid import LEAST_SIGMA, MOST_NUMBERS

    mu = math.hypot(*(_mu(each.local_epsilon, each.delta) for each in noisy))
    if mu > LARGEST_MU:
        return math.inf
    numbers, variance = len(noisy) * MOST_NUMBERS, float(LEAST_SIGMA) ** 2
    gap, left = grid_gap(numbers, variance, epsilon_of(mu, delta / 2), delta)
    return math.inf if left < delta / 2 else epsilon_of(mu, left) + gap


@lru_cache(maxsize=1024)
def _mu(epsilon: float, delta: float) -> float:
    from lipogram.gaussian_mechanism import mu_of

    return math.inf if math.isinf(epsilon) else mu_of(epsilon, delta)
