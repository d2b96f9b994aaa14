"""Adding up clients, against the published law for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from afl import wire
from afl.absolute_aggregation import pairwise_law
from afl.client_stats import ClientStats
from afl.federation import Federation
from lipogram.report import Table

FLOOR, MOST_MEGABYTES = 300.0, 200.0


@dataclass(frozen=True)
class Measured:
    """What a benchmark measured.

    Attributes:
        clients, width, classes, pairs: sizes; ``pairs`` of the law's steps were timed.
        law: seconds of the published fold over all clients, from those pairs.
        streamed: seconds to add all statistics in float64 and solve.
        exact: seconds to add them to a federation (integers, ledger, hashes) and solve.
        megabytes: most memory of the process above its start while a federation took all clients.
        upload: bytes of one message over those of the paper's W and C, both float64, by classes;
            rows are standard normal, 40 of each class.
    """

    clients: int
    width: int
    classes: int
    pairs: int
    law: float
    streamed: float
    exact: float
    megabytes: float
    upload: dict[int, float]

    def table(self) -> Table:
        """The figures, with what each is compared to."""
        return Table(
            columns=["what", "seconds", "ratio", "floor"],
            rows=[
                [f"published law ({self.pairs} pairs timed, scaled up)", self.law, 1.0, None],
                ["sum in float64, one solve", self.streamed, self.law / self.streamed, FLOOR],
                ["exact sum with ledger, one solve", self.exact, self.law / self.exact, None],
                ["memory above start, MB (at most)", None, self.megabytes, MOST_MEGABYTES],
                *(
                    [f"bytes of a message over the paper's, {k} classes", None, ratio, None]
                    for k, ratio in self.upload.items()
                ),
            ],
            digits=2,
            caption=(
                f"{self.clients} clients, {self.width} features, {self.classes} classes, one thread"
            ),
        )

    def failures(self) -> list[str]:
        """What is below its floor."""
        failed = []
        if self.law / self.streamed < FLOOR:
            failed.append(f"{self.law / self.streamed:.0f} times the law, at least {FLOOR:.0f}")
        if self.megabytes > MOST_MEGABYTES:
            failed.append(f"{self.megabytes:.0f} MB, at most {MOST_MEGABYTES:.0f}")
        return failed


def run_benchmark(
    *,
    clients: int = 1000,
    width: int = 512,
    classes: int = 10,
    pairs: int = 40,
    progress: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Time both ways in one process, on one thread.

    Args:
        clients: K.
        width: d.
        classes: k.
        pairs: steps of the published law to time; each costs the same, so all K are scaled from
            them.
        progress: told what is being timed.
    """
    with threadpool_limits(limits=1):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return _measure(clients, width, classes, pairs, progress)
        finally:
            torch.set_num_threads(before)


def _measure(
    clients: int, width: int, classes: int, pairs: int, progress: Callable[[str], None]
) -> Measured:
    rng = np.random.default_rng(0)

    def client() -> ClientStats:
        rows = rng.standard_normal((40, width))
        return ClientStats.compute(rows, rng.integers(0, classes, 40), classes=range(classes))

    progress("exact sums")
    seconds, megabytes = _exact(client, clients)  # first, so that no freed memory is at hand
    few = [client() for _ in range(20)]
    progress("the published law")
    heads, matrices = [], []
    for number in range(pairs + 1):
        system = few[number % len(few)].reweight()
        square = system.gram.numpy()
        square = np.tril(square) + np.tril(square, -1).T + np.eye(width)
        matrices.append(square)
        heads.append(np.linalg.solve(square, system.cross.numpy()))
    law = _seconds(lambda: pairwise_law(heads, matrices)) * (clients - 1) / pairs

    progress("sums in float64")

    def streamed() -> None:
        total = few[0].like()
        for number in range(clients):
            total.merge(few[number % len(few)])
        total.solve(1.0)

    streamed()
    plain = _seconds(streamed)
    upload = {}
    for k in (10, 100):
        rows = rng.standard_normal((40 * k, width))
        sent = wire.to_bytes(ClientStats.compute(rows, np.arange(40 * k) % k))
        upload[k] = len(sent) / (8 * (width * width + width * k))
    return Measured(clients, width, classes, pairs, law, plain, seconds, megabytes, upload)


def _exact(client: Callable[[], ClientStats], clients: int) -> tuple[float, float]:
    """Seconds and megabytes of a federation that takes clients one at a time."""
    federation, seconds = Federation(), 0.0
    with _Peak() as peak:
        for number in range(clients):
            stats = client()
            start = time.perf_counter()
            federation.add(f"client {number}", stats)
            seconds += time.perf_counter() - start
        seconds += _seconds(lambda: federation.solve(1.0))
    return seconds, peak.megabytes


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Peak:
    """Memory of the process above what it was, looked at a hundred times a second."""

    def __enter__(self) -> _Peak:
        self.start = self.most = _resident()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()
        self.megabytes = (self.most - self.start) / 1e6

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, _resident())


def _resident() -> int:
    """Bytes of memory that the process holds (Linux; 0 elsewhere)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
