"""What the proxies are asked: public texts, the same at the client's training and at the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.llm.chat import encode_chat, format_chat
from rewardds import rows

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Prompts:
    """System messages and requests. They are public: write nothing of a private record into them.

    Attributes:
        answer: system message where a question is answered; "" for none.
        question: request for a new question.
        judge: system message where an answer is judged; "" for none.
        posed: request for a new question to an answer, with "{answer}" where this is to stand.
    """

    answer: str = "Answer the question."
    question: str = "Write one new question."
    judge: str = "Judge the quality of the answer."
    posed: str = "Write one new question whose answer is: {answer}"

    def __post_init__(self) -> None:
        if not self.question:
            raise InvalidSetting("question is empty: there must be a request for a new question")
        if "{answer}" not in self.posed:
            raise InvalidSetting(
                f"posed is {self.posed!r}: it must say {{answer}} where the answer is to stand"
            )

    @classmethod
    def of_domain(cls, domain: str) -> Prompts:
        """Those of a domain that is called, for example, "personal finance".

        Raises:
            InvalidSetting: no name.
        """
        if not domain.strip():
            raise InvalidSetting("the domain has no name")
        return cls(
            f"Answer the question about {domain}.",
            f"Write one new question about {domain}.",
            f"Judge the quality of the answer to the question about {domain}.",
            f"Write one new question about {domain} whose answer is: {{answer}}",
        )

    def answer_turns(
        self, question: str, answer: str | None = None, examples: Sequence[tuple[str, str]] = ()
    ) -> Turns:
        """The conversation in which a question is answered.

        Args:
            question: the question.
            answer: None where it is to be written.
            examples: public (question, answer) shown before.
        """
        turns = _system(self.answer)
        for asked, answered in examples:
            turns += [_turn("user", asked), _turn("assistant", answered)]
        turns.append(_turn("user", question))
        return turns if answer is None else [*turns, _turn("assistant", answer)]

    def question_turns(
        self, question: str | None = None, seeds: Sequence[str] = (), answer: str | None = None
    ) -> Turns:
        """The conversation in which a new question is written.

        Args:
            question: None where it is to be written.
            seeds: public or synthetic questions that are shown as examples.
            answer: that it is to have; None for any.
        """
        asked = self.question if answer is None else self.posed.replace("{answer}", answer)
        request = "\n".join([asked, *(f"Example: {seed}" for seed in seeds)])
        turns = [_turn("user", request)]
        return turns if question is None else [*turns, _turn("assistant", question)]

    def judged_turns(self, question: str, answer: str) -> Turns:
        """The conversation whose last token the reward is read at."""
        return [*_system(self.judge), _turn("user", question), _turn("assistant", answer)]

    def to_json(self) -> dict[str, Any]:
        """For a bundle's settings; `Prompts(**...)` reads it."""
        return asdict(self)


def prompt_text(tokenizer: Any, turns: Turns) -> str:
    """What a model continues; tokenise it with `add_special_tokens=False`."""
    return format_chat(turns, tokenizer, system=_no_system(turns))


def sequence(tokenizer: Any, turns: Turns, max_length: int) -> tuple[rows.Sequence, int]:
    """A whole conversation as a sequence that scores the answer, its end token included.

    Returns:
        The sequence, cut to its first `max_length` tokens, and how many were cut off.

    Raises:
        InvalidSetting: a tokenizer without offsets or whose template refuses the turns.
    """
    encoded = encode_chat(turns, tokenizer, system=_no_system(turns))
    cut = max(0, len(encoded.ids) - max_length)
    return rows.Sequence(encoded.ids[:max_length], encoded.assistant[:max_length]), cut


def _no_system(turns: Turns) -> str | None:
    """Templates write a system message of their own where there is none: an empty one instead."""
    return None if turns[0]["role"] == "system" else ""


def _system(text: str) -> Turns:
    return [_turn("system", text)] if text else []


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
