"""What releases about one subject cost together.

Pure releases add up. Gaussian ones compose by their μ (Dong, Roth & Su, 2022, corollary 3.3), which
loses nothing, and are read at the largest δ among them; both kinds together add their ε.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lipogram.errors import InvalidSetting


@dataclass(frozen=True)
class Release:
    """The cost of one release.

    Attributes:
        local_epsilon: its worst case over any two inputs; may be infinite.
        delta: δ of that; 0 for a pure one.

    Raises:
        InvalidSetting: an ε that is not above 0, or a δ outside [0, 1).
    """

    local_epsilon: float
    delta: float = 0.0

    def __post_init__(self) -> None:
        if not self.local_epsilon > 0 or not 0 <= self.delta < 1:
            raise InvalidSetting(
                f"a release of ε {self.local_epsilon!r} and δ {self.delta!r}: ε is above 0, δ from "
                "0 and below 1"
            )


@dataclass(frozen=True)
class Spent:
    """The cost of several.

    Attributes:
        releases: how many.
        local_epsilon: the worst case over any two inputs of all of them.
        delta: δ of that.
    """

    releases: int = 0
    local_epsilon: float = 0.0
    delta: float = 0.0

    def sentence(self) -> str:
        """In words."""
        count = f"{self.releases} release{'' if self.releases == 1 else 's'}"
        at = f" at δ = {self.delta:g}" if self.delta else ""
        amount = "no bound" if math.isinf(self.local_epsilon) else f"{self.local_epsilon:.4g}"
        return f"{count}, worst-case local ε {amount}{at}"


def spent(releases: Iterable[Release]) -> Spent:
    """What they cost together."""
    held = list(releases)
    pure = math.fsum(each.local_epsilon for each in held if not each.delta)
    noisy = [each for each in held if each.delta]
    if not noisy:
        return Spent(len(held), pure)
    from lipogram.gaussian_mechanism import epsilon_of, mu_of

    delta = max(each.delta for each in noisy)
    if len(noisy) == 1:
        return Spent(len(held), pure + noisy[0].local_epsilon, delta)
    mu = math.hypot(*(mu_of(each.local_epsilon, each.delta) for each in noisy))
    return Spent(len(held), pure + epsilon_of(mu, delta), delta)
