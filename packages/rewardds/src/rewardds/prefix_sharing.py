"""Sequences that begin alike, in one row: what they share stands there, and is computed, once.

The candidates of a question differ in the answer only. Behind their common beginning each of them
has a branch of its own that sees the beginning and itself; its positions go on from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, OverBudget
from lipogram.llm.forward import evaluating
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.text import context_length
from lipogram.llm.wrappers import unwrap
from rewardds import rows

LONGEST_ROW = 1024
Group = Sequence[rows.Sequence]
"""Sequences that are likely to begin alike."""

_Place = tuple[int, int]  # group, sequence in it


@dataclass(frozen=True)
class Branches:
    """Rows padded on the right to one length t.

    Attributes:
        input_ids: (b, t) int64.
        position_ids: (b, t) int64.
        branch: (b, t) int64; 0 on what a row's sequences share, 1, 2, ... on their own parts, -1 on
            padding.
        row: of each of the c sequences, the row that it is in.
        positions: of each sequence, for each of its tokens, the column that it is in.
        sequences: the sequences.
    """

    input_ids: Tensor
    position_ids: Tensor
    branch: Tensor
    row: list[int]
    positions: list[list[int]]
    sequences: list[rows.Sequence]

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a model with activations of `dtype` is called with."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self._attention(dtype),
            "position_ids": self.position_ids,
        }

    def _attention(self, dtype: torch.dtype) -> Tensor:
        """(b, 1, t, t) added to the scores; (b, t), 0 on padding, where no row has branches."""
        if len(self.row) == len(self.input_ids):
            return (self.branch >= 0).long()
        t = self.branch.shape[1]
        mine, other = self.branch[:, :, None], self.branch[:, None, :]
        causal = torch.ones(t, t, dtype=torch.bool, device=self.branch.device).tril()
        seen = ((mine == other) | ((other == 0) & (mine >= 0))) & causal
        hidden = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return hidden.masked_fill_(seen, 0)[:, None]


class Reading(Protocol):
    """What is computed of a sequence."""

    @property
    def lm(self) -> Any:
        """The causal language model that is run, in evaluation mode."""

    def __call__(self, batch: Branches) -> Tensor:
        """(c,) one value a sequence."""


def over_groups(
    reading: Reading, groups: Sequence[Group], *, padding: int, batch_size: int
) -> list[list[float]]:
    """One value for every sequence of every group.

    A group is split over several rows where one would have more than `LONGEST_ROW` tokens, and
    nothing is shared under a model that does not take a mask of its own for every row.

    Args:
        reading: what is computed.
        groups: of sequences.
        padding: id that fills.
        batch_size: sequences at a time; halved, for the rest of the call, when memory runs out.

    Returns:
        Values by group and sequence, in the order given, whatever the order of computation.

    Raises:
        InvalidSetting: batch_size below 1.
        InvalidProbes: a sequence longer than the model's context; nothing is computed then.
        OverBudget: a single sequence for which memory does not suffice.
    """
    if batch_size < 1:
        raise InvalidSetting(f"batch_size is {batch_size}: at least one sequence at a time")
    longest = context_length(reading.lm)
    for g, group in enumerate(groups):
        for s, sequence in enumerate(group):
            if longest is not None and len(sequence.ids) > longest:
                raise InvalidProbes(
                    f"candidate {s} of question {g} has {len(sequence.ids)} tokens with its "
                    f"prompt, the model's context is {longest}"
                )
    limit = LONGEST_ROW if takes_branches(reading.lm) else 0
    device = next(reading.lm.parameters()).device
    found: dict[_Place, float] = {}
    queue = list(_batches(groups, batch_size, limit, found))
    while queue:
        places = [place for row in queue[0] for place in row]
        try:
            with evaluating(reading.lm):
                batch = _collate(groups, queue[0], padding, device)
                values = reading(batch).double().cpu().tolist()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(places) == 1:
                g, s = places[0]
                raise OverBudget(
                    f"candidate {s} of question {g}, {len(groups[g][s].ids)} tokens, does not fit "
                    "into memory even by itself"
                ) from error
            queue = list(_batches(groups, len(places) // 2, limit, found))
            continue
        del queue[0]
        found |= dict(zip(places, values, strict=True))
    return [[found[g, s] for s in range(len(group))] for g, group in enumerate(groups)]


def takes_branches(lm: Any) -> bool:
    """Whether a model takes a mask (b, 1, t, t): full attention by kernels that read it."""
    config = unwrap(lm).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def _batches(
    groups: Sequence[Group], batch_size: int, limit: int, done: dict[_Place, float]
) -> Iterator[list[list[_Place]]]:
    """Batches of rows of places, at most `batch_size` places each; the longest rows first."""
    split: list[tuple[int, list[_Place]]] = []
    for g, group in enumerate(groups):
        left = [s for s in range(len(group)) if (g, s) not in done]
        row: list[_Place] = []
        length = 0
        for s in sorted(left, key=lambda s: -len(group[s].ids)):
            joined = _length(group, [*row, (g, s)])
            if row and (len(row) == batch_size or joined > limit):
                split.append((length, row))
                row, joined = [], len(group[s].ids)
            row, length = [*row, (g, s)], joined
        if row:
            split.append((length, row))
    batch: list[list[_Place]] = []
    for _, row in sorted(split, key=lambda item: (-item[0], item[1])):
        if batch and sum(len(other) for other in batch) + len(row) > batch_size:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _length(group: Group, row: list[_Place]) -> int:
    chosen = [group[s].ids for _, s in row]
    return sum(len(ids) for ids in chosen) - (len(chosen) - 1) * _shared(chosen)


def _shared(sequences: list[list[int]]) -> int:
    """How many tokens all begin with; at least one token of each is left for its branch."""
    if len(sequences) == 1:
        return 0
    first, last = min(sequences), max(sequences)
    limit = min(len(ids) for ids in sequences) - 1
    same = [a == b for a, b in zip(first[:limit], last[:limit], strict=True)]
    return [*same, False].index(False)


def _collate(
    groups: Sequence[Group], batch: list[list[_Place]], padding: int, device: torch.device
) -> Branches:
    ids, positions, branch = [], [], []
    row, columns, sequences = [], [], []
    for r, places in enumerate(batch):
        members = [groups[g][s] for g, s in places]
        n = _shared([sequence.ids for sequence in members])
        ids.append(members[0].ids[:n])
        positions.append(list(range(n)))
        branch.append([0] * n)
        for k, sequence in enumerate(members, start=1):
            start, own = len(ids[-1]), len(sequence.ids) - n
            ids[-1] += sequence.ids[n:]
            positions[-1] += range(n, n + own)
            branch[-1] += [k] * own
            row.append(r)
            columns.append([*range(n), *range(start, start + own)])
            sequences.append(sequence)
    t = max(len(each) for each in ids)

    def padded(lists: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([each + [fill] * (t - len(each)) for each in lists], device=device)

    return Branches(
        padded(ids, padding), padded(positions, 0), padded(branch, -1), row, columns, sequences
    )
