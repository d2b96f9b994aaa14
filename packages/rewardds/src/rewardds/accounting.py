"""What mechanisms that read the same records cost together, and how much noise a budget asks for.

ε is read from the privacy loss of all steps of all runs at once, never added up: two runs of ε 8
each cost 10.2 together, at one δ. It is an upper bound, within a thousandth of the true value, and
is held against Rényi moments, which bound the same from farther above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting
from rewardds.composition import composed_epsilon, log_sum
from rewardds.errors import AccountantsDisagree, UnreachablePrivacy
from rewardds.privacy_loss import (
    DIRECTIONS,
    AnyRelease,
    BoundedRelease,
    Direction,
    Numbers,
    Release,
    loss_points,
)

__all__ = ["BoundedRelease", "Release", "calibrate", "epsilon", "renyi", "renyi_epsilon"]

ORDERS = 1 + np.geomspace(0.02, 256, 80)
FARTHEST = 50.0  # standard deviations, as an order of moments
SLACK = 1e-2  # by which Rényi moments may fall below: conversion and grid, no more
LEAST_SIGMA, LARGEST_SIGMA = 1e-2, 1e5
CLOSE = 1e-3  # of ε, what calibration may leave unused


def epsilon(releases: Sequence[AnyRelease], delta: float, *, group: int = 1) -> float:
    """The least ε known at which all of them together are (ε, δ)-differentially private.

    Args:
        releases: mechanisms on the same records, chosen in any order, each in view of the results
            of those before.
        delta: δ.
        group: how many records may come and go together, for the privacy of whoever has so many.

    Returns:
        An upper bound, at most a thousandth of itself too large; 0 for no releases, infinite for
        one without noise and beyond ten thousand.

    Raises:
        InvalidSetting: a δ outside (0, 1), a group that is no whole number from 1.
        AccountantsDisagree: Rényi moments bound the same by less: a fault in this program.
    """
    _check(delta, group)
    kept = _merged(releases)
    found = _joint(kept, delta, group)
    if 0 < found < math.inf:
        other = renyi_epsilon(kept, delta, group=group)
        if found > other + SLACK * max(1.0, other):
            raise AccountantsDisagree(
                f"the privacy loss distribution says ε {found:.6g} at δ {delta:g}, Rényi moments "
                f"bound it by {other:.6g}; do not rely on either, and report {kept}"
            )
    return found


def renyi(releases: Sequence[AnyRelease], orders: Numbers, *, group: int = 1) -> Numbers:
    """The Rényi divergence (|orders|,) of all of them together at orders above 1.

    Of mechanisms with a δ of their own, of what is left when that happens not.
    """
    lambdas = np.asarray(orders, dtype=np.float64) - 1
    largest = float(lambdas.max())
    return np.maximum.reduce(
        [_moments(releases, lambdas, each, group, largest) / lambdas for each in DIRECTIONS]
    )


def renyi_epsilon(releases: Sequence[AnyRelease], delta: float, *, group: int = 1) -> float:
    """ε at δ by Rényi moments (Canonne, Kamath & Steinke, 2020, proposition 12); looser.

    Raises:
        InvalidSetting: as :func:`epsilon`.
    """
    _check(delta, group)
    kept = _merged(releases)
    left = delta - _own_delta(kept, group)
    if left <= 0 or _without_noise(kept):
        return math.inf
    # Of Gaussian noise the best order is near σ·√(2 ln(1/δ)); far above, a bound is only looser.
    least = min([each.sigma for each in kept if isinstance(each, Release)], default=math.inf)
    orders = ORDERS[ORDERS - 1 <= max(FARTHEST * least, 1.0) / group]
    return convert(renyi(kept, orders, group=group), orders, left) if kept else 0.0


def convert(divergences: Numbers, orders: Numbers, delta: float) -> float:
    """The least ε at δ of a mechanism with these Rényi divergences (m,) at orders (m,)."""
    found = divergences + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(float(found.min()), 0.0)


def calibrate(
    epsilon: float,
    delta: float,
    runs: Sequence[tuple[float, int]],
    *,
    shares: Sequence[float] | None = None,
    spent: Sequence[AnyRelease] = (),
) -> list[Release]:
    """The least noise at which several runs together, and what was spent, stay within a budget.

    Args:
        epsilon: of everything together.
        delta: of everything together.
        runs: (sample rate, steps) of each.
        shares: the ratio of their σ; None for one σ for all.
        spent: releases on the same records before.

    Returns:
        The runs with their σ; ε is above 0.999 of the budget, unless no noise is needed for it.

    Raises:
        InvalidSetting: an ε or share not above 0, a δ outside (0, 1), runs that are none.
        UnreachablePrivacy: what was spent leaves nothing, or no noise in reach is enough.
    """
    positive("epsilon", epsilon)
    _check(delta, 1)
    shares = [1.0] * len(runs) if shares is None else [positive("share", each) for each in shares]
    if len(shares) != len(runs) or not runs:
        raise InvalidSetting(f"{len(runs)} runs and {len(shares)} shares: there is one a run")

    def noisy(scale: float) -> list[Release]:
        return [Release(scale * s, *run) for s, run in zip(shares, runs, strict=True)]

    def cost(scale: float) -> float:
        return _joint(_merged([*spent, *noisy(scale)]), delta, 1)

    before = _joint(_merged(spent), delta, 1)
    if before >= epsilon:
        raise UnreachablePrivacy(
            f"ε {before:.4g} of a budget of {epsilon:g} at δ {delta:g} is spent: nothing is left"
        )
    low, high, above, below = 0.0, 1.0, math.inf, cost(1.0)
    while below > epsilon:
        low, high, above = high, 2 * high, below
        if high > LARGEST_SIGMA:
            raise UnreachablePrivacy(
                f"σ {LARGEST_SIGMA:g} is not enough for ε {epsilon:g} at δ {delta:g}: raise ε or "
                f"δ, or take fewer steps{f'; ε {before:.4g} were spent before' if spent else ''}"
            )
        below = cost(high)
    while low == 0.0 and high > LEAST_SIGMA:
        if (found := cost(high / 2)) > epsilon:
            low, above = high / 2, found
        else:
            high, below = high / 2, found
    while low > 0.0 and below < (1 - CLOSE) * epsilon and high > low * (1 + 1e-12):
        middle = low * (high / low) ** _part(above, below, (1 - CLOSE / 2) * epsilon)
        if (found := cost(middle)) > epsilon:
            low, above = middle, found
        else:
            high, below = middle, found
    return noisy(high)


def _part(above: float, below: float, target: float) -> float:
    """Where between two noises, on a logarithmic scale, ε may be at the target."""
    if not 0 < below < target < above < math.inf:
        return 0.5
    return min(max(math.log(above / target) / math.log(above / below), 0.05), 0.95)


def _joint(kept: Sequence[AnyRelease], delta: float, group: int) -> float:
    if not kept:
        return 0.0
    if _without_noise(kept) or _own_delta(kept, group) >= delta:
        return math.inf
    return composed_epsilon(kept, delta, group)


def _moments(
    releases: Sequence[AnyRelease],
    lambdas: Numbers,
    direction: Direction,
    group: int,
    largest: float,
) -> Numbers:
    points = loss_points(releases, direction, 1e-16, group, largest)
    total = np.zeros(len(lambdas))
    for release, (masses, losses) in zip(releases, points, strict=True):
        total += release.steps * log_sum(masses + lambdas[:, None] * losses)
    return total


def _merged(releases: Sequence[AnyRelease]) -> list[AnyRelease]:
    """Each mechanism once, with all its steps; none without a step."""
    steps: dict[tuple[type, float, float], int] = {}
    for each in releases:
        kind = (
            (Release, each.sigma, each.sample_rate)
            if isinstance(each, Release)
            else (BoundedRelease, each.epsilon, each.delta)
        )
        steps[kind] = steps.get(kind, 0) + each.steps
    return [kind(a, b, count) for (kind, a, b), count in steps.items() if count]


def _without_noise(releases: Sequence[AnyRelease]) -> bool:
    return any(isinstance(each, Release) and each.sigma == 0 for each in releases)


def _own_delta(releases: Sequence[AnyRelease], group: int) -> float:
    return math.fsum(
        each.steps * each.for_group(group).delta
        for each in releases
        if isinstance(each, BoundedRelease)
    )


def _check(delta: float, group: int) -> None:
    if not 0 < delta < 1:
        raise InvalidSetting(f"delta is {delta!r}, it must lie between 0 and 1")
    whole("group", group)
