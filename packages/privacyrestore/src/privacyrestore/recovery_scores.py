"""How much of a set of spans a guess holds, how much luck alone would, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting

SCORES = ("recall", "precision", "f1", "exact")
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and what the choice of queries may have done to it.

    Attributes:
        value: the mean.
        low, high: a 95 % bootstrap interval over queries.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class Recovery:
    """What one attack recovered.

    Attributes:
        recall: share of the true spans that were guessed; the span-recovery rate where as many are
            guessed as there are.
        precision: share of the guessed spans that are true.
        f1: harmonic mean of both.
        exact: share of queries whose whole set was guessed.
        chance: the same four for the most frequent spans as the guess, ties drawn.
    """

    recall: Interval
    precision: Interval
    f1: Interval
    exact: Interval
    chance: dict[str, float]


def set_scores(guessed: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Recall, precision, F1 and exact match of each query, [B] float64.

    Args:
        guessed: [B, M] bool; an empty guess has precision 0.
        true: [B, M] bool, at least one span a query.

    Raises:
        InvalidProbes: a query without a span.
        InvalidSetting: other shapes.
    """
    _check(guessed, true)
    hits = (guessed & true).sum(1).double()
    n_guessed, n_true = guessed.sum(1).double(), true.sum(1).double()
    return {
        "recall": hits / n_true,
        "precision": hits / n_guessed.clamp_min(1),
        "f1": 2 * hits / (n_guessed + n_true),
        "exact": (guessed == true).all(1).double(),
    }


def chance_scores(frequencies: Tensor, sizes: Tensor, true: Tensor) -> dict[str, Tensor]:
    """What :func:`set_scores` is expected to be for the most frequent spans as the guess.

    Equally frequent spans at the edge of a guess are drawn; the mean over those draws is exact.

    Args:
        frequencies: [B, M] or [M], of the prior.
        sizes: [B] int64, how many spans are guessed, 0 to M.
        true: [B, M] bool.

    Raises:
        InvalidProbes, InvalidSetting: as there.
    """
    frequencies = frequencies.double().expand(true.shape)
    _check(true, true)
    falling = frequencies.sort(1, descending=True).values
    edge = falling.gather(1, (sizes - 1).clamp_min(0)[:, None])
    guesses = (sizes > 0)[:, None]
    sure, tied = (frequencies > edge) & guesses, (frequencies == edge) & guesses
    drawn = sizes - sure.sum(1)
    n_tied = tied.sum(1)
    share = drawn.double() / n_tied.clamp_min(1)
    n_true = true.sum(1).double()
    hits = (sure & true).sum(1).double() + share * (tied & true).sum(1).double()
    possible = ~(sure & ~true).any(1) & ~(true & ~sure & ~tied).any(1)
    possible &= (tied & true).sum(1) == drawn
    ways = [math.comb(n, k) for n, k in zip(n_tied.tolist(), drawn.tolist(), strict=True)]
    return {
        "recall": hits / n_true,
        "precision": hits / sizes.double().clamp_min(1),
        "f1": 2 * hits / (sizes + n_true),
        "exact": possible.double() / torch.tensor([float(way) for way in ways]).double(),
    }


def recovery(
    guessed: Tensor, true: Tensor, frequencies: Tensor, *, repeats: int = 1, seed: int = 0
) -> Recovery:
    """Scores of an attack's guesses, with intervals and the level of chance.

    Args:
        guessed: [repeats·B, M] bool, one block of B queries after the other.
        true: [B, M] bool.
        frequencies: [B, M] or [M], of the attacker's prior.
        repeats: simulations of each query; its scores are averaged before queries are resampled.
        seed: of the bootstrap.

    Raises:
        InvalidProbes, InvalidSetting: as :func:`set_scores`.
    """
    scores = set_scores(guessed, true.repeat(repeats, 1))
    lucky = chance_scores(
        frequencies.expand(true.shape).repeat(repeats, 1), guessed.sum(1), true.repeat(repeats, 1)
    )
    intervals = {
        name: bootstrap_mean(values.view(repeats, -1).mean(0), seed=seed)
        for name, values in scores.items()
    }
    return Recovery(**intervals, chance={name: float(lucky[name].mean()) for name in SCORES})


def bootstrap_mean(values: Tensor, *, seed: int = 0) -> Interval:
    """The mean of [B] values and its 95 % percentile interval over resampled queries."""
    held = values.double().numpy()
    drawn = resampled(len(held), seed) @ held / len(held)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(held.mean()), float(low), float(high))


@lru_cache(maxsize=4)
def resampled(n: int, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """[resamples, n]: how often each of n queries is drawn in n draws with replacement."""
    generator = np.random.default_rng([seed, n])
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _check(guessed: Tensor, true: Tensor) -> None:
    if guessed.shape != true.shape or true.ndim != 2 or true.dtype != torch.bool:
        raise InvalidSetting(
            f"guesses {list(guessed.shape)} and true spans {list(true.shape)} must be bool [B, M]"
        )
    if not len(true) or not bool(true.any(1).all()):
        raise InvalidProbes("each query to be scored must have at least one span")
