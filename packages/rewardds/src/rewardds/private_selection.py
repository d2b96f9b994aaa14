"""Choosing among candidates by private records without peeking.

A score on private records that nobody has accounted for makes the choice a release of its own. Two
ways to account for it: :func:`choose` pays for one choice among candidates that are there;
:class:`RandomStopping` pays for a search whose trials are private, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipogram.analytic.settings import positive
from lipogram.discrete_gaussian import Stream
from lipogram.errors import InvalidSetting
from lipogram.secure_noise import bernoulli, secure_stream, uniforms
from rewardds.accounting import ORDERS, convert, renyi
from rewardds.privacy_loss import AnyRelease, BoundedRelease

GRID = 2**20  # steps of a record's score; sums of whole numbers do not hang on their order


def choose(
    scores: Any, epsilon: float, *, bound: float = 1.0, stream: Stream | None = None
) -> tuple[int, BoundedRelease]:
    """The candidate of (nearly) the highest total score, ε-differentially private.

    Report-noisy-max with one-sided exponential noise, as permute-and-flip draws it (McKenna &
    Sheldon, NeurIPS 2020; that both are one: Ding, Kifer, Steinke et al., 2021): candidates in
    random order, each taken with chance ``exp(−ε·(best − own)/bound)``. One record adds from 0 to
    `bound` to every total and so moves two totals apart by `bound` at most, which is why ε is not
    halved.

    Args:
        scores: (candidates, records) numbers; each is cut to [0, bound], NaN counts as 0.
        epsilon: ε of the choice.
        bound: the largest score of a record.
        stream: None, as for anything that is released, for one under a fresh key.

    Returns:
        The candidate's index, and what the choice cost, for the ledger.

    Raises:
        InvalidSetting: no candidates, an ε or bound that is not finite and above 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise InvalidSetting(f"scores have the shape {values.shape}, not (candidates, records)")
    positive("epsilon", epsilon)
    cut = np.clip(np.nan_to_num(values / positive("bound", bound), nan=0.0), 0.0, 1.0)
    totals = np.rint(cut * GRID).astype(np.int64).sum(axis=1)
    stream = stream or secure_stream()
    for at in np.argsort(stream.words(len(totals)), kind="stable"):
        if _falls(stream, epsilon * float(totals.max() - totals[at]) / GRID):
            break
    return int(at), BoundedRelease(float(epsilon))


@dataclass(frozen=True)
class RandomStopping:
    """A random number of private trials, of which the best is released and nothing else.

    The number is drawn from the truncated negative binomial distribution of Papernot & Steinke
    (ICLR 2022, definition 1); η = 1 is the geometric one of Liu & Talwar (STOC 2019). Everything
    that tells which trial is best must be part of a trial's own release, and neither the number of
    trials nor the others may be seen.

    Attributes:
        eta: η above −1; the smaller, the cheaper, and the more often there is one trial only.
        gamma: γ in (0, 1); the smaller, the more trials.

    Raises:
        InvalidSetting: values outside these.
    """

    eta: float = 0.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not -1 < self.eta < math.inf or not 0 < self.gamma < 1:
            raise InvalidSetting(
                f"η is {self.eta!r} and γ {self.gamma!r}: η is finite and above −1, γ in (0, 1)"
            )

    @property
    def mean(self) -> float:
        """The expected number of trials."""
        if self.eta == 0:
            return (1 / self.gamma - 1) / math.log(1 / self.gamma)
        return self.eta * (1 - self.gamma) / (self.gamma * (1 - self.gamma**self.eta))

    def draw(self, stream: Stream | None = None) -> int:
        """A number of trials, at least 1; draw it before the first and tell nobody."""
        left = float(uniforms(stream or secure_stream(), 1)[0])
        chance = 1 - self.gamma
        if self.eta == 0:
            chance /= math.log(1 / self.gamma)
        else:
            chance *= self.eta / (self.gamma**-self.eta - 1)
        number = 1
        while left > chance > 0:
            left -= chance
            chance *= (1 - self.gamma) * (number + self.eta) / (number + 1)
            number += 1
        return number

    def cost(self, trial: Sequence[AnyRelease], delta: float) -> BoundedRelease:
        """What the whole search costs, however many trials it had.

        Papernot & Steinke, theorem 2: at order λ the Rényi divergence of the search is that of a
        trial, and ``(1+η)·((1 − 1/λ̂)·ε̂ + ln(1/γ)/λ̂) + ln E[K]/(λ−1)`` for any λ̂ at which a trial's
        is ε̂.

        Args:
            trial: the mechanisms of one trial, that of its score included.
            delta: δ of the search.

        Raises:
            InvalidSetting: a trial with a δ of its own, which the theorem does not cover; a δ
                outside (0, 1); a trial without noise.
        """
        if not 0 < delta < 1:
            raise InvalidSetting(f"delta is {delta!r}, it must lie between 0 and 1")
        for each in trial:
            if isinstance(each, BoundedRelease):
                if each.delta:
                    raise InvalidSetting(f"a trial has a δ of its own, {each.delta:g}: not covered")
            elif each.sigma == 0:
                raise InvalidSetting("a trial has no noise: the search would hide nothing")
        one = renyi(trial, ORDERS)
        choice = (1 + self.eta) * ((1 - 1 / ORDERS) * one + math.log(1 / self.gamma) / ORDERS)
        whole = one + choice.min() + math.log(self.mean) / (ORDERS - 1)
        return BoundedRelease(convert(whole, ORDERS, delta), delta)


def _falls(stream: Stream, exponent: float) -> bool:
    """A coin of chance exp(−exponent), with digits however small that is."""
    while exponent >= 1:
        if not bernoulli(stream, 1, math.exp(-1))[0]:
            return False
        exponent -= 1
    return bool(bernoulli(stream, 1, math.exp(-exponent))[0])
