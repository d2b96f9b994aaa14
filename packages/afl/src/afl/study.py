"""A federation's life in one process: who drops out, who comes late, who leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl.classifier import AFLClassifier
from afl.client_folds import leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.limits import Precision
from afl.partitions import Positions, dirichlet_partition, iid_partition, shard_partition
from afl.simulation import Simulated, client_name, simulate
from lipogram.analytic.settings import one_of
from lipogram.errors import InvalidSetting


@dataclass(frozen=True, kw_only=True)
class Life:
    """What happens to the clients of a simulated federation.

    Attributes:
        drop_out: share of the clients with rows that never answer.
        late: share that joins after the others.
        leave: share that leaves at the end.
        seed: of the draw.

    Raises:
        InvalidSetting: a share outside 0 to 1, or more than everybody in all.
    """

    drop_out: float = 0.0
    late: float = 0.0
    leave: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"drop-out": self.drop_out, "late": self.late, "leave": self.leave}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InvalidSetting(f"{name} is {share!r}, it must lie between 0 and 1")
        if sum(shares.values()) > 1:
            raise InvalidSetting(f"{shares} are more than all clients together")

    def cast(self, busy: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Clients that drop out, come late, and leave; nobody does two of these."""
        order = np.random.default_rng(self.seed).permutation(np.asarray(busy)).tolist()
        ends = np.cumsum([round(s * len(order)) for s in (self.drop_out, self.late, self.leave)])
        return order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[2]]


@dataclass(frozen=True)
class Lived:
    """What a simulated federation came to.

    Attributes:
        done: sum, head, bytes and seconds of those that answered.
        dropped: clients with rows that never answered.
        late: clients that came after the others.
        left: clients that were taken out again.
        empty: clients without a row.
        rows: rows in the sum at the end.
        pooled: the head fitted on these rows, by hand.
        off_pooled: largest difference of the weights, relative to the largest weight.
    """

    done: Simulated
    dropped: int
    late: int
    left: int
    empty: int
    rows: int
    pooled: AFLClassifier
    off_pooled: float


def split_rows(
    y: Any, clients: int, split: str, *, alpha: float = 0.1, shards: int = 2, seed: int = 0
) -> Positions:
    """Rows of each client, by one of the splits of :mod:`afl.partitions`.

    Raises:
        InvalidSetting: an unknown split, or one that cannot be had.
    """
    one_of("split", split, ("dirichlet", "shards", "iid"))
    if split == "iid":
        return iid_partition(y, clients, seed=seed)
    if split == "shards":
        return shard_partition(y, clients, shards, seed=seed)
    return dirichlet_partition(y, clients, alpha, seed=seed, min_size=0)


def live(
    X: NDArray[Any],
    y: NDArray[Any],
    parts: Positions,
    life: Life,
    *,
    gamma: float | str = 1.0,
    clip: float | None = None,
    space: str = "",
    dtype: Precision = "float64",
    progress: bool = False,
) -> Lived:
    """Run a federation through a life, by the bytes that real clients would send.

    Args:
        X: (n, d) features.
        y: (n,) labels.
        parts: rows of each client.
        life: who drops out, comes late, leaves.
        gamma: ridge γ, ``"gcv"``, or ``"clients"`` (:mod:`afl.client_folds`).
        clip: bound on the rows' norm.
        space: identity of the features.
        dtype: precision of the messages.
        progress: show a bar where stderr is a terminal.

    Raises:
        TooFewClients: nobody is left.
    """
    busy = [number for number, part in enumerate(parts) if len(part)]
    dropped, late, left = life.cast(busy)
    last = set(late)
    gone = set(dropped) | set(left)
    staying = [number for number in busy if number not in gone]
    if not staying:
        raise TooFewClients("nobody is left in the federation")
    came = sorted((n for n in busy if n not in set(dropped)), key=lambda n: (n in last, n))

    def own(number: int) -> ClientStats:
        return ClientStats.compute(X[parts[number]], y[parts[number]], clip=clip, space=space)

    names = [client_name(number) for number in came]
    done = simulate(
        X,
        y,
        [parts[number] for number in came],
        gamma="gcv" if gamma == "clients" else gamma,
        clip=clip,
        space=space,
        dtype=dtype,
        names=names,
        progress=progress,
    )
    federation = done.federation
    for number in left:
        federation.remove(client_name(number), as_sent(own(number), dtype))
    ridge: float | str = gamma
    if gamma == "clients":
        ridge = leave_clients_out({client_name(n): own(n) for n in staying}).best
    head = federation.solve(ridge)
    kept = np.concatenate([parts[number] for number in staying])
    rows = X[kept]
    if clip is not None:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows * np.minimum(1, clip / np.maximum(lengths, 1e-300))
    pooled = AFLClassifier(gamma=head.gamma).fit(rows, y[kept])
    order = [head.classes.index(label) for label in pooled.classes_.tolist()]
    weight = head.weight.numpy()[:, order]
    off = np.abs(weight - pooled.coef_.T).max() / np.abs(pooled.coef_).max()
    finished = Simulated(federation, head, done.uploaded, done.client_seconds, done.server_seconds)
    empty = len(parts) - len(busy)
    return Lived(finished, len(dropped), len(late), len(left), empty, len(kept), pooled, float(off))


def as_sent(stats: ClientStats, dtype: Precision) -> ClientStats:
    """Statistics as the server read them, after the rounding of the message."""
    from afl import wire

    return wire.from_bytes(wire.to_bytes(stats, dtype=dtype)).stats
