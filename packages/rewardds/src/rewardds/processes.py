"""Several processes that train one model: each adds up a part of a sample, one draws noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from rewardds.errors import DataMismatch


class Processes:
    """The process group, or this process alone.

    Args:
        distributed: whether `torch.distributed`'s group takes part; it must be initialised.

    Attributes:
        rank: of this process; 0 samples, counts, draws the noise, updates and writes.
        size: how many there are.
    """

    def __init__(self, distributed: bool = False):
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's values into the tensors of all, in place."""
        if self.size > 1:
            for each in tensors:
                dist.broadcast(each.detach(), 0)

    def number(self, value: int, device: torch.device) -> int:
        """The first process's number."""
        held = torch.tensor(value, device=device)
        self.from_first([held])
        return int(held)

    def sample(self, places: Sequence[int], device: torch.device) -> list[int]:
        """The first process's sample of places."""
        if self.size == 1:
            return list(places)
        held = torch.zeros(self.number(len(places), device), dtype=torch.long, device=device)
        if not self.rank:
            held.copy_(torch.tensor(places, dtype=torch.long))
        self.from_first([held])
        return [int(place) for place in held]

    def add_up(self, sums: Sequence[Tensor]) -> None:
        """Replace the first process's sums by those over all processes, in place.

        What the others hold afterwards means nothing.
        """
        if self.size > 1:
            for each in sums:
                dist.reduce(each, 0)

    def same(self, digest: bytes, device: torch.device) -> None:
        """Check that all processes hold one digest of at most 32 bytes.

        Raises:
            DataMismatch: in every process, if one holds another.
        """
        if self.size == 1:
            return
        own = torch.tensor(list(digest), dtype=torch.long, device=device)
        held = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(held, own)
        if any(not torch.equal(each, held[0]) for each in held):
            raise DataMismatch("the processes hold other rows or settings: give all the same")
