"""This process among those of ``torch.distributed``, if there are any."""

from __future__ import annotations

import torch.distributed as dist


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; 0 and 1 without ``torch.distributed``."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return rank_and_world()[0] == 0


def wait() -> None:
    """Until every process is here, so that all see the files that the first one wrote."""
    if rank_and_world()[1] > 1:
        dist.barrier()
