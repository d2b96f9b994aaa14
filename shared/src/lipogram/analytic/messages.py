"""What processes tell each other before they add their sums, and how long messages are cut.

Descriptions travel as JSON bytes: an object sent by ``all_gather_object`` would be unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from lipogram.analytic.class_sums import POOL
from lipogram.analytic.gram import FactorGram
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidLabels

BUCKET = 2**23  # float64 numbers to a message: 64 MiB


@dataclass(frozen=True)
class Plan:
    """What the ranks agreed on.

    Attributes:
        rank: this process's place in the group.
        labels: classes of all ranks, in rank order.
        held: for each slot with a matrix on some rank, the rows of each rank's factor; None where
            a rank's matrix is no factor.
    """

    rank: int
    labels: list[Label]
    held: dict[int, list[int | None]]

    def rows(self, slot: int) -> list[int] | None:
        """Rows of each rank's factor, or None where some rank holds no factor."""
        rows = [n for n in self.held[slot] if n is not None]
        return rows if len(rows) == len(self.held[slot]) else None

    def own_slots(self, statistics: ClassStatistics) -> dict[int, int]:
        """Slot here of each slot of the plan."""
        common = {label: slot for slot, label in enumerate(self.labels)}
        own = {common[label]: slot for slot, label in enumerate(statistics.classes)}
        return {POOL: POOL, **own}


def agree(statistics: ClassStatistics, group: ProcessGroup | None, *, folds: int = 1) -> Plan:
    """Compare the settings of all ranks and lay out the common slots; every rank must call.

    Raises:
        IncompatibleFeatures: on every rank, naming the first thing that differs.
    """
    statistics.flush()
    feature_map = statistics.feature_map
    factors = {
        slot: gram.rows if isinstance(gram, FactorGram) else None
        for slot, gram in statistics.store.grams.items()
    }
    mine = {
        "settings": {
            "features": statistics.n_features,
            "inputs": statistics.n_inputs,
            "pooled": statistics.pooled,
            "accumulate": statistics.store.accumulate,
            "space": statistics.space,
            "feature map": None if feature_map is None else feature_map.fingerprint,
            "folds": folds,
            "beside the sums": statistics.own_kind(),
            "folded classes": len(statistics.frozen),
        },
        "labels": statistics.classes,
        "held": list(factors.items()),
    }
    told = exchange(mine, group)
    _check_settings([each["settings"] for each in told])
    index = LabelIndex()
    try:
        for each in told:
            index.extend([label for label in each["labels"] if label not in index])
    except InvalidLabels as error:
        raise IncompatibleFeatures(f"the ranks hold different kinds of labels: {error}") from None
    held: dict[int, list[int | None]] = {}
    for rank, each in enumerate(told):
        for slot, rows in each["held"]:
            common = POOL if slot == POOL else index.slot(each["labels"][slot])
            held.setdefault(common, [0] * len(told))[rank] = rows
    return Plan(dist.get_rank(group), index.labels, dict(sorted(held.items())))


def _check_settings(settings: list[dict[str, Any]]) -> None:
    for rank, theirs in enumerate(settings):
        for name, value in theirs.items():
            if value != settings[0][name]:
                raise IncompatibleFeatures(
                    f"{name}: rank 0 has {settings[0][name]!r}, rank {rank} has {value!r}; sums "
                    "add up only when every rank has the same"
                )
    if settings[0]["folded classes"]:
        raise IncompatibleFeatures("folded classes cannot be added up: fold after the reduction")


def exchange(message: Any, group: ProcessGroup | None) -> list[Any]:
    """The messages (JSON values) of all ranks, in rank order."""
    device = communication_device(group)
    mine = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8).to(device)
    world = dist.get_world_size(group)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(lengths, torch.tensor([len(mine)], device=device), group=group)
    longest = max(int(length) for length in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(world)]
    padded = torch.nn.functional.pad(mine, (0, longest - len(mine)))
    dist.all_gather(texts, padded, group=group)
    pairs = zip(texts, lengths, strict=True)
    return [json.loads(bytes(text[: int(n)].cpu().tolist())) for text, n in pairs]


def reduced(
    pieces: Iterable[Tensor],
    group: ProcessGroup | None,
    *,
    deterministic: bool = False,
    owner: int | None = None,
) -> Iterator[Tensor]:
    """The sum over ranks of each flat float64 piece, in messages of at most 64 MiB.

    Small pieces travel together, large ones in parts. Every rank must hand in pieces of the same
    sizes and draw all the results.

    Args:
        pieces: this rank's.
        group: the process group.
        deterministic: add in rank order.
        owner: the rank that needs the sums; what the others get has no meaning. None for all.
    """
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(len(each) for each in waiting) >= BUCKET:
            yield from _group_reduced(waiting, group, deterministic, owner)
            waiting = []
    if waiting:
        yield from _group_reduced(waiting, group, deterministic, owner)


def _group_reduced(
    pieces: list[Tensor], group: ProcessGroup | None, deterministic: bool, owner: int | None
) -> Iterable[Tensor]:
    device, home = communication_device(group), pieces[0].device
    joined = torch.cat([piece.to(device) for piece in pieces])
    for start in range(0, len(joined), BUCKET):
        bucket = joined[start : start + BUCKET]  # a view: the sums land in place
        if deterministic:
            world = dist.get_world_size(group)
            everyone = [torch.empty_like(bucket) for _ in range(world)]
            dist.all_gather(everyone, bucket, group=group)
            bucket.zero_()
            for each in everyone:
                bucket += each
        elif owner is None:
            dist.all_reduce(bucket, group=group)
        else:
            target = owner if group is None else dist.get_global_rank(group, owner)
            dist.reduce(bucket, dst=target, group=group)
    return torch.split(joined.to(home), [len(piece) for piece in pieces])


def communication_device(group: ProcessGroup | None) -> torch.device:
    """Where the group's backend takes its tensors from."""
    if "nccl" in dist.get_backend(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
