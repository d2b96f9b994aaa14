"""A lower bound on ε from one training.

Steinke, Nasr & Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023 (arXiv
2305.08846). Each of m canaries is planted by a fair coin, and the auditor guesses r of the coins
from what the training gave. If the training is (ε, δ)-differentially private, the number of right
guesses is below Binomial(r, e^ε/(1 + e^ε)) but for what δ allows. More of them refute ε.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting, NotFinite

SHARES = (0.25, 0.5, 1.0)
"""Of the canaries, how many are guessed: the most telling ones, half, and all."""


@dataclass(frozen=True)
class OneRunBound:
    """What one training proves of its own ε.

    Attributes:
        epsilon: lower bound; 0 where the guesses prove nothing.
        highest: bound that as many guesses would give if all were right.
        delta: δ that it holds at.
        confidence: probability at least, over coins and training, that the true ε is no smaller.
        canaries: m.
        guesses: r, of the number of guesses that gave the bound.
        correct: of them, how many were right.
    """

    epsilon: float
    highest: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int


def one_run_p_value(
    canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float
) -> float:
    """Bound on the probability of so many right guesses or more under (ε, δ)-DP.

    With W from Binomial(r, e^ε/(1 + e^ε)) it is
    P[W ≥ v] + 2mδ·max over 1 ≤ i ≤ v of P[v > W ≥ v − i]/i, at most 1. It grows with ε and δ.

    Args:
        canaries: m, each planted with probability one half.
        guesses: r ≤ m, chosen without regard to the coins.
        correct: v ≤ r.
        epsilon: ε, at least 0.
        delta: δ in [0, 1].

    Raises:
        InvalidSetting: a value outside its range.
    """
    whole("canaries", canaries)
    whole("guesses", guesses, least=0, most=canaries)
    whole("correct", correct, least=0, most=guesses)
    if not epsilon >= 0:
        raise InvalidSetting(f"epsilon is {epsilon!r}, it must be at least 0")
    _check_delta(delta)
    if correct == 0:
        return 1.0
    from scipy.special import betainc

    accuracy = 1 / (1 + math.exp(-epsilon))
    at_least = np.arange(correct, 0, -1, dtype=np.float64)
    tails = betainc(at_least, guesses - at_least + 1, accuracy)  # P[W >= v], P[W >= v - 1], ...
    tails = np.append(tails, 1.0)
    slack = (tails[1:] - tails[0]) / np.arange(1, correct + 1)
    return float(min(1.0, tails[0] + 2 * canaries * delta * slack.max()))


def highest_bound(
    canaries: int, guesses: int | None = None, *, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The bound of guesses that are all right: what an audit of this size can find at most.

    Args:
        canaries: m.
        guesses: r; None for m.
        delta: δ.
        confidence: in (0, 1).

    Raises:
        InvalidSetting: a value outside its range.
    """
    r = canaries if guesses is None else guesses
    return epsilon_lower_bound(canaries, r, r, delta=delta, confidence=confidence)


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, *, delta: float, confidence: float = 0.95
) -> float:
    """The largest ε that so many right guesses refute, to 1e-6; 0 where they refute none.

    Args:
        canaries: m.
        guesses: r ≤ m, fixed before the coins were looked at.
        correct: v ≤ r.
        delta: δ in [0, 1].
        confidence: one minus the p-value at which an ε counts as refuted, in (0, 1).

    Raises:
        InvalidSetting: a value outside its range.
    """
    if not 0 < confidence < 1:
        raise InvalidSetting(f"confidence is {confidence!r}, it must be in (0, 1)")
    _check_delta(delta)

    def refuted(epsilon: float) -> bool:
        p = one_run_p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta)
        return p <= 1 - confidence

    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def audit_one_run(
    scores: ArrayLike,
    included: Sequence[bool] | NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
    guesses: Sequence[int] | None = None,
) -> OneRunBound:
    """The bound of an auditor who takes high scores for planted and low ones for not.

    With r guesses, the r/2 highest scores are guessed planted and the r/2 lowest not. Of several r
    the best bound counts, each at a confidence at which all hold together.

    Args:
        scores: (m,), one a canary, higher where it looks trained on. They may depend on the
            training's outcome and on public things, in no way on the coins.
        included: (m,) the coins.
        delta: δ in [0, 1].
        confidence: of the bound, in (0, 1).
        guesses: numbers r of guesses, chosen before the coins are looked at; None for a quarter,
            half and all of the canaries.

    Raises:
        InvalidSetting: scores and coins of other shapes, fewer than two, coins that are not
            booleans, or a setting outside its range.
        NotFinite: a score that is NaN. Infinite ones are ordered like others.
    """
    values, coins = score_and_coin(scores, included)
    m = len(values)
    if guesses is None:
        tried = sorted({max(2, round(share * m)) for share in SHARES})
    else:
        tried = sorted({whole("guesses", r, most=m) for r in guesses})
        if not tried:
            raise InvalidSetting("guesses is empty: one number of guesses is needed")
    if not 0 < confidence < 1:
        raise InvalidSetting(f"confidence is {confidence!r}, it must be in (0, 1)")
    each = 1 - (1 - confidence) / len(tried)
    order = np.argsort(values, kind="stable")
    bounds = []
    for r in tried:
        lowest, highest = order[: r // 2], order[m - (r - r // 2) :]
        correct = int(coins[highest].sum() + (~coins[lowest]).sum())
        bounds.append(
            OneRunBound(
                epsilon_lower_bound(m, r, correct, delta=delta, confidence=each),
                highest_bound(m, r, delta=delta, confidence=each),
                float(delta),
                float(confidence),
                m,
                r,
                correct,
            )
        )
    return max(bounds, key=lambda bound: (bound.epsilon, bound.guesses))


def score_and_coin(
    scores: ArrayLike, included: Sequence[bool] | NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and coins as arrays (m,); errors as :func:`audit_one_run`."""
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included)
    if values.ndim != 1 or values.shape != coins.shape or len(values) < 2:
        raise InvalidSetting(
            f"scores of shape {values.shape} and coins of shape {coins.shape}: one score and one "
            "coin a canary are needed, for two canaries or more"
        )
    if coins.dtype != np.bool_:
        raise InvalidSetting(f"coins are {coins.dtype}, they must be True or False")
    if bad := np.flatnonzero(np.isnan(values)).tolist():
        raise NotFinite(f"{len(bad)} scores are NaN, the first is that of canary {bad[0]}")
    return values, coins


def _check_delta(delta: float) -> None:
    if not 0 <= delta <= 1:
        raise InvalidSetting(f"delta is {delta!r}, it must be in [0, 1]")
