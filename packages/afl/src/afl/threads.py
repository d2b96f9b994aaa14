"""Linear algebra on one thread: for timings, and for systems too small to share out.

Where other programs keep the cores busy, threads that wait for each other cost more than they give:
beside two busy programs on two cores, an eigendecomposition of 1,280 rows took 0.4 s on one thread
and 5.4 s on two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


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
