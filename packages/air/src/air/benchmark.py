"""How fast and how small: AIR against what the papers' code does, on the same features.

The baselines are written as their authors would: the class-wise head as a loop over all classes
that adds a dense D×D product for each (present or not) and inverts the weighted sum; the recursion
with the usual left-to-right product, which multiplies two D×D matrices for every batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import blas

from air.classifier import AIRClassifier
from lipogram.analytic.class_sums import CHUNK_ROWS
from lipogram.analytic.published_recursion import published_recursion
from lipogram.analytic.scenarios import long_tailed_counts
from lipogram.analytic.statistics import ClassStatistics
from lipogram.report import Table
from lipogram.threads import libraries, one_thread, timed

BATCH = 64
SMALL_BATCH = 10
RECURSION_BATCHES = 6
MEMORY_WIDTH, MEMORY_CLASSES, MEMORY_LARGEST, MEMORY_RHO = 2048, 100, 500, 100.0
FLOORS = {"folded": 15.0, "class-wise": 4.0, "accumulate": 100.0, "syrk share": 0.6}
MEMORY_CEILING = 0.6e9


@dataclass(frozen=True)
class Benchmark:
    """What was measured; times in seconds for all rows, one thread.

    Attributes:
        setting: sizes, threads and libraries.
        dense_loop, folded, class_wise: class-weighted head, fit and one solve.
        recursion: naive recursion, from ``RECURSION_BATCHES`` batches scaled to all rows.
        accumulate: plain ridge, batches of 10 and one solve.
        syrk: the machine's own ``dsyrk`` on the same rows. ``sums``: accumulate without the solve.
        difference: largest relative difference between the dense loop's weights and ours.
        memory: bytes above start for K = 100, D = 2048, ρ = 100.
    """

    setting: str
    dense_loop: float
    folded: float
    class_wise: float
    recursion: float
    accumulate: float
    syrk: float
    sums: float
    difference: float
    memory: int

    def ratios(self) -> dict[str, float]:
        """Times over the baselines', and the share of the ``dsyrk`` rate."""
        return {
            "folded": self.dense_loop / self.folded,
            "class-wise": self.dense_loop / self.class_wise,
            "accumulate": self.recursion / self.accumulate,
            "syrk share": self.syrk / self.sums,
        }

    def table(self) -> Table:
        """One row a comparison."""
        ratios = self.ratios()
        rows: list[list[str | float]] = [
            ["folded", "dense loop + inverse", self.folded, self.dense_loop, ratios["folded"]],
            [
                "class-wise",
                "dense loop + inverse",
                self.class_wise,
                self.dense_loop,
                ratios["class-wise"],
            ],
            [
                "accumulate",
                "naive recursion",
                self.accumulate,
                self.recursion,
                ratios["accumulate"],
            ],
            ["syrk share", "dsyrk", self.sums, self.syrk, ratios["syrk share"]],
        ]
        return Table(
            columns=["what", "against", "ours, s", "theirs, s", "ratio", "floor"],
            rows=[[*row, FLOORS[str(row[0])]] for row in rows],
            caption=(
                f"Largest relative difference from the dense loop {self.difference:.1e}; "
                f"memory above start {self.memory / 1e9:.2f} GB "
                f"(K={MEMORY_CLASSES}, D={MEMORY_WIDTH}, rho={MEMORY_RHO:g})."
            ),
        )

    def failures(self) -> list[str]:
        """Comparisons below their floor."""
        failed = [
            f"{name} {ratio:.2f}, floor {FLOORS[name]:g}"
            for name, ratio in self.ratios().items()
            if ratio < FLOORS[name]
        ]
        if self.memory > MEMORY_CEILING:
            failed.append(f"memory {self.memory / 1e9:.2f} GB, ceiling {MEMORY_CEILING / 1e9:g} GB")
        return failed

    def as_dict(self) -> dict[str, object]:
        """Everything, ratios included, as JSON values."""
        return {**asdict(self), "ratios": self.ratios(), "failures": self.failures()}


def run_benchmark(
    *, width: int = 2000, classes: int = 50, rows: int = 5000, progress: Callable[[str], None]
) -> Benchmark:
    """Measure everything, one thread. About a minute at the default sizes.

    Args:
        width: D.
        classes: K.
        rows: n, all classes equally large, in random order.
        progress: told what is being measured.
    """
    with one_thread():
        rng = np.random.default_rng(0)
        features = np.maximum(rng.standard_normal((rows, width)), 0)
        labels = rng.permutation(np.arange(rows) % classes)
        AIRClassifier(buffer_size=None).fit(features[:classes], np.arange(classes)).predict(
            features[:1]
        )
        progress("class-wise")
        class_wise, ours = timed(lambda: _class_wise(features, labels))
        progress("folded")
        by_class = np.argsort(labels, kind="stable")
        folded, _ = timed(lambda: _folded(features[by_class], labels[by_class], classes))
        progress("dense loop with inverse")
        dense_loop, theirs = timed(lambda: _dense_loop(features, labels, classes))
        progress("accumulate, batches of 10")
        sums, statistics = timed(lambda: _accumulated(features, labels))
        solve, _ = timed(lambda: statistics.solve(0.1))
        progress("dsyrk")
        syrk, _ = timed(lambda: _syrk(features))
        progress("naive recursion")
        part = RECURSION_BATCHES * SMALL_BATCH
        recursion, _ = timed(
            lambda: published_recursion(
                features[:part], labels[:part], classes, gamma=0.1, batch=SMALL_BATCH
            )
        )
        ran_on = libraries()
    progress("memory")
    order = np.argsort(ours.classes_)
    scale = np.abs(theirs).max()
    return Benchmark(
        setting=f"D={width}, K={classes}, n={rows}, float64, {ran_on}",
        dense_loop=dense_loop,
        folded=folded,
        class_wise=class_wise,
        recursion=recursion * rows / part,
        accumulate=sums + solve,
        syrk=syrk,
        sums=sums,
        difference=float(np.abs(ours.coef_[order].T - theirs).max() / scale),
        memory=_memory_above_start(),
    )


def _class_wise(features: np.ndarray, labels: np.ndarray) -> AIRClassifier:
    head = AIRClassifier(buffer_size=None, gamma=0.1)
    for i in range(0, len(labels), BATCH):
        head.partial_fit(features[i : i + BATCH], labels[i : i + BATCH])
    assert head.coef_ is not None
    return head


def _folded(
    features: np.ndarray, labels: np.ndarray, classes: int, tasks: int = 10
) -> AIRClassifier:
    head = AIRClassifier(buffer_size=None, gamma=0.1, policy="cil")
    edges = np.searchsorted(labels, np.linspace(0, classes, tasks + 1).astype(int))
    for start, stop in pairwise(edges):
        for i in range(start, stop, BATCH):
            head.partial_fit(features[i : min(i + BATCH, stop)], labels[i : min(i + BATCH, stop)])
        head.end_task()
    assert head.coef_ is not None
    return head


def _dense_loop(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    d = features.shape[1]
    grams = torch.zeros(classes, d, d, dtype=torch.float64)
    cross = torch.zeros(classes, d, classes, dtype=torch.float64)
    counts = torch.zeros(classes, dtype=torch.float64)
    for i in range(0, len(labels), BATCH):
        x = torch.from_numpy(features[i : i + BATCH])
        y = torch.from_numpy(labels[i : i + BATCH])
        targets = torch.nn.functional.one_hot(y, classes).double()
        for label in range(classes):
            mine = y == label
            grams[label] += x[mine].T @ x[mine]
            cross[label] += x[mine].T @ targets[mine]
        counts += targets.sum(0)
    weight = 1 / counts
    weight = weight * classes / weight.sum()
    total = (weight[:, None, None] * grams).sum(0) + 0.1 * torch.eye(d, dtype=torch.float64)
    return (torch.inverse(total) @ (weight[:, None, None] * cross).sum(0)).numpy()


def _accumulated(features: np.ndarray, labels: np.ndarray) -> ClassStatistics:
    statistics = ClassStatistics(features.shape[1], pooled=True)
    for i in range(0, len(labels), SMALL_BATCH):
        statistics.update(features[i : i + SMALL_BATCH], labels[i : i + SMALL_BATCH])
    statistics.flush()
    return statistics


def _syrk(features: np.ndarray) -> None:
    total = np.zeros((features.shape[1],) * 2, order="F")
    for i in range(0, len(features), CHUNK_ROWS):
        blas.dsyrk(1.0, features[i : i + CHUNK_ROWS].T, beta=1.0, c=total, overwrite_c=1)


def _memory_above_start() -> int:
    command = [sys.executable, "-c", "from air.benchmark import print_memory; print_memory()"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(printed)["bytes"])


def print_memory() -> None:
    """Print the peak memory of a long-tailed fit and solve above that of the imports, as JSON."""
    rng = np.random.default_rng(0)
    sizes = long_tailed_counts(MEMORY_CLASSES, MEMORY_LARGEST, MEMORY_RHO)
    labels = rng.permutation(np.repeat(np.arange(MEMORY_CLASSES), sizes))
    start = _resident("VmRSS")
    head = AIRClassifier(buffer_size=None, gamma=0.1)
    for i in range(0, len(labels), BATCH):
        mine = labels[i : i + BATCH]
        head.partial_fit(rng.standard_normal((len(mine), MEMORY_WIDTH)), mine)
    assert head.coef_ is not None
    print(json.dumps({"bytes": _resident("VmHWM") - start, "rows": len(labels)}))


def _resident(field: str) -> int:
    """Bytes resident now (VmRSS) or at most (VmHWM); off Linux the peak serves for both."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    # Not getrusage: there a child inherits the peak of the process that started it.
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
