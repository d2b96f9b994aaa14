"""Rows: all that is trained of one privacy unit, its sequences side by side in one row of tokens.

A unit (a record, or a person's records) contributes one row, hence one gradient, however many
sequences and pairs it has. The sequences of a row do not see each other: the attention mask is
causal and block-diagonal, and positions begin at 0 in each. Answers to one question that are to be
judged share the question: it is read once, and every answer sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import IGNORED
from rewardds.errors import InvalidRecords


@dataclass(frozen=True)
class Sequence:
    """Token ids, and which of them a language model is to predict.

    Attributes:
        ids: at least one.
        scored: for each id whether it counts in the loss; the first never does, as nothing
            precedes it.
    """

    ids: list[int] = field(repr=False)
    scored: list[bool] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.scored):
            raise InvalidRecords(
                f"{len(self.ids)} ids and {len(self.scored)} marks: one id or more, each marked"
            )


@dataclass(frozen=True)
class Row:
    """One privacy unit.

    Attributes:
        id: of the record, or of the group.
        sequences: at least one.
        pairs: (chosen, rejected), numbers of sequences.
        beginnings: for each sequence a number; what neighbours of one number have in common at
            their beginning is read once. Such sequences have a reward and no labels. Empty where
            each is read by itself.
    """

    id: str
    sequences: list[Sequence]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    beginnings: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.sequences:
            raise InvalidRecords(f"row {self.id!r} has no sequences")
        for pair in self.pairs:
            if len(set(pair)) != 2 or not all(0 <= i < len(self.sequences) for i in pair):
                raise InvalidRecords(
                    f"row {self.id!r}: the pair {pair} does not name two of its "
                    f"{len(self.sequences)} sequences"
                )

        if self.beginnings and len(self.beginnings) != len(self.sequences):
            raise InvalidRecords(
                f"row {self.id!r}: {len(self.beginnings)} beginnings of {len(self.sequences)} "
                "sequences: one each, or none at all"
            )

    def __len__(self) -> int:
        """Tokens that are read."""
        saved = sum((len(group) - 1) * common(group) for group in self.groups())
        return sum(len(sequence.ids) for sequence in self.sequences) - saved

    def groups(self) -> list[list[Sequence]]:
        """The sequences in their order, those together that may share their beginning."""
        if not self.beginnings:
            return [[sequence] for sequence in self.sequences]
        runs = groupby(zip(self.beginnings, self.sequences, strict=True), key=itemgetter(0))
        return [[sequence for _, sequence in run] for _, run in runs]


@dataclass(frozen=True)
class PackedBatch:
    """Rows padded on the right to one length t.

    Attributes:
        input_ids: (b, t) int64.
        position_ids: (b, t) int64, contiguous; 0 where a sequence begins, 0 on padding.
        block: (b, t) int64, number of the sequence in its row, or, where several share it, a
            number above those of the sequences; -1 on padding.
        trunk: (b, t) int64, the block that the position sees beside its own: of a sequence that
            shares its beginning the block of that beginning, else its own.
        labels: (b, t) int64, the token's own id where it is scored, else `IGNORED`. The logits of
            position i predict label i+1; a sequence's first token has none, nor has any token of
            sequences that share their beginning.
        last: (b, s) int64, position of each sequence's last token; 0 where a row has fewer.
        pairs: (p, 3) int64: row, chosen sequence, rejected sequence.
    """

    input_ids: Tensor
    position_ids: Tensor
    block: Tensor
    trunk: Tensor
    labels: Tensor
    last: Tensor
    pairs: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def visible(self) -> Tensor:
        """(b, 1, t, t) bool: whether position i (third axis) sees position j (fourth axis).

        Padding sees padding alone, so that no position is without something to see.
        """
        t = self.block.shape[1]
        seen = self.block[:, None, :]
        same = (self.block[:, :, None] == seen) | (self.trunk[:, :, None] == seen)
        causal = torch.ones(t, t, dtype=torch.bool, device=same.device).tril()
        return (same & causal)[:, None]

    def attention(self, dtype: torch.dtype) -> Tensor:
        """(b, 1, t, t) of `dtype`, added to the scores: 0 where seen, else its lowest value."""
        hidden = torch.zeros(self.visible.shape, dtype=dtype, device=self.block.device)
        return hidden.masked_fill(~self.visible, torch.finfo(dtype).min)

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a model with activations of `dtype` is called with."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention(dtype),
            "position_ids": self.position_ids,
        }

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        moved = {
            part.name: getattr(self, part.name).to(device) for part in dataclasses.fields(self)
        }
        return PackedBatch(**moved)


def collate(rows: Many[Row], *, pad_id: int, bucket: int = 32) -> PackedBatch:
    """Pad rows to the next multiple of `bucket` that holds the longest.

    What a row computes does not depend on the rows beside it: they only decide how much padding
    follows it, which nothing of it sees.

    Args:
        rows: at least one.
        pad_id: what fills; may be any id.
        bucket: in tokens, at least 1.

    Raises:
        InvalidSetting: no rows, or a bucket below 1.
    """
    if not rows or bucket < 1:
        raise InvalidSetting(f"{len(rows)} rows in buckets of {bucket}: both must be at least 1")
    t = -(-max(len(row) for row in rows) // bucket) * bucket
    ids = torch.full((len(rows), t), pad_id, dtype=torch.long)
    positions = torch.zeros_like(ids)
    block, labels = torch.full_like(ids, -1), torch.full_like(ids, IGNORED)
    trunk = block.clone()
    last = torch.zeros(len(rows), max(len(row.sequences) for row in rows), dtype=torch.long)
    for i, row in enumerate(rows):
        first, j, beginning = 0, 0, len(row.sequences)
        for group in row.groups():
            shared = common(group)
            if shared:
                end = first + shared
                ids[i, first:end] = torch.tensor(group[0].ids[:shared])
                positions[i, first:end] = torch.arange(shared)
                block[i, first:end] = trunk[i, first:end] = beginning
                first = end
            for sequence in group:
                end = first + len(sequence.ids) - shared
                tokens = torch.tensor(sequence.ids[shared:])
                ids[i, first:end] = tokens
                positions[i, first:end] = torch.arange(shared, len(sequence.ids))
                block[i, first:end] = j
                trunk[i, first:end] = beginning if shared else j
                if not shared:
                    scored = torch.tensor(sequence.scored)
                    scored[0] = False
                    labels[i, first:end][scored] = tokens[scored]
                last[i, j] = end - 1
                first, j = end, j + 1
            beginning += bool(shared)
    pairs = torch.tensor(
        [(i, *pair) for i, row in enumerate(rows) for pair in row.pairs], dtype=torch.long
    ).reshape(-1, 3)
    return PackedBatch(ids, positions, block, trunk, labels, last, pairs)


def common(group: Many[Sequence], limit: int | None = None) -> int:
    """How many tokens all sequences begin with; 0 where there is one alone.

    Args:
        group: at least one.
        limit: at most so many; None leaves a token to each.
    """
    if len(group) == 1:
        return 0
    every = [sequence.ids for sequence in group]
    first, last = min(every), max(every)
    most = min(len(ids) for ids in every) - 1 if limit is None else limit
    same = [a == b for a, b in zip(first[:most], last[:most], strict=True)]
    return [*same, False].index(False)
