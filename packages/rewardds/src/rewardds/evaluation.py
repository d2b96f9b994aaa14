"""Evaluation: answers to held-out questions, and how like the references they are.

The scores of private held-out records are private: they are for the owner of the data, and belong
into no bundle and no choice of what is released.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel
from rewardds.backends import Backend, Drawing, Prompt
from rewardds.code_execution import LIMITS, Limits, Outcome, code_of, run_many
from rewardds.errors import InvalidRecords
from rewardds.prompts import Prompts
from rewardds.records import Record
from rewardds.text_scores import rouge, sentence_bleu

MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class AnswerScore:
    """What one answer scored.

    Attributes:
        id: of the record.
        ended: whether the model ended it by itself.
        rouge1: F1 with stems, in [0, 1].
        rouge2: likewise.
        rougeL: likewise.
        bleu: of the sentence, in [0, 1].
        perplexity: of the answer under the model that wrote it; None where not asked for, and for
            an answer without a token.
        outcome: of its code under the assertions; None where it was not run.
    """

    id: str
    ended: bool
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815
    bleu: float
    perplexity: float | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of answers, in the order of their records.

    Attributes:
        scores: at least one.
    """

    scores: tuple[AnswerScore, ...]

    def __post_init__(self) -> None:
        if not self.scores:
            raise InvalidRecords("there is no answer to score: at least one record is needed")

    def without(self, ids: Collection[str]) -> Evaluation:
        """The scores of other records than these.

        Raises:
            InvalidRecords: none are left.
        """
        return Evaluation(tuple(score for score in self.scores if score.id not in ids))

    @property
    def pass_at_1(self) -> float | None:
        """Share of answers whose code passed, of those that were run; None where none was."""
        run = [score.outcome for score in self.scores if score.outcome is not None]
        return run.count("passed") / len(run) if run else None

    def summary(self) -> dict[str, Any]:
        """Number of answers, means of the scores, share that ended, and outcomes by name."""
        found: dict[str, Any] = {"n": len(self.scores)}
        for name in ("ended", "rouge1", "rouge2", "rougeL", "bleu", "perplexity"):
            values = [getattr(score, name) for score in self.scores]
            known = [float(value) for value in values if value is not None]
            found[name] = fmean(known) if known else None
        outcomes = Counter(score.outcome for score in self.scores if score.outcome is not None)
        return {**found, "pass_at_1": self.pass_at_1, "outcomes": dict(sorted(outcomes.items()))}


@dataclass(frozen=True)
class CodeTests:
    """That a model's code is to be run, and how.

    Attributes:
        asserts: lines of Python by the id of the record; answers of other records are not run.
        limits: on each run.
        do_without: see :func:`rewardds.code_execution.run_code`.
        workers: runs at a time.
    """

    asserts: Mapping[str, Sequence[str]]
    limits: Limits = LIMITS
    do_without: Collection[str] = ()
    workers: int = 1


def evaluate(
    backend: Backend,
    records: Sequence[Record],
    prompts: Prompts,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    own_model: LoadedModel | None = None,
    code_tests: CodeTests | None = None,
) -> Evaluation:
    """Answer each question by the most probable tokens, and score the answers.

    Args:
        backend: with the model.
        records: questions with the references; private ones stay where they are.
        prompts: how the model is asked.
        max_new_tokens: of an answer.
        own_model: the model again, to get the perplexity of its own answers from.
        code_tests: None never runs what the model wrote.

    Raises:
        InvalidRecords: no records, or an id twice.
        InvalidSetting: `max_new_tokens` below 1.
        UnsafeSetting: see :func:`rewardds.code_execution.run_code`.
    """
    asked = [Prompt(record.id, prompts.answer_turns(record.instruction)) for record in records]
    drawing = Drawing(max_new_tokens=max_new_tokens, temperature=0.0, top_p=1.0)
    answers = [drawn[0] for drawn in backend.generate(asked, 1, drawing)]
    return score_answers(
        records,
        [answer.text for answer in answers],
        ended=[answer.ended for answer in answers],
        perplexities=_perplexities(own_model, prompts, records, [a.text for a in answers]),
        code_tests=code_tests,
    )


def score_answers(
    records: Sequence[Record],
    answers: Sequence[str],
    *,
    ended: Sequence[bool] | None = None,
    perplexities: Sequence[float | None] | None = None,
    code_tests: CodeTests | None = None,
) -> Evaluation:
    """Score answers that are there already.

    Args:
        records: questions with the references.
        answers: one a record.
        ended: which of them the model ended by itself; None for all.
        perplexities: of each; None for none.
        code_tests: None never runs what the model wrote.

    Raises:
        InvalidRecords: no records, or an id twice.
        InvalidSetting: another number of answers, or of what goes with them.
        UnsafeSetting: see :func:`rewardds.code_execution.run_code`.
    """
    n = len(records)
    if len({record.id for record in records}) != n:
        raise InvalidRecords("an id is there twice: ids name one record")
    ended = [True] * n if ended is None else ended
    perplexities = [None] * n if perplexities is None else perplexities
    if not len(answers) == len(ended) == len(perplexities) == n:
        raise InvalidSetting(
            f"{n} records, {len(answers)} answers, {len(ended)} ends, {len(perplexities)} "
            "perplexities: there must be as many of each"
        )
    outcomes = _outcomes(records, answers, code_tests)
    scores = []
    for i, (record, answer) in enumerate(zip(records, answers, strict=True)):
        overlaps = rouge(answer, record.response)
        scores.append(
            AnswerScore(
                record.id,
                ended[i],
                overlaps.rouge1.f1,
                overlaps.rouge2.f1,
                overlaps.rougeL.f1,
                sentence_bleu(answer, record.response),
                perplexities[i],
                outcomes.get(record.id),
            )
        )
    return Evaluation(tuple(scores))


def evaluation_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Summaries as a table in Markdown, one a row; what nobody measured is left empty."""
    names = ["n", *(field.name for field in fields(AnswerScore)[1:-1]), "pass_at_1"]
    lines = [["model", *names]]
    for name, evaluation in evaluations.items():
        summary = evaluation.summary()
        lines.append([name, *(_cell(summary[column]) for column in names)])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]])


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _outcomes(
    records: Sequence[Record], answers: Sequence[str], tests: CodeTests | None
) -> dict[str, Outcome]:
    if tests is None:
        return {}
    run = [
        (record.id, code_of(answer), tests.asserts[record.id])
        for record, answer in zip(records, answers, strict=True)
        if record.id in tests.asserts
    ]
    outcomes = run_many(
        [(code, asserts) for _, code, asserts in run],
        limits=tests.limits,
        do_without=tests.do_without,
        workers=tests.workers,
    )
    return dict(zip((id_ for id_, _, _ in run), outcomes, strict=True))


def _perplexities(
    model: LoadedModel | None, prompts: Prompts, records: Sequence[Record], answers: Sequence[str]
) -> list[float | None]:
    if model is None:
        return [None] * len(records)
    from lipogram.llm.text import pad_id
    from rewardds.prompts import sequence
    from rewardds.sequence_scores import perplexities

    written = [i for i, answer in enumerate(answers) if answer]
    groups = [
        [
            sequence(
                model.tokenizer,
                prompts.answer_turns(records[i].instruction, answers[i]),
                sys.maxsize,
            )[0]
        ]
        for i in written
    ]
    found: list[float | None] = [None] * len(records)
    scored = perplexities(model.model, groups, padding=pad_id(model.tokenizer))
    for i, (value,) in zip(written, scored, strict=True):
        found[i] = value
    return found
