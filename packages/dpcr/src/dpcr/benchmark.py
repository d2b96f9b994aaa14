"""How fast and how small: old classes calibrated against what the released code does.

Two times each: of the calibration alone, which grows with the classes and has a floor, and of a
task's whole analytic part, from its sums to its head. The baseline is the released algorithm
written anew: float32, a dense second moment and a dense projector for every class, a singular value
decomposition and four products of d × d matrices a class, and general inverses. Its cost per class
is measured on a few classes and multiplied, since 180 of them take a minute. With ``"rank"`` both
start from the projectors of the task before; here those of old classes stay, and the new classes'
are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dpcr.analytic_head import AnalyticHead, unit_rows
from dpcr.calibration import CategoryProjection, calibrate
from dpcr.projectors import class_projector
from dpcr.reconstruction import reconstruct
from dpcr.shift_accumulator import ShiftAccumulator
from dpcr.shift_map import ShiftMap
from lipogram.analytic.statistics import ClassStatistics
from lipogram.report import Table
from lipogram.threads import libraries, one_thread

SIZES = ((512, 90), (768, 180))
CLASS_ROWS, TASK_CLASSES, SAMPLED, REPEATS = 30, 10, 4, 3
GAMMA, EPS = 200.0, 1e-9
FLOORS = {"none": 50.0, "rank": 20.0}
CEILING = 1e-8


@dataclass(frozen=True)
class Comparison:
    """One way to calibrate at one size; times in seconds.

    Attributes:
        cip: category-wise projection.
        width: d. ``classes``: old classes.
        ours: calibration of all old classes. ``theirs``: by the released algorithm.
        task_ours: map with ε by cross-validation, calibration and head. ``task_theirs``: theirs.
        difference: largest difference of the weights of two heads of the sampled classes, relative
            to the largest weight: ours, and the same formula in dense float64.
        bytes_ours: the statistics of the old classes. ``bytes_theirs``: the baseline's.
    """

    cip: CategoryProjection
    width: int
    classes: int
    ours: float
    theirs: float
    task_ours: float
    task_theirs: float
    difference: float
    bytes_ours: int
    bytes_theirs: int

    @property
    def ratio(self) -> float:
        """Theirs over ours, calibration."""
        return self.theirs / self.ours

    @property
    def task_ratio(self) -> float:
        """Theirs over ours, the whole analytic part of a task."""
        return self.task_theirs / self.task_ours

    @property
    def name(self) -> str:
        """What tables and failures call it."""
        return f"{self.cip}, d={self.width}, {self.classes} classes"


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        setting: threads and libraries.
        comparisons: one a size and way.
    """

    setting: str
    comparisons: tuple[Comparison, ...]

    def table(self) -> Table:
        """One row a comparison."""
        rows: list[list[str | float]] = [
            [
                each.name,
                each.ours,
                each.theirs,
                each.ratio,
                FLOORS[each.cip],
                each.task_ratio,
                each.bytes_ours / 2**20,
                each.bytes_theirs / 2**20,
                f"{each.difference:.1e}",
            ]
            for each in self.comparisons
        ]
        return Table(
            columns=[
                "cip",
                "ours, s",
                "released, s",
                "ratio",
                "floor",
                "ratio, whole task",
                "ours, MiB",
                "released, MiB",
                "difference",
            ],
            rows=rows,
            caption=(
                f"{CLASS_ROWS} rows a class; theirs from {SAMPLED} classes, scaled. The difference "
                "is that of the weights from the same formula in dense float64."
            ),
        )

    def failures(self) -> list[str]:
        """Comparisons below their floor, and heads that differ."""
        failed = []
        for each in self.comparisons:
            if each.ratio < FLOORS[each.cip]:
                failed.append(f"{each.name}: ratio {each.ratio:.1f}, floor {FLOORS[each.cip]:g}")
            if not each.difference <= CEILING:
                failed.append(f"{each.name}: heads differ by {each.difference:.1e}")
        return failed

    def as_dict(self) -> dict[str, object]:
        """Everything, ratios included, as JSON values."""
        each = [
            {**asdict(one), "ratio": one.ratio, "task_ratio": one.task_ratio}
            for one in self.comparisons
        ]
        return {"setting": self.setting, "comparisons": each, "failures": self.failures()}


@dataclass(frozen=True)
class Task:
    """Rows of old classes in the old space, and of the present task in both spaces."""

    old: list[Tensor]
    task_old: Tensor
    task_new: Tensor
    labels: Tensor


def run_benchmark(
    *, sizes: Sequence[tuple[int, int]] = SIZES, progress: Callable[[str], None]
) -> Benchmark:
    """Measure both ways at each size, one thread. Half a minute at the default sizes.

    Args:
        sizes: pairs of d and the number of old classes.
        progress: told what is being measured.
    """
    comparisons = []
    with one_thread():
        for width, classes in sizes:
            task = random_task(width, classes)
            progress(f"released algorithm, d={width}, {classes} classes")
            theirs = _released_seconds(task)
            for cip in ("none", "rank"):
                progress(f"{cip}, d={width}, {classes} classes")
                comparisons.append(_compare(task, cip, theirs))
        return Benchmark(libraries(), tuple(comparisons))


def random_task(width: int, classes: int, seed: int = 0) -> Task:
    """Half-rectified classes around random means, moved by a map close to the identity."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    means = normal(classes + TASK_CLASSES, width)
    old = [(mean + normal(CLASS_ROWS, width)).relu() for mean in means[:classes]]
    n = 2 * width
    labels = classes + torch.arange(n) % TASK_CLASSES
    task_old = (means[labels] + normal(n, width)).relu()
    drift = torch.eye(width, dtype=torch.float64) + 0.3 * normal(width, width) / width**0.5
    task_new = (task_old @ drift + 0.1 * normal(n, width)).relu()
    return Task(old, task_old, task_new, labels)


def _compare(task: Task, cip: CategoryProjection, theirs: tuple[float, float]) -> Comparison:
    pairs = ShiftAccumulator().update(task.task_old, task.task_new)
    current = _bank([task.task_new], [task.labels], pooled=True)
    labels = [torch.full((CLASS_ROWS,), label) for label in range(len(task.old))]
    bank = _bank(task.old, labels, pooled=cip == "none")
    shift = pairs.solve()
    projectors, fresh = None, list(bank.classes)[:TASK_CLASSES]
    if cip == "rank":
        projectors = {label: class_projector(bank, label) for label in bank.classes}

    def calibrated(shift: ShiftMap) -> ClassStatistics:
        if projectors is not None:  # as many as a task brings
            projectors.update({label: class_projector(bank, label) for label in fresh})
        return calibrate(bank, shift, cip=cip, projectors=projectors)

    def task_done() -> AnalyticHead:
        return reconstruct(calibrated(pairs.solve()), current=current, gamma=GAMMA)

    few = _bank(task.old[:SAMPLED], labels[:SAMPLED], pooled=cip == "none")
    small = pairs.solve(eps=EPS, absolute=True)
    head = reconstruct(calibrate(few, small, cip=cip), current=current, gamma=GAMMA)
    right = dense_head(task, SAMPLED, project=cip == "rank")
    width = bank.n_features
    return Comparison(
        cip,
        width,
        len(task.old),
        ours=_fastest(lambda: calibrated(shift)),
        theirs=theirs[0],
        task_ours=_fastest(task_done),
        task_theirs=theirs[1],
        difference=float((head.weight - right).abs().max() / right.abs().max()),
        bytes_ours=bank.nbytes,
        bytes_theirs=len(task.old) * (2 * width * width + width) * 4,
    )


def _bank(rows: list[Tensor], labels: list[Tensor], *, pooled: bool) -> ClassStatistics:
    bank = ClassStatistics(rows[0].shape[1], pooled=pooled)
    for each, mine in zip(rows, labels, strict=True):
        bank.update(each, mine)
    bank.flush()
    return bank


def dense_head(task: Task, classes: int, *, project: bool) -> Tensor:
    """Weights (classes + task's classes, d) by the formulas as they stand, float64.

    Args:
        task: rows.
        classes: so many of its old classes.
        project: multiply the map by the projector of each class's row space.
    """
    width = task.task_old.shape[1]
    eye = torch.eye(width, dtype=torch.float64)
    a, b = task.task_old.T @ task.task_old, task.task_old.T @ task.task_new
    shift = torch.linalg.solve(a + EPS * eye, b)
    gram = task.task_new.T @ task.task_new + GAMMA * eye
    columns = []
    for rows in task.old[:classes]:
        w = shift
        if project:
            _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
            directions = directions[singular > 1e-12 * singular[0]]
            w = shift @ (directions.T @ directions)
        moved = rows @ w
        gram += moved.T @ moved
        columns.append(moved.sum(0))
    columns += [task.task_new[task.labels == label].sum(0) for label in task.labels.unique()]
    return unit_rows(torch.linalg.solve(gram, torch.stack(columns, 1)).T)


def released_head(task: Task, classes: int) -> tuple[Tensor, float, list[float]]:
    """The released algorithm on some of a task's old classes, float32.

    Args:
        task: rows.
        classes: so many of its old classes.

    Returns:
        Weights (classes + task's classes, d); the seconds of what is done once a task; those of
        each class.
    """
    old, new = task.task_old.float(), task.task_new.float()
    a, b, gram = old.T @ old, old.T @ new, new.T @ new
    columns = [new[task.labels == label].sum(0) for label in task.labels.unique()]
    eye = torch.eye(len(a))
    held = []
    for rows in task.old[:classes]:
        phi = rows.float().T @ rows.float()
        held.append((phi, rows.float().mean(0), _positive(phi)))
    start = time.perf_counter()
    shift = torch.inverse(a + EPS * eye) @ b
    once = time.perf_counter() - start
    each, moved = [], []
    for phi, mean, projector in held:
        start = time.perf_counter()
        w = shift @ projector
        phi = w.T @ phi @ w
        gram += phi
        moved.append(CLASS_ROWS * (w.T @ mean))
        _positive(phi)  # the projector that the next task would use
        each.append(time.perf_counter() - start)
    start = time.perf_counter()
    cross = torch.stack([*moved, *columns], 1)
    weight = unit_rows((torch.inverse(gram + GAMMA * eye) @ cross).T)
    return weight, once + time.perf_counter() - start, each


def _positive(phi: Tensor) -> Tensor:
    """Projector (d, d) of all singular values above 0."""
    left, singular, _ = torch.linalg.svd(phi)
    kept = left[:, singular > 0]
    return kept @ kept.T


def _released_seconds(task: Task) -> tuple[float, float]:
    """Seconds of the released algorithm: calibration of all old classes, and a whole task."""
    runs = [released_head(task, SAMPLED)[1:] for _ in range(REPEATS)]
    calibration = len(task.old) * min(min(each) for _, each in runs)
    return calibration, calibration + min(once for once, _ in runs)


def _fastest(work: Callable[[], object]) -> float:
    """Shortest of a few runs in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
