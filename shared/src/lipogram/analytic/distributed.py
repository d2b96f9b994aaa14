"""Statistics of several processes made one, over ``torch.distributed`` (gloo or nccl).

Each rank takes :func:`rank_indices` of the data, fills its own statistics, and the sums are added.
The ranks first tell each other what they hold; where that does not fit together all of them raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.distributed import ProcessGroup

from lipogram.analytic.class_sums import POOL, Pool
from lipogram.analytic.gram import FactorGram, from_lower
from lipogram.analytic.messages import Plan, agree, communication_device, reduced
from lipogram.analytic.solve import RidgeSystem
from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import InvalidSetting

Statistics = TypeVar("Statistics", ClassStatistics, SplitStatistics)


def rank_indices(n: int, rank: int, world: int) -> NDArray[np.int64]:
    """Rows ``rank, rank + world, …`` below n: each row on one rank, none repeated or left out.

    Raises:
        InvalidSetting: a rank that is not in 0 … world − 1, or a negative n.
    """
    if not 0 <= rank < world or n < 0:
        raise InvalidSetting(f"rank {rank} of {world} cannot share {n} rows")
    return np.arange(rank, n, world, dtype=np.int64)


def all_reduce_statistics(
    statistics: Statistics, group: ProcessGroup | None = None, *, deterministic: bool = False
) -> Statistics:
    """Statistics of the rows of all ranks, the same on each; those handed in stay as they are.

    Classes come in rank order, then in each rank's own order. Every rank of the group must call.

    Args:
        statistics: this rank's, without folded classes.
        group: process group, None for all ranks.
        deterministic: add in rank order, so that two runs agree to the last bit; takes the memory
            of one message a rank, and more traffic.

    Raises:
        IncompatibleFeatures: on every rank, if the ranks hold other settings, feature maps, spaces
            or kinds of labels, or one holds folded classes.
        RuntimeError: a rank died, or did not answer within the timeout of the group.
    """
    if isinstance(statistics, SplitStatistics):
        folds = len(statistics.parts)
        plans = [agree(part, group, folds=folds) for part in statistics.parts]
        pairs = zip(statistics.parts, plans, strict=True)
        return SplitStatistics.of([_total(p, plan, group, deterministic) for p, plan in pairs])
    return _total(statistics, agree(statistics, group), group, deterministic)


@dataclass(frozen=True)
class ClassShard:
    """One rank's share of class statistics.

    Attributes:
        statistics: counts, masses and class sums of all ranks' rows; of the matrices A_y, those of
            slots ``rank, rank + world, …`` only.
        group: the processes that hold the other matrices.
    """

    statistics: ClassStatistics
    group: ProcessGroup | None


def shard_classes(statistics: ClassStatistics, group: ProcessGroup | None = None) -> ClassShard:
    """Sums of all ranks' rows, each matrix A_y on one rank: slot s goes to rank ``s % world``.

    Every rank of the group must call.

    Raises:
        InvalidSetting: pooled statistics, which have one matrix.
        IncompatibleFeatures, RuntimeError: as :func:`all_reduce_statistics`.
    """
    plan = agree(statistics, group)
    if statistics.pooled:
        raise InvalidSetting("pooled statistics have one matrix: there is nothing to share out")
    world = dist.get_world_size(group)
    total = _sums(statistics, plan, group, deterministic=False)
    for owner in range(world):
        slots = [slot for slot in plan.held if slot % world == owner]
        _matrices(total, statistics, plan, slots, group, owner=owner)
    return ClassShard(total, group)


def reweight_shards(shard: ClassShard, class_weight: ArrayLike | None = None) -> RidgeSystem:
    """The ridge system of all ranks' rows, on every rank: local weighted sums, then one Σ of d².

    Every rank of the group must call, with the same weights.

    Args:
        shard: what :func:`shard_classes` gave this rank.
        class_weight: π (k,), see :meth:`ClassStatistics.reweight`.
    """
    system = shard.statistics.reweight(class_weight)
    triangle = _triangle(system.gram)
    (summed,) = reduced([triangle], shard.group)
    return replace(system, gram=_square(summed, system.gram.shape[0]))


def _total(
    statistics: ClassStatistics, plan: Plan, group: ProcessGroup | None, deterministic: bool
) -> ClassStatistics:
    total = _sums(statistics, plan, group, deterministic=deterministic)
    _matrices(total, statistics, plan, list(plan.held), group, deterministic=deterministic)
    total.reduce_own(statistics, plan.own_slots(statistics), group)
    return total


def _sums(
    statistics: ClassStatistics, plan: Plan, group: ProcessGroup | None, *, deterministic: bool
) -> ClassStatistics:
    """Everything but the matrices, added over the ranks."""
    total = statistics.like().declare(plan.labels)
    own = plan.own_slots(statistics)
    slots = [slot for slot in own if slot != POOL]
    here = [own[slot] for slot in slots]
    total.counts[slots] = statistics.counts[here]
    total._mass[slots] = statistics._mass[here]
    total._sums[slots] = statistics._sums[here]
    counts = torch.from_numpy(total.counts).to(communication_device(group))
    dist.all_reduce(counts, group=group)
    pool = statistics._pool
    scalars = torch.tensor([pool.mass, pool.energy, *total._mass], dtype=torch.float64)
    pieces = [total._sums.flatten(), pool.row_sum, scalars.to(total.device)]
    sums, row_sum, added = reduced(pieces, group, deterministic=deterministic)
    total.counts = counts.cpu().numpy()
    total._sums = sums.reshape(total._sums.shape)
    mass, energy, *masses = added.tolist()
    total._mass = np.array(masses)
    total._pool = Pool(row_sum.clone(), mass, energy)
    return total


def _matrices(
    total: ClassStatistics,
    mine: ClassStatistics,
    plan: Plan,
    slots: list[int],
    group: ProcessGroup | None,
    *,
    owner: int | None = None,
    deterministic: bool = False,
) -> None:
    """Add the ranks' matrices of some slots into ``total``, on one rank or on all."""
    d = mine.n_features
    own = plan.own_slots(mine)

    def pieces() -> Iterator[Tensor]:
        for slot in slots:
            gram = mine.store.grams.get(own[slot]) if slot in own else None
            rows = plan.rows(slot)
            if rows is None:
                yield _triangle(gram.lower() if gram else mine._zeros(d, d))
                continue
            block = mine._zeros(sum(rows), d)
            if gram:  # every rank's rows in a place of their own: adding zeros loses no bit
                start = sum(rows[: plan.rank])
                block[start : start + rows[plan.rank]] = gram.tensor()
            yield block.flatten()

    results = reduced(pieces(), group, deterministic=deterministic, owner=owner)
    if owner is not None and owner != plan.rank:
        for _ in results:
            pass
        return
    for slot, flat in zip(slots, results, strict=True):
        if plan.rows(slot) is None:
            total.store.add(slot, from_lower(_square(flat, d), "dense"))
        else:
            factor = FactorGram(d, device=total.device)
            factor.add_rows(flat.reshape(-1, d))
            total.store.add(slot, factor)


def _triangle(lower: Tensor) -> Tensor:
    return lower[torch.ones_like(lower, dtype=torch.bool).tril_()]


def _square(triangle: Tensor, d: int) -> Tensor:
    lower = torch.zeros(d, d, dtype=torch.float64, device=triangle.device)
    lower[torch.ones_like(lower, dtype=torch.bool).tril_()] = triangle
    return lower
