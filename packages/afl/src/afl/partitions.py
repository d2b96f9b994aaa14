"""How rows may be spread over clients: the skews that federated methods are tried on.

Each function returns the positions of every client's rows; each row belongs to exactly one client.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.labels import as_labels
from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting

Positions = list[NDArray[np.int64]]


def iid_partition(y: Any, clients: int, *, seed: int = 0) -> Positions:
    """Rows dealt out at random, in parts that differ by one row at most.

    Args:
        y: (n,) labels.
        clients: number of clients.
        seed: of the draw.
    """
    n = len(as_labels(y))
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, whole("clients", clients))]


def dirichlet_partition(
    y: Any,
    clients: int,
    alpha: float,
    *,
    seed: int = 0,
    min_size: int = 1,
    max_tries: int = 100,
) -> Positions:
    """Class mixtures drawn from a Dirichlet distribution (NIID-1).

    Each class is dealt out by shares ``p ~ Dir(α)`` over the clients that do not hold ``n/clients``
    rows yet. The draw is repeated until everybody has ``min_size`` rows; a draw that does not
    succeed is mended, by giving rows of the largest clients to the smallest, so it always ends.

    Args:
        y: (n,) labels.
        clients: number of clients.
        alpha: concentration α > 0: small for clients of one class, large for equal mixtures.
        seed: of the draw.
        min_size: rows that each client gets at least; 0 allows empty clients.
        max_tries: draws before the last one is mended.

    Raises:
        InvalidSetting: a setting outside its values, or more rows promised than there are.
    """
    labels, total = as_labels(y), whole("clients", clients)
    positive("alpha", alpha)
    whole("min_size", min_size, least=0)
    whole("max_tries", max_tries)
    if min_size * total > len(labels):
        raise InvalidSetting(
            f"{total} clients of {min_size} rows need {min_size * total} rows, there are "
            f"{len(labels)}"
        )
    rng = np.random.default_rng(seed)
    owner = np.zeros(len(labels), dtype=np.int64)
    for _ in range(max_tries):
        owner = _drawn(labels, total, alpha, rng)
        if np.bincount(owner, minlength=total).min() >= min_size:
            break
    return _positions(_mended(owner, total, min_size, rng), total)


def shard_partition(
    y: Any, clients: int, shards: int, *, seed: int = 0, balanced: bool = False
) -> Positions:
    """Clients of exactly ``shards`` classes (NIID-2), where the classes are large enough.

    Args:
        y: (n,) labels.
        clients: number of clients.
        shards: classes a client, at most as many as there are.
        seed: of the draw.
        balanced: cut each class into equal parts instead of random ones.

    Raises:
        InvalidSetting: more classes a client than there are, places for fewer classes than there
            are, or a class with fewer rows than clients to share them.
    """
    labels, total = as_labels(y), whole("clients", clients)
    names = np.unique(labels)
    k = len(names)
    whole("shards", shards, most=max(k, 1))
    if total * shards < k:
        raise InvalidSetting(
            f"{total} clients of {shards} classes have no place for {k} classes: raise one of them"
        )
    rng = np.random.default_rng(seed)
    # Deal the classes out like cards, so often that each is held by nearly equally many clients.
    places = np.array([total * shards // k + (c < total * shards % k) for c in range(k)])
    quota = np.full(total, shards)
    owner = np.zeros(len(labels), dtype=np.int64)
    ordered = rng.permutation(k)
    for done, c in enumerate(ordered):
        # A client that needs every class still to come has to take this one.
        tie = rng.permutation(total)
        forced = quota >= k - done
        first = tie[np.lexsort((-quota[tie], ~forced[tie]))]
        chosen = first[: max(int(places[c]), int(forced.sum()))]
        chosen = chosen[quota[chosen] > 0]
        quota[chosen] -= 1
        rows = rng.permutation(np.flatnonzero(labels == names[c]))
        if len(rows) < len(chosen):
            raise InvalidSetting(
                f"class {names[c].item()!r} has {len(rows)} rows for {len(chosen)} clients: take "
                "fewer clients or shards"
            )
        cuts = _cuts(len(rows), len(chosen), balanced, rng)
        for client, part in zip(chosen, np.split(rows, cuts), strict=True):
            owner[part] = client
    return _positions(owner, total)


def _drawn(
    labels: NDArray[Any], clients: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    n = len(labels)
    owner = np.zeros(n, dtype=np.int64)
    held = np.zeros(clients, dtype=np.int64)
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        share = rng.dirichlet(np.full(clients, alpha)) * (held < n / clients)
        if not np.isfinite(share).all() or share.sum() <= 0:  # all its mass was on full clients
            share = (held == held.min()).astype(float)
        cuts = (np.cumsum(share / share.sum()) * len(rows)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(rows, cuts)):
            owner[part] = client
            held[client] += len(part)
    return owner


def _mended(
    owner: NDArray[np.int64], clients: int, min_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    sizes = np.bincount(owner, minlength=clients)
    for client in np.flatnonzero(sizes < min_size):
        while sizes[client] < min_size:
            donor = int(sizes.argmax())
            spare = min(int(sizes[donor]) - min_size, min_size - int(sizes[client]))
            moved = rng.choice(np.flatnonzero(owner == donor), max(spare, 1), replace=False)
            owner[moved] = client
            sizes[donor] -= len(moved)
            sizes[client] += len(moved)
    return owner


def _cuts(rows: int, parts: int, balanced: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    if balanced:
        return np.arange(1, parts) * rows // parts
    return np.sort(rng.choice(np.arange(1, rows), parts - 1, replace=False))


def _positions(owner: NDArray[np.int64], clients: int) -> Positions:
    order = np.argsort(owner, kind="stable")
    edges = np.cumsum(np.bincount(owner, minlength=clients))[:-1]
    return np.split(order, edges)
