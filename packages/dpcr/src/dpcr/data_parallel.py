"""Training shared by processes: each has a copy of the network and sees a part of every batch.

What ``DistributedDataParallel`` computes, in one message a step; that one loads torch's compiler.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dpcr.processes import rank_and_world


class Processes:
    """All processes of ``torch.distributed``'s default group, or this one alone.

    Attributes:
        rank: this process's number. ``world``: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.world = rank_and_world()

    def begin(self, network: nn.Module) -> None:
        """Give every process the first one's weights and statistics."""
        if self.world > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, 0)

    def average_statistics(self, network: nn.Module) -> None:
        """Give every process the mean of the running statistics, each of its own part of the data.

        Whole numbers are the first process's.
        """
        if self.world > 1:
            for value in network.buffers():
                if value.is_floating_point():
                    dist.all_reduce(value)
                    value /= self.world
                else:
                    dist.broadcast(value, 0)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over processes."""
        if self.world > 1:
            held = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([each.flatten() for each in held])
            dist.all_reduce(flat)
            for gradient, total in zip(held, flat.split([g.numel() for g in held]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def add(self, values: Tensor) -> Tensor:
        """Sums over processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values
