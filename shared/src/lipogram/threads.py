"""Linear algebra on one thread: for timings, and for systems too small to share out.

Where other programs keep the cores busy, threads that wait for each other cost more than they give:
beside two busy programs on two cores, an eigendecomposition of 1,280 rows took 0.4 s on one thread
and 5.4 s on two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_info, threadpool_limits

Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy, SciPy and torch compute on one thread inside, and on as many as before afterwards."""
    with threadpool_limits(limits=1):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def libraries() -> str:
    """Threads and linear algebra as they are now, for the line below a table of timings."""
    found = {
        " ".join(filter(None, map(pool.get, ("internal_api", "version", "architecture"))))
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    threads = torch.get_num_threads()
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    return ", ".join([counted, *sorted(found), f"torch {torch.__version__}"])


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Wall time of a call in seconds, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
