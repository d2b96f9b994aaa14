"""A federation's life in one process: who drops out, who comes late, who leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl.classifier import AFLClassifier
from afl.client_folds import FOLDS, leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.federation import Federation
from afl.limits import Precision
from afl.partitions import Positions, dirichlet_partition, iid_partition, shard_partition
from afl.simulation import Costs, Simulated, client_name
from afl.wire import Envelope
from lipogram.analytic.labels import as_labels
from lipogram.analytic.settings import one_of, positive, whole
from lipogram.errors import InvalidSetting
from lipogram.progress import bar


@dataclass(frozen=True, kw_only=True)
class Life:
    """What happens to the clients of a simulated federation.

    Attributes:
        drop_out: share of the clients that never answers.
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
        shares = {"drop_out": self.drop_out, "late": self.late, "leave": self.leave}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InvalidSetting(f"{name} is {share!r}, it must lie between 0 and 1")
        if sum(shares.values()) > 1 + 1e-9:
            told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise InvalidSetting(f"{told} are more than all clients together")
        whole("seed", self.seed, least=0)

    def cast(self, clients: int) -> tuple[list[int], list[int], list[int]]:
        """Numbers of those who drop out, come late, and leave; nobody does two of these."""
        order = np.random.default_rng(self.seed).permutation(clients).tolist()
        shares = np.cumsum([self.drop_out, self.late, self.leave])
        ends = np.rint(shares * clients).astype(int)
        return order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[2]]


@dataclass(frozen=True)
class Lived:
    """What a simulated federation came to.

    Attributes:
        done: sum, head, bytes and seconds.
        dropped: clients that never answered.
        late: clients that came after the others.
        left: clients that were taken out again.
        empty: clients without a row, whatever became of them.
        rows: rows in the sum at the end.
        pooled: the head fitted on these rows themselves, with the same γ.
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
    whole("seed", seed, least=0)
    if split == "iid":
        return iid_partition(y, clients, seed=seed)
    if split == "shards":
        return shard_partition(y, clients, shards, seed=seed)
    return dirichlet_partition(y, clients, alpha, seed=seed, min_size=0)


def held_out_fifth(y: Any, *, seed: int = 0) -> NDArray[np.bool_]:
    """Which rows (n,) to test on: a fifth of each class, rounded down.

    Raises:
        InvalidSetting: no class has five rows.
    """
    labels, rng = as_labels(y), np.random.default_rng(whole("seed", seed, least=0))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: len(members) // 5]] = True
    if not held.any():
        raise InvalidSetting("no class has five rows to hold one out: name rows to test on")
    return held


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

    Clients without rows take part. Those who leave send their statistics again to be taken out.
    γ by clients left out scores ten groups of those who stay, so memory does not grow with them.

    Args:
        X: (n, d) features.
        y: (n,) labels.
        parts: rows of each client.
        life: who drops out, comes late, leaves.
        gamma: ridge γ > 0, ``"gcv"``, or ``"clients"`` (:mod:`afl.client_folds`).
        clip: bound on the rows' norm.
        space: identity of the features.
        dtype: precision of the messages.
        progress: show a bar where stderr is a terminal.

    Raises:
        TooFewClients: no row is left.
        InvalidSetting: another γ.
    """
    if gamma not in ("gcv", "clients"):
        positive("gamma", gamma)
    dropped, late, left = life.cast(len(parts))
    away, last = set(dropped), set(late)
    staying = sorted(set(range(len(parts))) - away - set(left))
    came = sorted(set(range(len(parts))) - away, key=lambda number: (number in last, number))
    kept = np.concatenate([parts[number] for number in staying] or [np.empty(0, dtype=np.int64)])
    if not len(kept):
        raise TooFewClients("no row is left: everybody who has some drops out or leaves")
    federation, costs = Federation(minimum_rows=1), Costs()
    group_of = {number: f"group {i % FOLDS}" for i, number in enumerate(staying)}
    groups: dict[str, ClientStats] = {}

    def stats_of(number: int) -> ClientStats:
        return ClientStats.compute(X[parts[number]], y[parts[number]], clip=clip, space=space)

    def deliver(number: int) -> Envelope:
        return costs.deliver(lambda: stats_of(number), client=client_name(number), dtype=dtype)

    with bar("clients", len(came) + len(left), wanted=progress) as advance:
        for number in came:
            read = deliver(number)
            with costs.at_server():
                federation.add(read.client, read.stats, round=read.round)
                if gamma == "clients" and number in group_of:
                    group = groups.setdefault(group_of[number], read.stats.like())
                    group.merge(read.stats)
            advance(1)
        for number in left:
            read = deliver(number)
            with costs.at_server():
                federation.remove(read.client, read.stats, round=read.round)
            advance(1)
    with costs.at_server():
        chosen = gamma
        if gamma == "clients":
            chosen = leave_clients_out(federation.total(), groups).best
        head = federation.solve(chosen)
    pooled = AFLClassifier(gamma=head.gamma).fit(_clipped(X[kept], clip), y[kept])
    order = [head.classes.index(label) for label in pooled.classes_.tolist()]
    off = np.abs(head.weight.numpy()[:, order] - pooled.coef_.T).max()
    return Lived(
        done=Simulated(
            federation, head, costs.uploaded, costs.client_seconds, costs.server_seconds
        ),
        dropped=len(dropped),
        late=len(late),
        left=len(left),
        empty=sum(not len(part) for part in parts),
        rows=len(kept),
        pooled=pooled,
        off_pooled=float(off / np.abs(pooled.coef_).max()),
    )


def _clipped(rows: NDArray[Any], clip: float | None) -> NDArray[Any]:
    if clip is None:
        return rows
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    clipped: NDArray[Any] = rows * np.minimum(1, clip / np.maximum(lengths, 1e-300))
    return clipped
