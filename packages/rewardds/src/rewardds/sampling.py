"""Questions and candidate answers from the generation proxy, of public prompts alone."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from lipogram.errors import InvalidSetting
from lipogram.llm.seeds import rng
from rewardds.backends import Backend, Drawing, Prompt
from rewardds.errors import TooFewQuestions
from rewardds.near_duplicates import NearDuplicates
from rewardds.prompts import Prompts
from rewardds.row_filters import ANSWER, QUESTION, RowFilter
from rewardds.shards import Shards
from rewardds.synthetic import SyntheticRow
from rewardds.taint import ReleaseGate


@dataclass(frozen=True)
class SamplingSettings:
    """How rows are sampled; the defaults are the authors' (arXiv 2502.18517) but for the filters.

    Attributes:
        candidates: answers drawn for a question.
        shown: seeds shown in the request for a question, where there are seeds.
        question_tokens: of a question, at most.
        answer_tokens: of an answer, at most.
        temperature: of all draws.
        top_p: of all draws.
        seed: of all draws.
        question_filter: what a question must be like.
        answer_filter: what an answer must be like.
        similarity: of two questions from which the later one goes, in (0, 1].
        attempts: draws per question wanted, at which sampling gives up.

    Raises:
        InvalidSetting: a value outside its range.
    """

    candidates: int = 6
    shown: int = 2
    question_tokens: int = 512
    answer_tokens: int = 768
    temperature: float = 1.0
    top_p: float = 0.7
    seed: int = 0
    question_filter: RowFilter = QUESTION
    answer_filter: RowFilter = ANSWER
    similarity: float = 0.8
    attempts: int = 20

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("shown", 0), ("attempts", 1)):
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} is {getattr(self, name)}: at least {least}")
        if self.temperature == 0:
            raise InvalidSetting("at temperature 0 all questions are one: it must be above 0")
        NearDuplicates(self.similarity)
        _ = self.answer_drawing

    @property
    def question_drawing(self) -> Drawing:
        """How questions are drawn."""
        return Drawing(self.question_tokens, self.temperature, self.top_p, self.seed)

    @property
    def answer_drawing(self) -> Drawing:
        """How answers are drawn."""
        return replace(self.question_drawing, max_new_tokens=self.answer_tokens)


@dataclass(frozen=True)
class SamplingCounts:
    """What became of the draws.

    Attributes:
        attempts: questions drawn, as far as they were looked at.
        questions: of them kept; `attempts` less the sum of `questions_dropped`.
        answers: answers drawn.
        candidates: of them kept; `answers` less the sum of `answers_dropped`.
        rows: questions that have a candidate.
        questions_dropped: by reason: "length" and "context" (not ended by the model itself; see
            :class:`rewardds.backends.Completion`), a filter's faults, "near duplicate".
        answers_dropped: by reason: the same, but for duplicates: an answer that a question got
            before stays, for candidates are draws from the proxy.
    """

    attempts: int
    questions: int
    answers: int = 0
    candidates: int = 0
    rows: int = 0
    questions_dropped: dict[str, int] = field(default_factory=dict)
    answers_dropped: dict[str, int] = field(default_factory=dict)


class Sampler:
    """Draws questions, takes out what is none or nearly one of before, and draws their answers.

    A question is drawn by its number and answered by its number: whatever the shards, the batches
    and the processes, the rows are the same. Several processes share the work in one folder by
    :meth:`draw_questions` and :meth:`draw_answers` of every k-th item; :meth:`rows` draws what is
    missing. Filters come after drawing: other ones may be set for the same folder.

    Args:
        backend: with the generation proxy.
        prompts: those that the proxy was trained with.
        seeds: public or synthetic questions, shown as examples; none are needed.
        answers: public ones that are every question's candidates in place of drawn ones; none for
            drawn ones.
        posed: draw questions to each of `answers` in turn, with a proxy that was trained to.
        settings: how.
        gate: what everything passes that comes in.
        folder: where what was drawn is kept, and found again; None for nowhere.
        source: what the draws came from, such as the bundle's hash; a folder is of one source.
        shard_size: prompts that are drawn, and kept, at a time.

    Raises:
        PrivateObject, PrivateText, InvalidSetting: as :meth:`rewardds.taint.ReleaseGate.seeds`.
        RunMismatch, CorruptState: as :class:`rewardds.shards.Shards`.
    """

    def __init__(
        self,
        backend: Backend,
        prompts: Prompts,
        *,
        seeds: Iterable[str] = (),
        answers: Iterable[str] = (),
        posed: bool = False,
        settings: SamplingSettings | None = None,
        gate: ReleaseGate | None = None,
        folder: str | Path | None = None,
        source: str = "",
        shard_size: int = 64,
    ):
        gate = ReleaseGate() if gate is None else gate
        gate.admit("sampling", prompts=prompts, settings=settings, source=source)
        self.seeds = gate.seeds(seeds)
        self.answers = gate.seeds(answers)
        self.posed = self.answers if posed else ()
        self.settings = SamplingSettings() if settings is None else settings
        self._backend, self._prompts, self._gate = backend, prompts, gate
        drawn = {
            "source": source,
            "prompts": prompts.to_json(),
            "seeds": _digest(self.seeds),
            "posed": _digest(self.posed),
            "shown": self.settings.shown,
            "candidates": self.settings.candidates,
            "questions": asdict(self.settings.question_drawing),
            "answers": asdict(self.settings.answer_drawing),
        }
        self._shards = Shards(folder, drawn, size=shard_size)

    def draw_questions(self, numbers: Iterable[int]) -> None:
        """Draw those of the numbered questions, from 0, that are not drawn yet."""
        self._shards.complete("question", numbers, self._question_work)

    def questions(self, count: int) -> dict[int, str]:
        """The first `count` distinct questions, by number; fewer where sampling gives up.

        Raises:
            InvalidSetting: a count below 1.
        """
        return self._distinct(count)[0]

    def draw_answers(self, questions: dict[int, str]) -> None:
        """Draw the answers to those questions, of :meth:`questions`, that have none yet."""
        self._draw("answer", questions)

    def rows(self, count: int) -> tuple[list[SyntheticRow], SamplingCounts]:
        """Sample `count` questions with their candidates.

        Returns:
            The rows that have a candidate, in the order of their numbers, and what became of the
            draws.

        Raises:
            InvalidSetting: a count below 1.

        Warns:
            TooFewQuestions: sampling gave up.
        """
        questions, attempts, dropped = self._distinct(count)
        if len(questions) < count:
            reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common())
            warnings.warn(
                f"{len(questions)} of {count} questions after {attempts} draws, the others were "
                f"dropped ({reasons}): train the proxy longer, ask for fewer questions, or set "
                "the filters otherwise",
                TooFewQuestions,
                stacklevel=2,
            )
        return self._answered(questions, attempts, dropped)

    def rows_of(self, questions: Sequence[str]) -> tuple[list[SyntheticRow], SamplingCounts]:
        """Candidates for given questions, public or synthetic ones; one may be there many times.

        Raises:
            PrivateText, InvalidSetting: a question that is private, or none.
        """
        asked = self._gate.seeds(questions)
        if not asked:
            raise InvalidSetting("there are no questions to answer")
        # Kept by the questions: their numbers are no numbers of questions that were drawn.
        kind = f"given{_digest(asked)[:12]}"
        return self._answered(dict(enumerate(asked)), len(asked), Counter(), kind)

    def _draw(self, kind: str, questions: dict[int, str]) -> dict[int, list[list[str]]]:
        """[text, finish] of each answer, by the number of the question."""

        def work(numbers: list[int]) -> list[list[list[str]]]:
            asked = [
                Prompt(f"answer {i}", self._prompts.answer_turns(questions[i])) for i in numbers
            ]
            drawn = self._backend.generate(
                asked, self.settings.candidates, self.settings.answer_drawing
            )
            return [[[each.text, each.finish] for each in answers] for answers in drawn]

        return self._shards.complete(kind, questions, work)

    def _answered(
        self,
        questions: dict[int, str],
        attempts: int,
        dropped: Counter[str],
        kind: str = "answer",
    ) -> tuple[list[SyntheticRow], SamplingCounts]:
        """Draw what is missing of the answers and filter them."""
        if self.answers:
            rows = [
                SyntheticRow(f"q{number:06d}", question, self._closed(number))
                for number, question in questions.items()
            ]
            n = len(rows) * len(self.answers)
            counts = SamplingCounts(attempts, len(questions), n, n, len(rows), dict(dropped))
            return rows, counts
        answers = self._draw(kind, questions)
        faults: Counter[str] = Counter()
        rows = []
        for number, question in questions.items():
            kept: list[str] = []
            for text, finish in answers[number]:
                fault = self._fault(text, finish, self.settings.answer_filter)
                if fault is None:
                    kept.append(text.strip())
                else:
                    faults[fault] += 1
            if kept:
                rows.append(SyntheticRow(f"q{number:06d}", question, tuple(kept)))
        counts = SamplingCounts(
            attempts,
            len(questions),
            answers=len(questions) * self.settings.candidates,
            candidates=sum(len(row.candidates) for row in rows),
            rows=len(rows),
            questions_dropped=dict(dropped),
            answers_dropped=dict(faults),
        )
        return rows, counts

    def _closed(self, number: int) -> tuple[str, ...]:
        """The answers, the one that the question was written to first."""
        first = number % len(self.answers) if self.posed else 0
        return self.answers[first], *self.answers[:first], *self.answers[first + 1 :]

    def _distinct(self, count: int) -> tuple[dict[int, str], int, Counter[str]]:
        """Questions that stay, how many were looked at, and why the others went."""
        if count < 1:
            raise InvalidSetting(f"{count} questions are asked for: at least 1")
        kept: dict[int, str] = {}
        dropped: Counter[str] = Counter()
        distinct = NearDuplicates(self.settings.similarity)
        limit = count * self.settings.attempts
        for first in range(0, limit, self._shards.size):
            block = range(first, min(limit, first + self._shards.size))
            drawn = self._shards.complete("question", block, self._question_work)
            for number in block:
                text, finish = drawn[number]
                fault = self._fault(text, finish, self.settings.question_filter)
                if fault is None and distinct.add(str(number), text):
                    fault = "near duplicate"
                if fault is None:
                    kept[number] = text.strip()
                    if len(kept) == count:
                        return kept, count + dropped.total(), dropped
                else:
                    dropped[fault] += 1
        return kept, len(kept) + dropped.total(), dropped

    def _fault(self, text: str, finish: str, bounds: RowFilter) -> str | None:
        return bounds.fault(text) if finish == "stop" else finish

    def _question_work(self, numbers: Sequence[int]) -> list[list[str]]:
        asked = [
            Prompt(
                f"question {i}",
                self._prompts.question_turns(
                    None,
                    self._shown(i),
                    self.posed[i % len(self.posed)] if self.posed else None,
                ),
            )
            for i in numbers
        ]
        drawn = self._backend.generate(asked, 1, self.settings.question_drawing)
        return [[one.text, one.finish] for (one,) in drawn]

    def _shown(self, number: int) -> list[str]:
        stream = rng(f"seeds of question {number}", self.settings.seed)
        order = torch.randperm(len(self.seeds), generator=stream).tolist()
        return [self.seeds[place] for place in order[: self.settings.shown]]


def _digest(seeds: Sequence[str]) -> str:
    framed = b"".join(len(text.encode()).to_bytes(8, "big") + text.encode() for text in seeds)
    return hashlib.sha256(framed).hexdigest()
