"""Which answer of a question is the best, and which questions are worth keeping (section 2.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting, NotFinite
from rewardds.synthetic import SyntheticRow


@dataclass(frozen=True)
class Ranking:
    """The candidates of one question, compared.

    Attributes:
        scores: of each candidate, α·rank^R + (1 − α)·rank^P, between 1 and their number.
        chosen: position of the best.
        rejected: position of the worst; None where there is one candidate only.
    """

    scores: tuple[float, ...]
    chosen: int
    rejected: int | None


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """(c,) ranks of (c,) values: 1 for the lowest, c for the highest, their mean where some tie."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1)
    ranked: NDArray[np.float64] = below + (equal + 1) / 2
    return ranked


def rank_candidates(
    rewards: Sequence[float], perplexities: Sequence[float], *, alpha: float = 0.5
) -> Ranking:
    """Compare one question's candidates by reward and by perplexity (arXiv 2502.18517).

    The worst reward and the highest perplexity have rank 1. Of equal scores the higher reward is
    the better, of equal rewards too the lower perplexity, and then the earlier candidate, so the
    outcome does not hang on the order but for candidates that are equal in everything.

    Args:
        rewards: r of each of the c >= 1 candidates.
        perplexities: of each under the generation proxy, > 0.
        alpha: weight of the reward's rank, in [0, 1].

    Raises:
        InvalidSetting: alpha outside [0, 1], no candidates, or lists of two lengths.
        NotFinite: a reward that is NaN or infinite, or a perplexity that is no positive number.
    """
    check_alpha(alpha)
    if not len(rewards) or len(rewards) != len(perplexities):
        raise InvalidSetting(
            f"{len(rewards)} rewards and {len(perplexities)} perplexities: one of each is needed "
            "for every candidate, and at least one candidate"
        )
    for i, (reward, perplexity) in enumerate(zip(rewards, perplexities, strict=True)):
        if not math.isfinite(reward) or not math.isfinite(perplexity) or perplexity <= 0:
            raise NotFinite(
                f"candidate {i} has reward {reward} and perplexity {perplexity}: both must be "
                "finite and the perplexity > 0; the model that gave them has diverged"
            )
    by_perplexity = ranks([-value for value in perplexities])
    scores = (alpha * ranks(rewards) + (1 - alpha) * by_perplexity).tolist()
    order = sorted(
        range(len(scores)), key=lambda i: (-round(scores[i], 9), -rewards[i], perplexities[i], i)
    )
    return Ranking(tuple(scores), order[0], order[-1] if len(order) > 1 else None)


def ranked(row: SyntheticRow, *, alpha: float = 0.5) -> SyntheticRow:
    """A scored row with its best and its worst candidate, by :func:`rank_candidates`.

    Where the worst says the same as the best, which one is drawn again and again, none is rejected:
    there is nothing to prefer.

    Raises:
        InvalidSetting, NotFinite: as :func:`rank_candidates`.
    """
    found = rank_candidates(row.rewards, row.perplexities, alpha=alpha)
    texts = row.candidates
    same = found.rejected is None or texts[found.rejected] == texts[found.chosen]
    return replace(row, chosen=found.chosen, rejected=None if same else found.rejected)


def keep_best(rewards: Sequence[float], keep: float) -> list[int]:
    """The positions of the ⌊keep·q⌋ highest of q rewards, at least one, the highest first.

    Args:
        rewards: of each question's chosen answer; equal ones stay in order.
        keep: share that stays, in (0, 1].

    Raises:
        InvalidSetting: keep outside (0, 1], or no rewards.
    """
    check_keep(keep)
    if not len(rewards):
        raise InvalidSetting("no questions are left to keep the best of")
    order = sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
    return order[: how_many(len(rewards), keep)]


def how_many(n: int, keep: float) -> int:
    """⌊keep·n⌋, at least 1; a share such as 1/3 of 3 is not lost to rounding."""
    return max(1, math.floor(keep * n + 1e-9))


def check_alpha(alpha: float) -> None:
    """Raises InvalidSetting unless alpha is in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise InvalidSetting(f"alpha is {alpha}: the weight of the reward's rank is in [0, 1]")


def check_keep(keep: float) -> None:
    """Raises InvalidSetting unless keep is in (0, 1]."""
    if not 0 < keep <= 1:
        raise InvalidSetting(f"keep is {keep}: the share of questions that stay is in (0, 1]")
