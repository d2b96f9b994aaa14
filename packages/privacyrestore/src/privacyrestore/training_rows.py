"""Rows that a bank is trained on, and how their text becomes tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm import encode, format_chat
from lipogram.llm.text import Encoded

PLACE = "{question}"


@dataclass(frozen=True)
class PromptTemplate:
    """How a question is put to the model.

    Attributes:
        text: any text with `{question}` in it; None for the tokenizer's chat template, with the
            question as the user's message.
        system: of the chat template; as `lipogram.llm.format_chat` takes it.

    Raises:
        InvalidSetting: a text without the place for the question, or one with a system message.
    """

    text: str | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and PLACE not in self.text:
            raise InvalidSetting(f"the prompt template must hold {PLACE} where the question goes")
        if self.text is not None and self.system is not None:
            raise InvalidSetting("a system message goes with the chat template: put it in the text")

    @property
    def add_special_tokens(self) -> bool:
        """Whether the tokenizer puts its own before a prompt: chat templates write them."""
        return self.text is not None

    def prompt(self, tokenizer: Any, question: str) -> str:
        """The text that the model continues with an answer."""
        if self.text is not None:
            return self.text.replace(PLACE, question)
        asked = [{"role": "user", "content": question}]
        return format_chat(asked, tokenizer, system=self.system)


@dataclass(frozen=True)
class TrainingRow:
    """A question without its spans, and what is to be answered.

    Answers are texts, with the leading blank that the prompt needs, or token ids, as
    :mod:`~privacyrestore.model_answers` keeps them.

    Attributes:
        question_removed: q⁻.
        span_ids: what was removed; a repeated one counts once for each time, and none is no
            restoration.
        answer: a, the gold answer.
        weights: one a span; None for equal ones.
        preferred: y⁺, the frozen model's answer to the full question.
        rejected: y⁻, its answer to q⁻.
        options: of a multiple choice, `answer` among them; for selection by MC1 alone.
    """

    question_removed: str
    span_ids: tuple[int, ...]
    answer: str | tuple[int, ...]
    weights: tuple[float, ...] | None = None
    preferred: str | tuple[int, ...] | None = None
    rejected: str | tuple[int, ...] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class SharedPrompt:
    """Token ids of several answers to one prompt.

    Attributes:
        prompt_ids: what all have in common, at least one token.
        tails: for each answer what follows: the rest of its prompt, which is not scored and mostly
            empty, then the answer.
    """

    prompt_ids: list[int]
    tails: list[Encoded]

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(map(len, self.tails))


def encode_answers(
    tokenizer: Any,
    prompt: str,
    answers: Sequence[str | Sequence[int]],
    *,
    add_special_tokens: bool,
) -> SharedPrompt:
    """Tokenise answers as continuations of a prompt: no token that begins a text lies between.

    Args:
        tokenizer: of the model.
        prompt: as :meth:`PromptTemplate.prompt` writes it.
        answers: at least one, each of at least one token.
        add_special_tokens: see :attr:`PromptTemplate.add_special_tokens`.

    Raises:
        InvalidProbes: a prompt or an answer without a token.
    """
    rows = [
        encode(tokenizer, prompt, answer, add_special_tokens=add_special_tokens)
        for answer in answers
    ]
    if not all(row.answer_ids for row in rows):
        raise InvalidProbes("an answer has no tokens")
    first = rows[0].prompt_ids
    same = 0
    while same < min(len(row.prompt_ids) for row in rows) and all(
        row.prompt_ids[same] == first[same] for row in rows
    ):
        same += 1
    if not same:
        raise InvalidProbes("a prompt has no token: nothing predicts the answer's first")
    tails = [Encoded(row.prompt_ids[same:], row.answer_ids) for row in rows]
    return SharedPrompt(first[:same], tails)


def check_row(row: TrainingRow, number: int, n_spans: int, *, pairs: bool) -> None:
    """Refuse a row that a bank of `n_spans` spans cannot be trained on.

    Args:
        row: to check.
        number: of the row, for the message.
        n_spans: size of the vocabulary.
        pairs: whether y⁺ and y⁻ are needed.

    Raises:
        InvalidSetting: naming the row and what is wrong with it.
    """
    if any(not 0 <= span < n_spans for span in row.span_ids):
        raise InvalidSetting(f"row {number} names a span outside the vocabulary of {n_spans}")
    weights = row.weights
    if weights is not None and (
        len(weights) != len(row.span_ids) or not all(0 < w < math.inf for w in weights)
    ):
        raise InvalidSetting(f"row {number} needs one positive finite weight for each span")
    if pairs and (row.preferred is None or row.rejected is None):
        raise InvalidSetting(
            f"row {number} lacks the model's own answers (preferred, rejected): generate them "
            'first, or train with objective="gold"'
        )
