"""A whole federation in one process, through the bytes that real clients would send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl import wire
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.head import LinearHead
from afl.limits import Precision
from lipogram.progress import bar


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
    federation = Federation(minimum_rows=1)
    uploaded, seconds = 0, [0.0, 0.0]
    with bar("clients", len(parts), wanted=progress) as advance:
        for number, rows in enumerate(parts):
            start = time.perf_counter()
            stats = ClientStats.compute(X[rows], y[rows], clip=clip, space=space)
            name = names[number] if names else client_name(number)
            message = wire.to_bytes(stats, client=name, dtype=dtype)
            sent = time.perf_counter()
            read = wire.from_bytes(message)
            federation.add(read.client, read.stats, round=read.round)
            seconds[0] += sent - start
            seconds[1] += time.perf_counter() - sent
            uploaded += len(message)
            advance(1)
    start = time.perf_counter()
    head = federation.solve(gamma)
    seconds[1] += time.perf_counter() - start
    return Simulated(federation, head, uploaded, *seconds)
