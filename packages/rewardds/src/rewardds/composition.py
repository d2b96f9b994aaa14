"""ε of steps of several mechanisms together, from the distribution of their summed privacy loss.

The sum's distribution is a product of Fourier transforms (Koskela, Jälkö & Honkela, AISTATS 2020).
Its far tail, where ε is read, would drown in the transform's rounding; so each step's masses are
weighted by ``exp(λL)`` first, with the λ at which the sum then gathers around ε, and the result is
weighted back. What the window cuts off is bounded by the moments and counted as infinite loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewardds.privacy_loss import (
    DIRECTIONS,
    AnyRelease,
    Direction,
    Numbers,
    loss_points,
    step_loss,
)

ORDERS = np.concatenate([np.linspace(-1.0, -0.05, 20), np.geomspace(1e-3, 3e4, 160)])
LARGEST_EPSILON = 1e4  # beyond, an ε is no bound
COARSENESS = 5e-5  # of ε, what the grid may add to it
CUT = 1e-6  # of δ, what each cut may cost
WRAPPED = 1e-7  # of the weighted mass, what may wrap around from each side
MOST_POINTS = 1 << 22
GAP = 20.0  # over λ: ε is not farther below what the moments say
LARGEST_WEIGHT = 30.0  # e to it; ε lies where masses are weighted back by less than 1
ROUNDING = 1e-6  # of δ, what rounding in the transforms may have taken


def composed_epsilon(releases: Sequence[AnyRelease], delta: float, group: int = 1) -> float:
    """ε at δ of all steps together, whichever neighbour has the record; infinite beyond 10⁴.

    Args:
        releases: each with at least one step, and with σ above 0.
        delta: δ.
        group: k records that come and go together.
    """
    found = 0.0
    for direction in DIRECTIONS:
        window = _window(releases, delta, direction, group)
        if window.bound > LARGEST_EPSILON:
            return math.inf
        if window.bound > found:
            found = max(found, _read(releases, delta, direction, group, window))
    return found


@dataclass(frozen=True)
class _Window:
    """Where the sum is looked at.

    Attributes:
        bound: what the moments alone say: ε is not above it.
        size: the distance of the grid's points.
        first: the lowest, in steps.
        points: how many.
        tilt: λ by which masses are weighted.
        far: the order that bounds best what lies above.
        tail: mass of each step that may count as infinite loss.
        within: between which losses a step is looked at.
    """

    bound: float
    size: float
    first: int
    points: int
    tilt: float
    far: float
    tail: float
    within: tuple[float, float]


def _window(
    releases: Sequence[AnyRelease], delta: float, direction: Direction, group: int
) -> _Window:
    """A window that cuts off less than matters."""
    steps = sum(each.steps for each in releases)
    tail = CUT * delta / steps
    points = loss_points(releases, direction, tail, group)
    moments = _log_moments(releases, points)
    orders, above = ORDERS[ORDERS > 0], moments[ORDERS > 0]
    bounds = (above - math.log(delta * (1 - CUT))) / orders
    # Where the loss has a largest value, ever higher orders gain ever less.
    best = int(np.flatnonzero(bounds[:-1] <= 1.01 * bounds[:-1].min())[0])
    tilt = float(orders[best])
    ends = (above - math.log(CUT * delta)) / orders
    away = ORDERS != tilt
    # A step beyond the end counts as infinite, and so weighs nothing above it.
    moments = _log_moments(releases, points, float(ends.min()))
    start = moments[ORDERS == tilt]
    weighted = (moments[away] - start - math.log(WRAPPED)) / (ORDERS[away] - tilt)
    bound = float(bounds.min())
    low = min(float(weighted[ORDERS[away] < tilt].max()), bound - GAP / tilt)
    high = max(float(weighted[ORDERS[away] > tilt].min()), float(ends.min()))
    size = math.sqrt(8 * COARSENESS * max(bound, 1e-6) / (steps * (tilt + 1)))
    size = max(size, (high - low) / MOST_POINTS)
    first = math.floor(low / size)
    far, within = float(orders[int(np.argmin(ends))]), (low - high, float(ends.min()))
    count = 1 << (math.ceil(high / size) - first + 1).bit_length()
    return _Window(bound, size, first, count, tilt, far, tail, within)


def _read(
    releases: Sequence[AnyRelease],
    delta: float,
    direction: Direction,
    group: int,
    window: _Window,
) -> float:
    """ε from the sum on the window, where it may have wrapped around."""
    size, points, tilt = window.size, window.points, window.tilt
    transform = np.ones(points // 2 + 1, dtype=np.complex128)
    infinite, moment, far_moment = 0.0, 0.0, 0.0
    for release in releases:
        step = step_loss(release, direction, size, window.tail, group, window.within)
        places = step.first + np.arange(len(step.masses))
        with np.errstate(divide="ignore"):
            masses = np.log(step.masses)
        weights = masses + tilt * size * places
        total = float(log_sum(weights))
        folded = np.bincount(places % points, np.exp(weights - total), minlength=points)
        transform *= np.fft.rfft(folded) ** release.steps
        infinite += release.steps * step.infinite
        moment += release.steps * total
        far_moment += release.steps * float(log_sum(masses + window.far * size * places))
    end = (window.first + points) * size
    infinite += math.exp(min(far_moment - window.far * end, 0.0))  # all above it, by Markov
    left = (delta - infinite) * (1 - ROUNDING)
    if left <= 0:
        return math.inf
    sums = window.first + np.arange(points)
    weighted: Numbers = np.maximum(np.fft.irfft(transform, points)[sums % points], 0.0)
    return _epsilon_at(left, size * sums.astype(np.float64), weighted, moment, tilt)


def _epsilon_at(
    delta: float, losses: Numbers, weighted: Numbers, moment: float, tilt: float
) -> float:
    """The ε at which Σ mass·(1 − e^(ε−L))₊ is δ, on losses (m,) with mass·e^(tilt·L − moment)."""
    start = np.searchsorted(losses, (moment - LARGEST_WEIGHT) / tilt)
    losses, weighted = losses[start:], weighted[start:]
    with np.errstate(divide="ignore"):
        masses = (np.log(weighted) + moment - tilt * losses)[::-1]
    over = np.cumsum(np.exp(masses))[::-1]
    # The masses at and above each loss, divided by e^(their loss − this one).
    shrunk = np.exp(np.logaddexp.accumulate(masses - losses[::-1])[::-1] + losses)
    above = np.flatnonzero(over - shrunk > delta)
    if not above.size:
        return max(float(losses[0]), 0.0)
    after = int(above[-1]) + 1
    at = float(losses[after]) + math.log((over[after] - delta) / shrunk[after])
    return max(at, 0.0)


def _log_moments(
    releases: Sequence[AnyRelease],
    points: Sequence[tuple[Numbers, Numbers]],
    most: float = math.inf,
) -> Numbers:
    """The logarithm of E_P exp(λL) (|ORDERS|,) of the sum of losses that are at most `most`."""
    total = np.zeros(len(ORDERS))
    for release, (masses, losses) in zip(releases, points, strict=True):
        kept = losses <= most
        total += release.steps * log_sum(masses[kept] + ORDERS[:, None] * losses[kept])
    return total


def log_sum(terms: Numbers) -> Numbers:
    """The logarithm of Σ exp over the last axis."""
    largest: Numbers = terms.max(axis=-1)
    return largest + np.log(np.exp(terms - largest[..., None]).sum(axis=-1))
