"""The orderings that the toy study is to show, each with the number that it is judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipogram.errors import InvalidSetting
from rewardds.toy_study import ToyOutcome

GAIN, CHANCE, NOTHING = 0.03, 0.02, 0.05
AUC = {8.0: 0.7, 2.0: 0.55}
"""Least mean area of the reward, by the budget asked for."""


@dataclass(frozen=True)
class Claim:
    """One ordering over all seeds.

    Attributes:
        name: what is compared.
        mean: over the seeds.
        error: standard error of the mean over the seeds; NaN of one seed.
        low: least mean with which it holds.
        high: largest.
    """

    name: str
    mean: float
    error: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Whether the mean is within its bounds."""
        return self.low <= self.mean <= self.high


def budget_claims(
    epsilon: float, outcomes: Sequence[ToyOutcome], bounds: Mapping[int, float]
) -> list[Claim]:
    """What has to hold at one budget.

    Args:
        epsilon: total that was asked for.
        outcomes: of the seeds at that budget, at least one.
        bounds: by seed, the accuracy without privacy.

    Raises:
        InvalidSetting: no outcomes, or one without its bound.
    """
    if not outcomes or any(outcome.seed not in bounds for outcome in outcomes):
        raise InvalidSetting("every seed needs an outcome and a bound, and there must be one")
    refined = np.array([outcome.accuracy["refined"] for outcome in outcomes])
    filtered = np.array([outcome.accuracy["filtered"] for outcome in outcomes])
    random = np.array([outcome.accuracy["random"] for outcome in outcomes])
    shuffled = np.array([outcome.accuracy["shuffled"] for outcome in outcomes])
    bound = np.array([bounds[outcome.seed] for outcome in outcomes])
    areas = np.array([outcome.auc for outcome in outcomes])
    return [
        _claim("filtered and refined − random", refined - random, low=GAIN),
        _claim("filtered − random", filtered - random, low=0.0),
        _claim("shuffled rewards − random", shuffled - random, low=-CHANCE, high=CHANCE),
        _claim("no privacy − filtered and refined", bound - refined, low=0.0),
        _claim("area of the reward", areas, low=AUC.get(epsilon, 0.5)),
    ]


def nothing_claim(outcomes: Sequence[ToyOutcome]) -> Claim:
    """Without a budget worth the name the reward must know nothing.

    Raises:
        InvalidSetting: no outcomes.
    """
    if not outcomes:
        raise InvalidSetting("there is no outcome to judge by")
    areas = np.array([outcome.auc for outcome in outcomes])
    return _claim("area of the reward, ε → 0", areas, low=0.5 - NOTHING, high=0.5 + NOTHING)


def _claim(
    name: str, values: np.ndarray, *, low: float = -math.inf, high: float = math.inf
) -> Claim:
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Claim(name, float(values.mean()), error, low, high)
