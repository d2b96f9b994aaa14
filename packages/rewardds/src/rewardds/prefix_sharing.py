"""Sequences that begin alike: what they share is computed once, and kept as keys and values.

The candidates of a question differ in the answer only. Their common beginning is run by itself, and
each of them goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from lipogram.errors import InvalidProbes, InvalidSetting, OverBudget
from lipogram.llm.forward import evaluating
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.text import context_length
from lipogram.llm.wrappers import unwrap
from rewardds import rows

Group = Sequence[rows.Sequence]
"""Sequences that are likely to begin alike."""

_Place = tuple[int, int]  # group, sequence in it


@dataclass(frozen=True)
class Endings:
    """What is left of c sequences behind what was run before, padded on the right to one length t.

    Attributes:
        input_ids: (c, t) int64.
        position_ids: (c, t) int64.
        attention_mask: (c, s + t) int64, 0 on padding; s columns stand for what was run before.
        past: keys and values of those s columns, of each sequence; None where s is 0.
        starts: of each sequence, how many of its tokens were run before.
        sequences: the sequences, whole.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    past: Any
    starts: list[int]
    sequences: list[rows.Sequence]

    def inputs(self) -> dict[str, Any]:
        """What a model is called with."""
        given = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }
        return given if self.past is None else given | {"past_key_values": self.past}


class Reading(Protocol):
    """What is computed of a sequence."""

    @property
    def lm(self) -> Any:
        """The causal language model that is run, in evaluation mode."""

    def __call__(self, batch: Endings) -> Tensor:
        """(c,) one value a sequence."""


def over_groups(
    reading: Reading, groups: Sequence[Group], *, padding: int, batch_size: int
) -> list[list[float]]:
    """One value for every sequence of every group.

    Nothing is shared under a model that does not attend to everything before.

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
    sharing = attends_to_all(reading.lm)
    found: dict[_Place, float] = {}
    queue = list(_chunks(groups, batch_size, sharing, found))
    while queue:
        try:
            with evaluating(reading.lm):
                for places, values in _read(reading, groups, queue[0], batch_size, padding):
                    found |= dict(zip(places, values, strict=True))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                g, s = queue[0][0].places[0]
                raise OverBudget(
                    f"candidate {s} of question {g}, {len(groups[g][s].ids)} tokens, does not fit "
                    "into memory even by itself"
                ) from error
            size = sum(len(family.places) for family in queue[0])
            batch_size = max(1, min(batch_size, size) // 2)
            queue = list(_chunks(groups, batch_size, sharing, found))
            continue
        del queue[0]
    return [[found[g, s] for s in range(len(group))] for g, group in enumerate(groups)]


def attends_to_all(lm: Any) -> bool:
    """Whether every layer attends to all that came before, by kernels that read a mask."""
    config = unwrap(lm).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


@dataclass(frozen=True)
class _Family:
    """Sequences of a group, and how many tokens of theirs are run once for all."""

    places: list[_Place]
    shared: int
    longest: int


def _chunks(
    groups: Sequence[Group], batch_size: int, sharing: bool, done: dict[_Place, float]
) -> Iterator[list[_Family]]:
    """Families whose beginnings are run at once, at most `batch_size`; longest first.

    Those that share nothing have chunks of their own: nothing is run before them.
    """
    families = []
    for g, group in enumerate(groups):
        left = sorted(
            (s for s in range(len(group)) if (g, s) not in done), key=lambda s: -len(group[s].ids)
        )
        for start in range(0, len(left), batch_size):
            members = [group[s] for s in left[start : start + batch_size]]
            shared = _shared(members) if sharing else 0
            places = [(g, s) for s in left[start : start + batch_size]]
            families.append(_Family(places, shared, len(members[0].ids)))
    families.sort(key=lambda each: (each.shared == 0, -each.longest, each.places))
    for _, alike in groupby(families, key=lambda each: each.shared == 0):
        listed = list(alike)
        for start in range(0, len(listed), batch_size):
            yield listed[start : start + batch_size]


def _read(
    reading: Reading,
    groups: Sequence[Group],
    chunk: list[_Family],
    batch_size: int,
    padding: int,
) -> Iterator[tuple[list[_Place], list[float]]]:
    """Places and values of a chunk, batch by batch, the longest endings first."""
    device = next(reading.lm.parameters()).device
    before, seen = _beginnings(groups, chunk, padding)
    kept = _keys_and_values(reading.lm, before.to(device), seen.to(device))
    order = sorted(
        (family.shared - len(groups[g][s].ids), f, (g, s))
        for f, family in enumerate(chunk)
        for g, s in family.places
    )
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        places = [place for _, _, place in part]
        owners = [f for _, f, _ in part]
        sequences = [groups[g][s] for g, s in places]
        starts = [chunk[f].shared for f in owners]
        batch = _endings(sequences, starts, seen[owners], padding, device, _chosen(kept, owners))
        yield places, reading(batch).double().cpu().tolist()


def _shared(members: list[rows.Sequence]) -> int:
    """How many tokens all begin with, of which none is needed to score another.

    The token before the first scored one is left to each: its logits are.
    """
    return rows.common(members, min(_unscored(one) for one in members))


def _unscored(sequence: rows.Sequence) -> int:
    """How many tokens stand before the one whose logits are needed first, or the last one."""
    scored = [i for i, counts in enumerate(sequence.scored) if counts and i]
    return (scored[0] if scored else len(sequence.ids)) - 1


def _endings(
    sequences: list[rows.Sequence],
    starts: list[int],
    seen: Tensor,
    padding: int,
    device: torch.device,
    past: Any,
) -> Endings:
    t = max(len(one.ids) - start for one, start in zip(sequences, starts, strict=True))
    ids = torch.full((len(sequences), t), padding)
    mask = torch.zeros_like(ids)
    for row, (one, start) in enumerate(zip(sequences, starts, strict=True)):
        n = len(one.ids) - start
        ids[row, :n] = torch.tensor(one.ids[start:])
        mask[row, :n] = 1
    mask = torch.cat([seen, mask], dim=1)
    ends = torch.tensor([len(one.ids) - 1 for one in sequences])  # no position beyond a context
    positions = (torch.tensor(starts)[:, None] + torch.arange(t)).minimum(ends[:, None])
    return Endings(ids.to(device), positions.to(device), mask.to(device), past, starts, sequences)


def _beginnings(
    groups: Sequence[Group], batch: list[_Family], padding: int
) -> tuple[Tensor, Tensor]:
    """(b, s) what each family shares, padded on the right, and where it is no padding."""
    width = max(family.shared for family in batch)
    ids = torch.full((len(batch), width), padding)
    seen = torch.zeros_like(ids)
    for row, family in enumerate(batch):
        g, s = family.places[0]
        ids[row, : family.shared] = torch.tensor(groups[g][s].ids[: family.shared])
        seen[row, : family.shared] = 1
    return ids, seen


def _keys_and_values(lm: Any, ids: Tensor, seen: Tensor) -> Any:
    """Of tokens that stand at the beginning, None of none; the vocabulary is not looked at."""
    if not ids.numel():
        return None
    causal = unwrap(lm)
    backbone = getattr(causal, causal.base_model_prefix)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    output = backbone(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=True)
    return output.past_key_values


def _chosen(kept: Any, owners: list[int]) -> Any:
    """Those of some rows, in a cache of their own: a model writes behind them."""
    if kept is None:
        return None
    chosen = DynamicCache()
    for number, layer in enumerate(kept.layers):
        rows_of = torch.tensor(owners, device=layer.keys.device)
        chosen.update(layer.keys[rows_of], layer.values[rows_of], number)
    return chosen
