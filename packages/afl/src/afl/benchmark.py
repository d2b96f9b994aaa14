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

from afl import wire
from afl.absolute_aggregation import pairwise_law
from afl.client_stats import ClientStats
from afl.federation import Federation
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.sources import features_of
from lipogram.errors import MissingAsset, MissingExtra
from lipogram.report import Table
from lipogram.threads import one_thread

FLOOR, MOST_MEGABYTES, MOST_UPLOAD = 300.0, 200.0, 0.5
UPLOAD_CLASSES = (10, 100)


@dataclass(frozen=True)
class Measured:
    """What a benchmark measured.

    Attributes:
        clients, width, classes, pairs: sizes; ``pairs`` of the law's steps were timed.
        law: seconds of the published fold over all clients, from those pairs.
        streamed: seconds to add all statistics in float64 and solve.
        exact: seconds to add them to a federation (integers, ledger, hashes) and solve.
        megabytes: most memory of the process above its start while a federation took all clients.
        read: seconds to read and check one message.
        upload: bytes of one message over those of the paper's W and C, both float64, for several
            kinds of rows, each with 10 and with 100 classes.
        absent: why there are no real rows among them, or "".
    """

    clients: int
    width: int
    classes: int
    pairs: int
    law: float
    streamed: float
    exact: float
    megabytes: float
    read: float
    upload: dict[str, float]
    absent: str = ""

    def table(self) -> Table:
        """The figures, with what each is compared to."""
        return Table(
            columns=["what", "seconds", "ratio", "floor"],
            rows=[
                [f"published law ({self.pairs} pairs timed, scaled up)", self.law, 1.0, None],
                ["sum in float64, one solve", self.streamed, self.law / self.streamed, FLOOR],
                ["exact sum with ledger, one solve", self.exact, self.law / self.exact, None],
                ["memory above start, MB (at most)", None, self.megabytes, MOST_MEGABYTES],
                ["reading and checking a message", self.read, None, None],
                *(
                    [f"bytes, {what}", None, ratio, _most_upload(what)]
                    for what, ratio in self.upload.items()
                ),
            ],
            digits=3,
            caption=(
                f"{self.clients} clients, {self.width} features, {self.classes} classes, one thread"
                ". Bytes of a message over those of the paper's W and C"
                + (f"; {self.absent}" if self.absent else "")
            ),
        )

    def failures(self) -> list[str]:
        """What is below its floor."""
        failed = []
        if self.law / self.streamed < FLOOR:
            failed.append(f"{self.law / self.streamed:.0f} times the law, at least {FLOOR:.0f}")
        if self.megabytes > MOST_MEGABYTES:
            failed.append(f"{self.megabytes:.0f} MB, at most {MOST_MEGABYTES:.0f}")
        for what, ratio in self.upload.items():
            if ratio > (_most_upload(what) or ratio):
                failed.append(f"{ratio:.3f} of the paper's bytes for {what}, at most {MOST_UPLOAD}")
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
    with one_thread():
        return _measure(clients, width, classes, pairs, progress)


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
    progress("messages")
    message = wire.to_bytes(few[0])
    wire.from_bytes(message)
    read = min(_seconds(lambda: wire.from_bytes(message)) for _ in range(5))
    upload, absent = _uploads(rng, width)
    return Measured(
        clients, width, classes, pairs, law, plain, seconds, megabytes, read, upload, absent
    )


def _uploads(rng: np.random.Generator, width: int) -> tuple[dict[str, float], str]:
    """Bytes of messages over the paper's, and why there are none of real rows.

    Features of EfficientNet-Lite0 are wider than most d; an orthogonal map makes them as wide.
    """
    kinds = {
        f"random rows, d = {width}": (rng.standard_normal((4000, width)), np.arange(4000) % 10)
    }
    absent = ""
    try:
        real = features_of("fashion-mnist", image_size=64, per_class=(600, 150))
    except (MissingAsset, MissingExtra) as error:
        absent = f"no Fashion-MNIST: {error}"
    else:
        d = real.train.shape[1]
        kinds[f"Fashion-MNIST, d = {d}"] = real.train, real.train_labels
        if width < d:
            narrow = RandomBuffer(d, width, init="orthogonal", activation="identity", seed=0)
            rows = narrow(torch.from_numpy(real.train.astype(np.float64))).numpy()
            kinds[f"Fashion-MNIST, d = {width}"] = rows, real.train_labels
    made = {}
    for what, (rows, labels) in kinds.items():
        for k in UPLOAD_CLASSES:
            # A hundred classes are the ten, each cut into ten at random.
            cut = labels if k == 10 else labels * 10 + rng.integers(0, 10, len(labels))
            sent = wire.to_bytes(ClientStats.compute(rows, cut, classes=range(k)))
            paper = 8 * (rows.shape[1] ** 2 + rows.shape[1] * k)
            made[f"{what}, k = {k}"] = len(sent) / paper
    return made, absent


def _most_upload(what: str) -> float | None:
    return MOST_UPLOAD if what.endswith(", k = 10") else None


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
