"""Clients that come late and one that leaves, with the head after each event."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.partitions import Positions
from afl.simulation import client_name
from lipogram.analytic.sources import Features

EARLY = 0.1
ARRIVALS = 9


def timeline(features: Features, parts: Positions, *, gamma: float) -> dict[str, Any]:
    """A tenth of the clients begin, the others join in nine arrivals, then one that began leaves.

    What is left is compared with a federation that never had the leaver, filled in another order.
    Clients without rows take no part.

    Args:
        features: training rows that ``parts`` spreads over clients, and test rows.
        parts: rows of each client, see :mod:`afl.partitions`; at least two clients with rows.
        gamma: ridge γ.

    Returns:
        ``points``, one for each event: what happened, clients, rows, accuracy, digest of the total;
        ``leaver`` and its rows; ``ledger_entries`` and the last one's hash; the digests
        ``total_after`` leaving and ``total_without`` the leaver from the start; and whether sums
        and heads of both are ``bitwise_equal``.
    """
    X, y = features.train, features.train_labels
    busy = [number for number, part in enumerate(parts) if len(part)]
    early = max(1, round(EARLY * len(busy)))
    leaver = max(busy[:early], key=lambda number: len(parts[number]))
    federation = Federation(minimum_rows=1)
    points: list[dict[str, Any]] = []

    def stats(number: int) -> ClientStats:
        return ClientStats.compute(X[parts[number]], y[parts[number]], space=features.space)

    def join(numbers: list[int], event: str) -> None:
        for number in numbers:
            federation.add(client_name(number), stats(number))
        look(event)

    def look(event: str) -> None:
        head = federation.solve(gamma)
        points.append(
            {
                "event": event,
                "clients": len(federation.clients),
                "rows": federation.n_rows,
                "accuracy": head.accuracy(features.test, features.test_labels),
                "total": federation.digest,
            }
        )

    join(busy[:early], f"{early} begin")
    late = busy[early:]
    cuts = [len(late) * number // ARRIVALS for number in range(ARRIVALS + 1)]
    for start, stop in itertools.pairwise(cuts):
        if start < stop:
            join(late[start:stop], f"{stop - start} join")
    entry = federation.remove(client_name(leaver), stats(leaver))
    look(f"{client_name(leaver)} leaves")
    never = Federation(minimum_rows=1)
    for number in reversed(busy):
        if number != leaver:
            never.add(client_name(number), stats(number))
    same = torch.equal(federation.solve(gamma).weight, never.solve(gamma).weight)
    federation.ledger.verify()
    return {
        "points": points,
        "leaver": client_name(leaver),
        "leaver_rows": len(parts[leaver]),
        "ledger_entries": len(federation.ledger),
        "ledger_hash": entry.hash,
        "total_after": federation.digest,
        "total_without": never.digest,
        "bitwise_equal": federation.digest == never.digest and bool(same),
    }
