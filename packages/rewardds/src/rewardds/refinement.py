"""Self-optimising refinement: the generator criticises, the server's model improves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from lipogram.errors import InvalidSetting
from rewardds.backends import Backend, Drawing, Prompt
from rewardds.pool import Dedupe, Threshold
from rewardds.prompts import Prompts, Turns
from rewardds.row_filters import ANSWER, RowFilter
from rewardds.synthetic import SyntheticRow


@dataclass(frozen=True)
class RefinementSettings:
    """How a stage refines; the defaults are the paper's (section 2.7) but for the last four.

    Attributes:
        candidates: improved answers drawn for a question.
        critique_tokens: of a critique, at most.
        answer_tokens: of an answer, at most.
        temperature: of all draws.
        top_p: of all draws.
        seed: of all draws.
        instructed: False for models too small to follow requests: nothing is criticised, and the
            server's model answers each question anew, as it was tuned to.
        answer_filter: what an answer must be like.
        compete: whether all candidates so far are ranked beside the new ones, and the answer stays
            where it is better. By the paper's rule, False, the best new one replaces it in any
            case, and what it is compared with are the model's own draws alone.
        threshold: see :func:`rewardds.pool.grown_pool`.
        dedupe: see :func:`rewardds.pool.grown_pool`.

    Raises:
        InvalidSetting: a value outside its range.
    """

    candidates: int = 6
    critique_tokens: int = 256
    answer_tokens: int = 768
    temperature: float = 1.0
    top_p: float = 0.7
    seed: int = 0
    instructed: bool = True
    answer_filter: RowFilter = ANSWER
    compete: bool = True
    threshold: Threshold = "quantile"
    dedupe: Dedupe = "latest"

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise InvalidSetting(f"candidates is {self.candidates}: at least 1 must be drawn")
        if self.candidates > 1 and self.temperature == 0:
            raise InvalidSetting(
                f"candidates is {self.candidates}: at temperature 0 all are the same, draw one"
            )
        _ = self.critique_drawing, self.answer_drawing

    @property
    def critique_drawing(self) -> Drawing:
        """How critiques are drawn."""
        return Drawing(self.critique_tokens, self.temperature, self.top_p, self.seed)

    @property
    def answer_drawing(self) -> Drawing:
        """How improved answers are drawn."""
        return Drawing(self.answer_tokens, self.temperature, self.top_p, self.seed)


@dataclass(frozen=True)
class Refined:
    """Rows of a further stage, not scored yet.

    Attributes:
        rows: of the questions that got a new candidate; where answers compete, those so far are
            the first candidates.
        drawn: answers drawn.
        dropped: of them, by reason: "length" and "context" (not ended by the model itself), or a
            filter's faults.
        uncriticised: questions whose critique did not end by itself or was empty; they were
            improved without one.
    """

    rows: list[SyntheticRow]
    drawn: int
    dropped: dict[str, int] = field(default_factory=dict)
    uncriticised: int = 0


def critique_turns(question: str, chosen: str, rejected: str | None) -> Turns:
    """The request for a critique; what is compared are synthetic answers."""
    if rejected is None:
        asked = f"Question:\n{question}\n\nAnswer:\n{chosen}\n\nSay briefly what could be better."
    else:
        asked = (
            f"Question:\n{question}\n\nBetter answer:\n{chosen}\n\nWorse answer:\n{rejected}\n\n"
            "Say briefly why the first answer is better than the second."
        )
    return [{"role": "user", "content": asked}]


def improvement_turns(question: str, answer: str, critique: str) -> Turns:
    """The request for an improved answer; without a critique where there is none."""
    said = f"Critique:\n{critique}\n\n" if critique else ""
    asked = (
        f"Question:\n{question}\n\nAnswer:\n{answer}\n\n{said}"
        "Write an improved answer. Give the answer only."
    )
    return [{"role": "user", "content": asked}]


def refine_rows(
    rows: Sequence[SyntheticRow],
    *,
    critic: Backend,
    improver: Backend,
    prompts: Prompts,
    settings: RefinementSettings | None = None,
) -> Refined:
    """Draw improved answers to every question.

    What is drawn for a row depends on the row and the settings, not on the rows beside it.

    Args:
        rows: ranked.
        critic: with the generation proxy.
        improver: with the server's model as it is at this stage.
        prompts: of which `answer_turns` are asked where nothing is instructed.
        settings: how; None for the defaults.

    Raises:
        InvalidRows: a row that has not been ranked; nothing is drawn then.
    """
    how = RefinementSettings() if settings is None else settings
    answers = {row.id: row.answer for row in rows}
    critiques = _critiques(rows, critic, how) if how.instructed else {}
    asked = []
    for row in rows:
        if how.instructed:
            turns = improvement_turns(row.question, answers[row.id], critiques[row.id])
        else:
            turns = prompts.answer_turns(row.question)
        asked.append(Prompt(f"improve {row.stage} {row.id}", turns))
    found = improver.generate(asked, how.candidates, how.answer_drawing) if asked else []
    dropped: Counter[str] = Counter()
    refined = []
    for row, completions in zip(rows, found, strict=True):
        kept: list[str] = []
        for completion in completions:
            text = completion.text.strip()
            fault = how.answer_filter.fault(text) if completion.ended else completion.finish
            if fault is None:
                kept.append(text)
            else:
                dropped[fault] += 1
        if kept:
            refined.append(row.refined([*row.candidates, *kept] if how.compete else kept))
    missing = sum(not critiques[row.id] for row in rows) if how.instructed else 0
    return Refined(refined, len(rows) * how.candidates, dict(dropped), missing)


def _critiques(
    rows: Sequence[SyntheticRow], critic: Backend, how: RefinementSettings
) -> dict[str, str]:
    asked = [
        Prompt(
            f"critique {row.stage} {row.id}", critique_turns(row.question, row.answer, row.worst)
        )
        for row in rows
    ]
    found = critic.generate(asked, 1, how.critique_drawing) if asked else []
    return {
        row.id: one.text.strip() if one.ended else ""
        for row, (one,) in zip(rows, found, strict=True)
    }
