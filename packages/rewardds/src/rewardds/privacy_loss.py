"""How much one step of a mechanism may tell, as a distribution of its privacy loss on a grid.

The loss is ``L = ln P(x)/Q(x)`` for x drawn from P: the mechanism's law on one of two neighbouring
data sets against its law on the other. "remove" has the record in P, "add" has it in Q; both hold
for a whole sequence of steps, since the record is in all of them or in none, and neither bounds the
other. For a Poisson sample with Gaussian noise the mixture ``(1−p)·N(0, σ²) + p·N(1, σ²)`` against
``N(0, σ²)`` stands for every pair of neighbours (Zhu, Dong & Wang, AISTATS 2022, theorem 11); for a
group of k records the mixture over how many of them are drawn does (Ganesh, "Tight Group-Level DP
Guarantees for DP-SGD with Sampling via Mixture of Gaussians Mechanisms", 2024).

Mass whose loss lies between two points of the grid goes to both of them, so that the masses of P
and of Q stay what they are: the pair that results can only tell more (Doroshenko, Ghazi, Kamath,
Kumar & Manurangsi, "Connect the Dots", PETS 2022), by a part that falls with the grid's square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting

Numbers = NDArray[np.float64]
Direction = Literal["remove", "add"]
DIRECTIONS: tuple[Direction, ...] = ("remove", "add")
LARGEST_EXPONENT = 700.0  # e to it is still a number
POINTS = 16  # in a standard deviation: sums over a Gaussian then have all their digits
HALVINGS = 56  # of an interval, until its ends are neighbours


@dataclass(frozen=True)
class Release:
    """Steps of a Poisson-subsampled Gaussian mechanism, as DP-SGD makes them.

    Attributes:
        sigma: the noise's standard deviation over the sensitivity; 0 hides nothing.
        sample_rate: p, the chance of a record to be in a step; 1 for a mechanism that reads all.
        steps: T, how often noise was added, steps with an empty sample included.

    Raises:
        InvalidSetting: σ below 0 or not finite, p outside (0, 1], T not a whole number from 0.
    """

    sigma: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise InvalidSetting(f"sigma is {self.sigma!r}, it must be finite and at least 0")
        if not 0 < self.sample_rate <= 1:
            raise InvalidSetting(
                f"the sample rate is {self.sample_rate!r}, it must lie above 0 and at most at 1"
            )
        whole("steps", self.steps, least=0)


@dataclass(frozen=True)
class BoundedRelease:
    """Steps of any mechanism that is known to be (ε, δ)-differentially private, each of them.

    Attributes:
        epsilon: ε, at least 0.
        delta: δ, from 0 and below 1.
        steps: how many.

    Raises:
        InvalidSetting: anything else.
    """

    epsilon: float
    delta: float = 0.0
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf or not 0 <= self.delta < 1:
            raise InvalidSetting(
                f"a mechanism of ε {self.epsilon!r} and δ {self.delta!r}: ε is finite and at least "
                "0, δ from 0 and below 1"
            )
        whole("steps", self.steps, least=0)

    def for_group(self, group: int) -> BoundedRelease:
        """For k records, from neighbour to neighbour: kε, and δ·(e^(kε) − 1)/(e^ε − 1)."""
        each = self.epsilon
        factor = math.expm1(group * each) / math.expm1(each) if each else group
        return BoundedRelease(group * each, min(self.delta * factor, 1 - 1e-16), self.steps)


AnyRelease = Release | BoundedRelease


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step on the grid of multiples of a step size.

    Attributes:
        first: the lowest multiple.
        masses: (m,) P's mass at this and the following multiples.
        infinite: P's mass where nothing is bounded.
    """

    first: int
    masses: Numbers
    infinite: float


def step_loss(
    release: AnyRelease,
    direction: Direction,
    size: float,
    tail: float,
    group: int = 1,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> StepLoss:
    """The loss of one step of a mechanism, never less than it is.

    Args:
        release: the mechanism; σ above 0.
        direction: which of the neighbours has the record.
        size: the distance of the grid's points.
        tail: mass that may count as infinite loss.
        group: k records that come and go together.
        within: losses below count as the first, those above as infinite.
    """
    if isinstance(release, BoundedRelease):
        return _bounded_loss(release.for_group(group), size)
    from scipy.special import ndtr

    mixture = _Mixture(release, group)
    low, high = mixture.span(tail)
    lowest, highest = mixture.log_ratio(np.array([low, high]))
    least, most = within if direction == "remove" else (-within[1], -within[0])
    first, last = math.floor(max(lowest, least) / size), math.ceil(min(highest, most) / size)
    edges = mixture.inverse(np.arange(first, last + 1) * size, low, high)
    with_record = sum(
        weight * _between((edges - each) / release.sigma)
        for each, weight in enumerate(mixture.weights)
    )
    without = _between(edges / release.sigma)
    at = (edges[[0, -1]] - np.arange(group + 1)[:, None]) / release.sigma
    below, above = ndtr(at[:, 0]), ndtr(-at[:, 1])
    if direction == "remove":
        masses = _split(with_record, without, first, size)
        masses[0] += mixture.weights @ below
        return StepLoss(first, masses, float(mixture.weights @ above))
    masses = _split(without[::-1], with_record[::-1], -last, size)
    masses[0] += above[0]
    return StepLoss(-last, masses, float(below[0]))


def loss_points(
    releases: Sequence[AnyRelease],
    direction: Direction,
    tail: float,
    group: int = 1,
    order: float = 0.0,
) -> list[tuple[Numbers, Numbers]]:
    """Of each mechanism, the logarithm of P's mass (m,) at points of x, and the loss (m,) there.

    Sums over the points with weights up to ``exp(order·L)`` have all their digits.
    """
    found = []
    for release in releases:
        if isinstance(release, BoundedRelease):
            bound = release.for_group(group)
            loss = np.array([bound.epsilon, -bound.epsilon])
            found.append((-np.logaddexp(0.0, -loss), loss))
            continue
        mixture = _Mixture(release, group)
        low, high = mixture.span(tail, order)
        x = np.linspace(low, high, POINTS * math.ceil((high - low) / release.sigma))
        loss = mixture.log_ratio(x)
        density = -((x / release.sigma) ** 2) / 2 - math.log(release.sigma * math.sqrt(2 * math.pi))
        density += math.log(x[1] - x[0])
        found.append((density + loss, loss) if direction == "remove" else (density, -loss))
    return found


class _Mixture:
    """Σ w_j·N(j, σ²) over the number j of a group's records that are drawn, against N(0, σ²)."""

    def __init__(self, release: Release, group: int) -> None:
        from scipy.special import gammaln

        self.release = release
        drawn = np.arange(group + 1)
        p = release.sample_rate
        if p == 1:
            self.log_weights = np.where(drawn == group, 0.0, -np.inf)
        else:
            choices = gammaln(group + 1) - gammaln(drawn + 1) - gammaln(group - drawn + 1)
            self.log_weights = choices + drawn * math.log(p) + (group - drawn) * math.log1p(-p)
        self.weights = np.exp(self.log_weights)

    def span(self, tail: float, order: float = 0.0) -> tuple[float, float]:
        """The x beyond which there is less than a mass `tail` of either law on each side."""
        from scipy.special import ndtri

        reach = -float(ndtri(tail)) * self.release.sigma
        group = len(self.weights) - 1
        return -reach - group * order, group * (1 + order) + reach

    def log_ratio(self, x: Numbers) -> Numbers:
        """The logarithm of P(x)/Q(x) for x (m,); it rises with x."""
        found = np.full(x.shape, -np.inf)
        for drawn, weight in enumerate(self.log_weights):
            found = np.logaddexp(found, weight + drawn * (x - drawn / 2) / self.release.sigma**2)
        return found

    def inverse(self, losses: Numbers, low: float, high: float) -> Numbers:
        """The x (m,) at which the logarithm has these values (m,); −∞ where it is never so low."""
        p, square = self.release.sample_rate, self.release.sigma**2
        if len(self.weights) == 2:
            if p == 1:
                return square * losses + 0.5
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                scaled = np.where(
                    losses > 0,
                    losses - math.log(p) + np.log1p((p - 1) * np.exp(-losses)),
                    np.log1p(np.maximum(np.expm1(losses) / p, -1.0)),
                )
            return square * scaled + 0.5
        lows = np.full(losses.shape, low - 1.0)
        highs = np.full(losses.shape, high + 1.0)
        for _ in range(HALVINGS):
            middles = (lows + highs) / 2
            small = self.log_ratio(middles) < losses
            lows, highs = np.where(small, middles, lows), np.where(small, highs, middles)
        return np.where(losses <= self.log_weights[0], -np.inf, highs)


def _between(edges: Numbers) -> Numbers:
    """The normal mass (m−1,) between neighbours of edges (m,), with its digits in both tails."""
    from scipy.special import ndtr

    low, high = edges[:-1], edges[1:]
    right = low > 0
    low, high = np.where(right, -high, low), np.where(right, -low, high)
    return np.maximum(ndtr(high) - ndtr(low), 0.0)


def _split(p: Numbers, q: Numbers, first: int, size: float) -> Numbers:
    """P's mass (m+1,) at the points around m intervals of the loss, from both masses in each."""
    lower = np.minimum((first + np.arange(len(p))) * size, LARGEST_EXPONENT)
    upper = np.clip((p - np.exp(lower) * q) / -math.expm1(-size), 0.0, p)
    masses = np.zeros(len(p) + 1)
    masses[:-1] += p - upper
    masses[1:] += upper
    return masses


def _bounded_loss(release: BoundedRelease, size: float) -> StepLoss:
    """Randomised response stands for all such mechanisms (Kairouz, Oh & Viswanath, ICML 2015)."""
    last = math.ceil(release.epsilon / size)
    p, q = np.zeros(2 * last + 1), np.zeros(2 * last + 1)
    for loss in (release.epsilon, -release.epsilon):
        at = min(math.floor(loss / size) + last, 2 * last)
        p[at] += (1 - release.delta) / (1 + math.exp(-loss))
        q[at] += (1 - release.delta) / (1 + math.exp(loss))
    return StepLoss(-last, _split(p, q, -last, size), release.delta)
