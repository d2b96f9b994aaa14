"""A whole federation in one process, through the bytes that real clients would send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl import wire
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.head import LinearHead
from afl.limits import Precision
from lipogram.progress import bar


@dataclass
class Costs:
    """What a simulated federation has cost so far.

    Attributes:
        uploaded: bytes of all messages.
        client_seconds: wall time of making and packing them.
        server_seconds: wall time of reading, checking and adding them, and of what comes of it.
    """

    uploaded: int = 0
    client_seconds: float = 0.0
    server_seconds: float = 0.0

    @contextmanager
    def at_server(self) -> Iterator[None]:
        """Count the block as the server's."""
        start = time.perf_counter()
        yield
        self.server_seconds += time.perf_counter() - start

    def deliver(
        self, make: Callable[[], ClientStats], *, client: str, dtype: Precision
    ) -> wire.Envelope:
        """What the server reads of the statistics that a client makes and sends."""
        start = time.perf_counter()
        message = wire.to_bytes(make(), client=client, dtype=dtype)
        self.client_seconds += time.perf_counter() - start
        self.uploaded += len(message)
        with self.at_server():
            return wire.from_bytes(message)


@dataclass(frozen=True)
class Simulated:
    """What a simulated federation ended with.

    Attributes:
        federation: the exact sum and its ledger.
        head: solved from it.
        uploaded: bytes of all messages.
        client_seconds: wall time of making and packing them.
        server_seconds: wall time of reading, checking and adding them, and of the solve.
    """

    federation: Federation
    head: LinearHead
    uploaded: int
    client_seconds: float
    server_seconds: float


def client_name(number: int) -> str:
    """What the simulation calls a client."""
    return f"client-{number:04d}"


def simulate(
    X: NDArray[Any],
    y: NDArray[Any],
    parts: Sequence[NDArray[np.int64]],
    *,
    gamma: float | str = 1.0,
    clip: float | None = None,
    space: str = "",
    dtype: Precision = "float64",
    names: Sequence[str] | None = None,
    progress: bool = False,
) -> Simulated:
    """One round: every client packs its statistics, the server reads, checks, adds and solves.

    Simulated clients may be as small as one row, which a real federation refuses by default.

    Args:
        X: (n, d) features of everybody.
        y: (n,) labels.
        parts: rows of each client, see :mod:`afl.partitions`.
        gamma: ridge γ, or ``"gcv"``; see :meth:`afl.Federation.solve`.
        clip: bound on the rows' norm, None for none.
        space: identity of the features.
        dtype: precision of the messages.
        names: what the clients are called; None counts them.
        progress: show a bar where stderr is a terminal.
    """
    federation, costs = Federation(minimum_rows=1), Costs()

    def stats_of(rows: NDArray[np.int64]) -> ClientStats:
        return ClientStats.compute(X[rows], y[rows], clip=clip, space=space)

    with bar("clients", len(parts), wanted=progress) as advance:
        for number, rows in enumerate(parts):
            read = costs.deliver(
                partial(stats_of, rows),
                client=names[number] if names else client_name(number),
                dtype=dtype,
            )
            with costs.at_server():
                federation.add(read.client, read.stats, round=read.round)
            advance(1)
    with costs.at_server():
        head = federation.solve(gamma)
    return Simulated(federation, head, costs.uploaded, costs.client_seconds, costs.server_seconds)
