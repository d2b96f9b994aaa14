"""The pool: which synthetic rows are learnt from, at first and as refined ones come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lipogram.analytic.settings import one_of
from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRows
from rewardds.ranking import check_keep, how_many, keep_best
from rewardds.synthetic import SyntheticRow, check_ids

Threshold = Literal["quantile", "floor"]
Dedupe = Literal["best", "latest", "keep"]
Select = Literal["reward", "margin", "posed"]
"""What questions compete by: the reward of their chosen answers, as in the paper, or how far that
is above the mean of their other candidates. Preferences say nothing of answers to two questions:
what a reward adds to all answers of one is arbitrary, and the margin is free of it. "posed" is for
questions that were written to given answers, their first candidates: this answer is the chosen one,
and questions to one answer compete among themselves, by its margin. What the reward adds to an
answer wherever it stands, because of how the texts were made, does not count then either."""


@dataclass(frozen=True)
class Pool:
    """What is learnt from, and where the next refinement goes on from.

    Attributes:
        rows: of each question the newest ranked row.
        kept: rows to learn from, the worthiest first.
        keep: share of the questions that were kept at first.
        select: what makes them worthy.
    """

    rows: tuple[SyntheticRow, ...]
    kept: tuple[SyntheticRow, ...]
    keep: float
    select: Select = "reward"

    @property
    def floor(self) -> float:
        """The least worth, by :func:`worth`, in :attr:`kept`."""
        return min(worth(row, self.select) for row in self.kept)


def worth(row: SyntheticRow, select: Select) -> float:
    """What a question competes with: see :data:`Select`.

    The margin of a question whose candidates all say the same is 0: nothing speaks for its answer.

    Raises:
        InvalidRows: a row that is not scored and ranked.
    """
    reward = row.reward
    if select == "reward":
        return reward
    told = dict(zip(row.candidates, row.rewards, strict=True))
    others = [value for text, value in told.items() if text != row.answer]
    return reward - sum(others) / len(others) if others else 0.0


def first_pool(
    rows: Sequence[SyntheticRow], *, keep: float = 1 / 8, select: Select = "reward"
) -> Pool:
    """The share of questions whose chosen answers have the highest rewards (section 2.6).

    Args:
        rows: scored and ranked, one a question.
        keep: share that stays, in (0, 1]; at least one row does.
        select: "reward", "margin" to keep those whose answers stand out the most, or "posed" to
            keep as large a share of the questions to each answer.

    Raises:
        InvalidSetting: keep outside its range, or another way to select.
        InvalidRows: no rows, two rows of one question, or rows that are not scored and ranked.
    """
    check_selection(keep, select)
    if not rows:
        raise InvalidRows("there are no rows to filter: every question lost all its candidates")
    check_ids(rows)
    _check_questions(rows)
    if select == "posed":
        return _posed_pool([_posed(row) for row in rows], keep)
    best = keep_best([worth(row, select) for row in rows], keep)
    return Pool(tuple(rows), tuple(rows[i] for i in best), keep, select)


def grown_pool(
    pool: Pool,
    refined: Sequence[SyntheticRow],
    *,
    threshold: Threshold = "quantile",
    dedupe: Dedupe = "latest",
) -> Pool:
    """The pool after a stage of refinement (section 2.7).

    Args:
        pool: before.
        refined: newly scored and ranked rows of questions of the pool; a question without one
            keeps its row.
        threshold: "floor" adds what reaches the lowest reward in the pool, as the paper does: it
            only grows, and its floor never rises. "quantile" lets rows old and new stay that reach
            the reward at which `pool.keep` of all questions pass, each by the row that `dedupe`
            leaves it, or by its best. With another `select` of the pool it is that in place of
            the reward, here and below.
        dedupe: of rows of one question "keep" all, as the paper does, the "latest", or the "best",
            whose reward is the highest. The highest of ever more draws is in the end that of the
            reward's own mistakes: where answers compete (see
            :class:`rewardds.refinement.RefinementSettings`) the latest row has what won so far.

    Raises:
        InvalidSetting: another threshold or dedupe, or a pool of questions to given answers, which
            nothing can improve.
        InvalidRows: a refined row of a question that the pool does not have, two of one question,
            or rows that are not scored and ranked.
    """
    one_of("threshold", threshold, get_args(Threshold))
    one_of("dedupe", dedupe, get_args(Dedupe))
    check_refinable(pool)
    current = {root(row): row for row in pool.rows}
    check_ids([*pool.rows, *refined])
    _check_questions(refined)
    for row in refined:
        if root(row) not in current:
            raise InvalidRows(f"row {row.id!r} is of a question that the pool does not have")
    newest = current | {root(row): row for row in refined}

    def value(row: SyntheticRow) -> float:
        return worth(row, pool.select)

    if threshold == "floor":
        passing = [row for row in [*pool.kept, *refined] if value(row) >= pool.floor]
        left = _deduped(passing, dedupe, value)
    else:  # a question's row may pass now that fell out before
        rows = {row.id: row for row in [*pool.kept, *pool.rows, *refined]}.values()
        each = _deduped(rows, "best" if dedupe == "keep" else dedupe, value)
        order = sorted((value(row) for row in each), reverse=True)
        floor = order[how_many(len(order), pool.keep) - 1]
        left = [row for row in (rows if dedupe == "keep" else each) if value(row) >= floor]
    kept = sorted(left, key=lambda row: (-value(row), row.id))
    newest_rows = tuple(newest[root(row)] for row in pool.rows)
    return Pool(newest_rows, tuple(kept), pool.keep, pool.select)


def _posed(row: SyntheticRow) -> SyntheticRow:
    """The row with its first candidate chosen, and the best that says otherwise rejected."""
    others = [i for i, text in enumerate(row.candidates) if text != row.candidates[0]]
    rejected = max(others, key=lambda i: row.rewards[i]) if others else None
    return replace(row, chosen=0, rejected=rejected)


def _posed_pool(rows: Sequence[SyntheticRow], keep: float) -> Pool:
    kept: list[SyntheticRow] = []
    for answer in dict.fromkeys(row.answer for row in rows):
        own = [row for row in rows if row.answer == answer]
        kept += [own[i] for i in keep_best([worth(row, "posed") for row in own], keep)]
    kept.sort(key=lambda row: (-worth(row, "posed"), row.id))
    return Pool(tuple(rows), tuple(kept), keep, "posed")


def check_refinable(pool: Pool) -> None:
    """Raises InvalidSetting where questions were written to their answers, not the other way."""
    if pool.select == "posed":
        raise InvalidSetting(
            "the questions of this pool were written to given answers: there is none to refine"
        )


def check_selection(keep: float, select: str) -> None:
    """Raises InvalidSetting unless keep is in (0, 1] and select is one of :data:`Select`."""
    check_keep(keep)
    one_of("select", select, get_args(Select))


def root(row: SyntheticRow) -> str:
    """The id of the sampled row that a row was refined from, which names its question."""
    return row.id.removesuffix(f"@{row.stage}") if row.stage else row.id


def _deduped(
    rows: Iterable[SyntheticRow], dedupe: Dedupe, value: Callable[[SyntheticRow], float]
) -> list[SyntheticRow]:
    if dedupe == "keep":
        return list(rows)
    chosen: dict[str, SyntheticRow] = {}
    for row in rows:
        held = chosen.get(root(row))
        better = held is None or (
            value(row) > value(held) if dedupe == "best" else row.stage > held.stage
        )
        if better:
            chosen[root(row)] = row
    return list(chosen.values())


def _check_questions(rows: Sequence[SyntheticRow]) -> None:
    seen: set[str] = set()
    for row in rows:
        _ = row.reward  # raises where it is not scored and ranked
        if root(row) in seen:
            raise InvalidRows(f"question {root(row)!r} is there twice: one row a question")
        seen.add(root(row))
