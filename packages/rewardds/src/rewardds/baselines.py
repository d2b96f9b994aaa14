"""What the reward filter is compared with: other ways to choose rows, and no privacy at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.seeds import rng
from lipogram.llm.text_metrics import rouge_l
from rewardds.errors import InvalidRecords, InvalidRows, UnsafeSetting
from rewardds.finetuning import Tuning, TuningReport, finetune
from rewardds.prompts import Prompts
from rewardds.ranking import ranked
from rewardds.records import PrivateRecords, PublicRecords
from rewardds.synthetic import SyntheticRow


def raw_synthetic(rows: Sequence[SyntheticRow], *, seed: int = 0) -> list[SyntheticRow]:
    """Every question with one of its candidates by chance; none is rejected.

    An answer counts as often as it was drawn, so this is again a draw from the proxy. What is drawn
    for a row depends on its id and the seed alone.
    """
    return [
        _with(row, int(torch.randint(len(row.candidates), (1,), generator=rng(row.id, seed))))
        for row in rows
        if row.candidates
    ]


def random_subset(rows: Sequence[SyntheticRow], n: int, *, seed: int = 0) -> list[SyntheticRow]:
    """`n` questions by chance, each with a candidate by chance, in the order of `rows`.

    Raises:
        InvalidSetting: fewer than 1, or more than there are.
    """
    raw = raw_synthetic(rows, seed=seed)
    _check(n, len(raw))
    order = torch.randperm(len(raw), generator=rng("random subset", seed)).tolist()
    return [raw[i] for i in sorted(order[:n])]


def rouge_filter(
    rows: Sequence[SyntheticRow], references: PublicRecords, n: int
) -> list[SyntheticRow]:
    """The `n` answers most like a public reference answer, one a question, the best first.

    A candidate's score is its largest ROUGE-L F1 with any reference (Lin 2004).

    Args:
        rows: with candidates; those without are left out.
        references: public ones. Private references would make the choice a release of its own,
            which nobody has accounted for.
        n: rows that stay.

    Raises:
        InvalidRecords: references that are not public by their type.
        InvalidSetting: n outside 1 to the number of rows.
    """
    if not isinstance(references, PublicRecords):
        raise InvalidRecords(
            f"references are a {type(references).__name__}: they must be PublicRecords"
        )
    said = sorted({record.response for record in references if record.response})
    scored = [
        [max((rouge_l(text, one).f1 for one in said), default=0.0) for text in row.candidates]
        for row in rows
    ]
    return _best(rows, scored, n)


def perplexity_filter(rows: Sequence[SyntheticRow], n: int) -> list[SyntheticRow]:
    """The `n` answers of the lowest perplexity under the generation proxy, one a question.

    Raises:
        InvalidRows: rows that have not been scored.
        InvalidSetting: n outside 1 to the number of rows.
    """
    for row in rows:
        if len(row.perplexities) != len(row.candidates):
            raise InvalidRows(f"row {row.id!r} has no perplexities: score it first")
    return _best(rows, [[-value for value in row.perplexities] for row in rows], n)


def shuffled_rewards(
    rows: Sequence[SyntheticRow], *, alpha: float = 0.5, seed: int = 0
) -> list[SyntheticRow]:
    """The rows with their rewards dealt out anew among all candidates, and ranked again.

    A control: filtering by them must be no better than chance.

    Raises:
        InvalidRows: rows that have not been scored.
        InvalidSetting: alpha outside [0, 1].
    """
    for row in rows:
        if not row.rewards or not row.perplexities:
            raise InvalidRows(f"row {row.id!r} has no scores: score it first")
    rewards = [reward for row in rows for reward in row.rewards]
    order = torch.randperm(len(rewards), generator=rng("shuffled rewards", seed)).tolist()
    dealt = iter([rewards[i] for i in order])
    found = []
    for row in rows:
        own = tuple(next(dealt) for _ in row.rewards)
        found.append(ranked(replace(row, rewards=own), alpha=alpha))
    return found


@dataclass(frozen=True)
class NonPrivateBound:
    """What a model learnt from the records themselves.

    Attributes:
        tuning: what was done. It was measured on private records: it must not leave the client.
        epsilon: infinite. The tuned model must not leave either.
    """

    tuning: TuningReport
    epsilon: float = math.inf


def nonprivate_bound(
    loaded: LoadedModel,
    records: PrivateRecords,
    tuning: Tuning,
    prompts: Prompts,
    *,
    allow_nonprivate: bool = False,
) -> NonPrivateBound:
    """Tune a model on the private records without any privacy: what synthesis can at best approach.

    Args:
        loaded: prepared for tuning, at the client.
        records: private or public.
        tuning: method "sft".
        prompts: as for synthetic rows.
        allow_nonprivate: must be True.

    Raises:
        UnsafeSetting: nobody asked for it by name; nothing was trained.
        InvalidSetting: another method: a record has no second answer.
        InvalidRows, NotFinite: as :func:`rewardds.finetuning.finetune`.
    """
    if not allow_nonprivate:
        raise UnsafeSetting(
            "training on private records without noise has no finite epsilon: to measure what is "
            "lost to privacy, pass allow_nonprivate=True, and let nothing of it leave"
        )
    if tuning.method != "sft":
        raise InvalidSetting(f"method is {tuning.method!r}: records have one answer, use 'sft'")
    rows = [
        SyntheticRow(record.id, record.instruction, (record.response,), chosen=0)
        for record in records
    ]
    return NonPrivateBound(finetune(loaded, rows, tuning, prompts))


def _best(
    rows: Sequence[SyntheticRow], scores: Sequence[Sequence[float]], n: int
) -> list[SyntheticRow]:
    """Of each row the candidate of the highest score, and of those the n best, in order."""
    ranked = [
        (max(own), i, max(range(len(own)), key=lambda c: (own[c], -c)))
        for i, own in enumerate(scores)
        if own
    ]
    _check(n, len(ranked))
    ranked.sort(key=lambda item: (-item[0], item[1]))
    return [_with(rows[i], candidate) for _, i, candidate in ranked[:n]]


def _with(row: SyntheticRow, candidate: int) -> SyntheticRow:
    return replace(row, chosen=candidate, rejected=None)


def _check(n: int, available: int) -> None:
    if not 1 <= n <= available:
        raise InvalidSetting(f"{n} rows are asked for, there are {available} with a candidate")
