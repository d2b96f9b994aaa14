"""From text to padded token batches: the boundary of an answer, padding, positions, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.wrappers import unwrap


@dataclass(frozen=True)
class Encoded:
    """One row: the prompt's token ids, then the answer's."""

    prompt_ids: list[int]
    answer_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length t.

    Attributes:
        input_ids: (b, t) int64.
        attention_mask: (b, t) int64, 0 on padding.
        position_ids: (b, t) int64, 0, 1, ... from each row's first token, 0 on left padding.
        answer_mask: (b, t) bool, True on answer tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    answer_mask: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """What a causal language model is called with."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def rows(self) -> Tensor:
        """(b, t) bool: True where the logits predict an answer token (row i predicts token i+1).

        An answer token that nothing precedes (an empty prompt) has no such row.
        """
        rows = torch.zeros_like(self.answer_mask)
        rows[:, :-1] = self.answer_mask[:, 1:] & self.attention_mask[:, :-1].bool()
        return rows

    @property
    def n_logits(self) -> int:
        """How many trailing rows hold every row that :attr:`rows` marks; 0 where it marks none."""
        columns = self.rows.any(dim=0).nonzero()
        return self.rows.shape[1] - int(columns[0]) if len(columns) else 0


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[int],
    answer: str | Sequence[int],
    *,
    add_special_tokens: bool = True,
) -> Encoded:
    """Tokenise a prompt and its answer as one text, and say where the answer begins.

    The ids are those of the joint text wherever tokenising the parts on their own would give
    others; a token that straddles the boundary then belongs to the answer.

    Args:
        tokenizer: decides on a beginning-of-sequence token; one that the text already begins with
            is not doubled. An end-of-sequence token that it would append is left away.
        prompt: text, or ids that are taken as they are.
        answer: text, or ids that are taken as they are.
        add_special_tokens: False for a text that a chat template wrote.

    Raises:
        InvalidSetting: a prompt of ids with an answer of text: there is no joint text.
    """
    if isinstance(answer, str) and not isinstance(prompt, str):
        raise InvalidSetting("a prompt given as token ids needs an answer given as token ids")
    start = special_prefix(tokenizer) if add_special_tokens else []
    if not isinstance(prompt, str):
        return Encoded(list(prompt), list(answer))  # type: ignore[arg-type]
    prompt_ids = _with_start(start, _ids(tokenizer, prompt))
    if not isinstance(answer, str):
        return Encoded(prompt_ids, list(answer))
    joint = _with_start(start, _ids(tokenizer, prompt + answer))
    if prompt_ids + _ids(tokenizer, answer) == joint:
        return Encoded(prompt_ids, joint[len(prompt_ids) :])
    if tokenizer.is_fast:
        offsets = offset_mapping(tokenizer, prompt + answer)
        inside = [end <= len(prompt) for _, end in offsets]
        boundary = len(joint) - len(inside) + [*inside, False].index(False)
    else:  # no offsets: the answer begins where the joint ids leave the prompt's
        same = [a == b for a, b in zip(prompt_ids, joint, strict=False)]
        boundary = [*same, False].index(False)
    return Encoded(joint[:boundary], joint[boundary:])


def special_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer puts before a text: its beginning-of-sequence token or nothing."""
    whole: list[int] = tokenizer("a")["input_ids"]
    plain = _ids(tokenizer, "a")
    starts = range(len(whole) - len(plain) + 1)
    return whole[: next(i for i in starts if whole[i : i + len(plain)] == plain)]


def offset_mapping(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """(start, end) in characters of every token of `text`, special tokens not added."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["offset_mapping"]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills short rows: the tokenizer's padding token, else its end of sequence.

    Raises:
        InvalidSetting: the tokenizer has neither.
    """
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    raise InvalidSetting("the tokenizer has neither a padding nor an end-of-sequence token")


def pad(rows: Sequence[Encoded], pad_id: int, *, side: Literal["left", "right"] = "left") -> Batch:
    """Pad rows to the length of the longest; the masks come from lengths, not from ids.

    Args:
        rows: at least one, each of at least one token.
        pad_id: what fills; may be any id, the end of sequence too.
        side: where the padding goes.

    Raises:
        InvalidProbes: no rows, or a row without a token.
        InvalidSetting: another side.
    """
    if side not in ("left", "right"):
        raise InvalidSetting(f"side is 'left' or 'right', not {side!r}")
    lengths = [len(row) for row in rows]
    if not rows or 0 in lengths:
        raise InvalidProbes(f"row {lengths.index(0)} has no tokens" if rows else "no rows to pad")
    t = max(lengths)
    ids = torch.full((len(rows), t), pad_id, dtype=torch.long)
    mask, answers = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        first = t - lengths[i] if side == "left" else 0
        ids[i, first : first + lengths[i]] = torch.tensor([*row.prompt_ids, *row.answer_ids])
        mask[i, first : first + lengths[i]] = 1
        answers[i, first + len(row.prompt_ids) : first + lengths[i]] = True
    return Batch(ids, mask, position_ids(mask), answers)


def position_ids(attention_mask: Tensor) -> Tensor:
    """cumsum(mask) − 1, at least 0, along the last axis."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group rows of like length so that a padded batch has at most `max_tokens` tokens.

    Args:
        lengths: of the rows.
        max_tokens: the budget of one batch, padding counted; a longer row goes alone.

    Returns:
        Row numbers, each once; the longest rows first.

    Raises:
        InvalidSetting: a budget below 1.
    """
    if max_tokens < 1:
        raise InvalidSetting(f"max_tokens must be at least 1, not {max_tokens}")
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def context_length(model: Any) -> int | None:
    """The longest sequence that the model was built for, in tokens; None where it states none."""
    return getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _with_start(start: list[int], ids: list[int]) -> list[int]:
    return ids if start and ids[: len(start)] == start else start + ids
