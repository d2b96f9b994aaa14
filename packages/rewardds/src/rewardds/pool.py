"""The pool: which synthetic rows are learnt from, at first and as refined ones come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRows
from rewardds.ranking import check_keep, how_many, keep_best
from rewardds.synthetic import SyntheticRow, check_ids

Threshold = Literal["quantile", "floor"]
Dedupe = Literal["best", "latest", "keep"]


@dataclass(frozen=True)
class Pool:
    """What is learnt from, and where the next refinement goes on from.

    Attributes:
        rows: of each question the newest ranked row.
        kept: rows to learn from, the highest reward first.
        keep: share of the questions that were kept at first.
    """

    rows: tuple[SyntheticRow, ...]
    kept: tuple[SyntheticRow, ...]
    keep: float

    @property
    def floor(self) -> float:
        """The lowest reward in :attr:`kept`."""
        return min(row.reward for row in self.kept)


def first_pool(rows: Sequence[SyntheticRow], *, keep: float = 1 / 8) -> Pool:
    """The share of questions whose chosen answers have the highest rewards (section 2.6).

    Args:
        rows: scored and ranked, one a question.
        keep: share that stays, in (0, 1]; at least one row does.

    Raises:
        InvalidSetting: keep outside its range.
        InvalidRows: no rows, two rows of one question, or rows that are not scored and ranked.
    """
    check_keep(keep)
    if not rows:
        raise InvalidRows("there are no rows to filter: every question lost all its candidates")
    check_ids(rows)
    _check_questions(rows)
    best = keep_best([row.reward for row in rows], keep)
    return Pool(tuple(rows), tuple(rows[i] for i in best), keep)


def grown_pool(
    pool: Pool,
    refined: Sequence[SyntheticRow],
    *,
    threshold: Threshold = "quantile",
    dedupe: Dedupe = "best",
) -> Pool:
    """The pool after a stage of refinement (section 2.7).

    Args:
        pool: before.
        refined: newly scored and ranked rows of questions of the pool; a question without one
            keeps its row.
        threshold: "floor" adds what reaches the lowest reward in the pool, as the paper does: it
            only grows, and its floor never rises. "quantile" lets rows old and new stay that reach
            the reward at which `pool.keep` of all questions, each by its best row so far, pass.
        dedupe: of rows of one question "keep" all, as the paper does, the "latest", or the "best",
            whose reward is the highest.

    Raises:
        InvalidSetting: another threshold or dedupe.
        InvalidRows: a refined row of a question that the pool does not have, two of one question,
            or rows that are not scored and ranked.
    """
    for name, value, known in (("threshold", threshold, Threshold), ("dedupe", dedupe, Dedupe)):
        if value not in get_args(known):
            raise InvalidSetting(f"{name} is {value!r}; there are {', '.join(get_args(known))}")
    current = {root(row): row for row in pool.rows}
    check_ids([*pool.rows, *refined])
    _check_questions(refined)
    for row in refined:
        if root(row) not in current:
            raise InvalidRows(f"row {row.id!r} is of a question that the pool does not have")
    newest = current | {root(row): row for row in refined}
    if threshold == "floor":
        floor = pool.floor
    else:
        best = {name: row.reward for name, row in current.items()}
        for row in [*pool.kept, *refined]:
            best[root(row)] = max(best[root(row)], row.reward)
        floor = sorted(best.values(), reverse=True)[how_many(len(best), pool.keep) - 1]
    passing = [row for row in [*pool.kept, *refined] if row.reward >= floor]
    if threshold == "quantile":  # a question's row may pass now that fell out before
        held = {row.id for row in passing}
        passing += [row for row in pool.rows if row.reward >= floor and row.id not in held]
    kept = sorted(_deduped(passing, dedupe), key=lambda row: (-row.reward, row.id))
    return Pool(tuple(newest[root(row)] for row in pool.rows), tuple(kept), pool.keep)


def root(row: SyntheticRow) -> str:
    """The id of the sampled row that a row was refined from, which names its question."""
    return row.id.removesuffix(f"@{row.stage}") if row.stage else row.id


def _deduped(rows: list[SyntheticRow], dedupe: Dedupe) -> list[SyntheticRow]:
    if dedupe == "keep":
        return rows
    chosen: dict[str, SyntheticRow] = {}
    for row in rows:
        held = chosen.get(root(row))
        better = held is None or (
            row.reward > held.reward if dedupe == "best" else row.stage > held.stage
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
