"""A sweep shared by processes of this machine."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from lipogram.errors import FolderInUse
from psfuture.sweeps import Share

_PAUSE = 0.2


def run_shares(world: int, work: Callable[..., Any], *given: Any) -> None:
    """Call `work(*given, share)` in `world` new processes, until all have returned.

    Args:
        world: processes.
        work: a function of a module, which ends in :func:`psfuture.sweeps.sweep_points`.
        given: what it takes beside its share; must cross to another process.

    Raises:
        FolderInUse: one of them has failed; the others were ended, what is done is kept.
    """
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=work, args=(*given, Share(rank, world)), daemon=True)
        for rank in range(world)
    ]
    try:
        for process in started:
            process.start()
        while any(process.is_alive() for process in started):
            if any(process.exitcode for process in started):
                break
            time.sleep(_PAUSE)
        failed = [rank for rank, process in enumerate(started) if process.exitcode]
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
            process.join()
    if failed:
        raise FolderInUse(
            f"of {world} processes number {failed[0]} has stopped, see above; what is done is "
            "kept, and the same call goes on with it"
        )
