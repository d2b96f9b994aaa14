"""AIR and its baselines on a stream, for several seeds and class orders, into a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from air.baselines import BASELINES, learner
from air.stream import Evaluation, evaluate_stream
from lipogram.analytic.metrics import a_auc, a_avg, a_last, forgetting
from lipogram.analytic.scenarios import Task, class_incremental, long_tailed, si_blurry
from lipogram.analytic.sources import Features, features_of
from lipogram.errors import InvalidSetting
from lipogram.runs import Run

Scenario = Literal["cil", "lt-cil", "gcil"]
Order = Literal["descending", "ascending", "shuffled"]
METHODS = ("air", *BASELINES)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the result of a comparison.

    Attributes:
        scenario: ``cil`` (new classes task by task), ``lt-cil`` (the same, long-tailed by ``rho``),
            or ``gcil`` (Si-Blurry: some classes recur).
        dataset: see :data:`lipogram.analytic.sources.NAMES`.
        rho: largest class over smallest for ``lt-cil``; None keeps the sizes that the data have.
        orders: class orders for ``cil`` and ``lt-cil``.
        tasks: number of tasks. ``base``: classes of the first task, 0 for as many as the others.
        r_d, r_b: shares of disjoint classes and of blurred samples for ``gcil``.
        gamma, buffer_size: of every method that has them.
        methods: compared, AIR first.
        seeds: of split, stream and buffer.
        batch_size: rows to a batch. ``every``: rows between evaluations inside a task; without it,
            A_AUC (the mean over them) is not computed.
        backbone, image_size, data: for image sets.
        source: where the settings come from.
    """

    scenario: Scenario = "lt-cil"
    dataset: str = "digits"
    rho: float | None = 100.0
    orders: tuple[Order, ...] = ("descending",)
    tasks: int = 5
    base: int = 0
    r_d: float = 0.5
    r_b: float = 0.1
    gamma: float | str = 1.0
    buffer_size: int | None = 512
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 64
    every: int | None = None
    backbone: str = "effnet-lite0"
    image_size: int = 128
    data: Path | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            InvalidSetting: naming the setting.
        """
        _one_of("scenario", self.scenario, ("cil", "lt-cil", "gcil"))
        for order in self.orders:
            _one_of("order", order, ("descending", "ascending", "shuffled"))
        for method in self.methods:
            _one_of("method", method, METHODS)
        for name in ("orders", "methods", "seeds"):
            if not getattr(self, name):
                raise InvalidSetting(f"{name} is empty: name at least one")
        for name in ("tasks", "batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.every is not None and self.every < 1:
            raise InvalidSetting(f"every is {self.every}, it must be at least 1")


PRESETS = {
    "gacl": {
        "scenario": "gcil",
        "tasks": 5,
        "r_d": 0.5,
        "r_b": 0.1,
        "buffer_size": 5000,
        "gamma": 100.0,
        "batch_size": 64,
        "every": 1000,
        "seeds": (1, 2, 3, 4, 5),
        "source": "public GACL scripts (CHEN-YIZHU/GACL): CIFAR-100, ImageNet-R, Tiny-ImageNet",
    },
    "acl-defaults": {
        "buffer_size": 8192,
        "gamma": 0.1,
        "source": "defaults of ZHUANGHP/Analytic-continual-learning at 0afd6bf",
    },
}


@dataclass(frozen=True)
class Cell:
    """One method on one stream."""

    seed: int
    order: str
    method: str


def cells(experiment: Experiment) -> Iterator[Cell]:
    """Every method on every stream, streams outermost."""
    orders: Sequence[str] = ("mixed",) if experiment.scenario == "gcil" else experiment.orders
    for seed in experiment.seeds:
        for order in orders:
            for method in experiment.methods:
                yield Cell(seed, order, method)


def stream_of(experiment: Experiment, data: Features, cell: Cell) -> list[Task]:
    """The tasks of a cell, positions into ``data.train``."""
    labels = data.train_labels
    if experiment.scenario == "gcil":
        return si_blurry(
            labels,
            tasks=experiment.tasks,
            disjoint=experiment.r_d,
            blurry=experiment.r_b,
            seed=cell.seed,
        )
    kept = np.arange(len(labels))
    if experiment.scenario == "lt-cil" and experiment.rho is not None:
        kept = long_tailed(labels, rho=experiment.rho, seed=cell.seed)
    classes = len(np.unique(labels[kept])) - experiment.base
    later = experiment.tasks - (experiment.base > 0)
    tasks = class_incremental(
        labels[kept],
        base=experiment.base,
        increment=max(1, -(-classes // max(later, 1))),
        order=cell.order,
        seed=cell.seed,
    )
    return [task.within(kept) for task in tasks]


def run_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run what is not done yet; every evaluation is a line of ``metrics.jsonl``.

    Killed at any instant and started again with the same settings, it ends with the same summary.

    Args:
        experiment: the settings.
        folder: of the run.
        progress: told what is being worked on.

    Raises:
        RunMismatch: the folder holds a run with other settings.
        InvalidSetting, MissingAsset: see there.
    """
    run = Run.create(folder, experiment, package="lipogram-air")
    done = {Cell(e["seed"], e["order"], e["method"]) for e in run.events("done")}
    held: dict[int, Features] = {}
    for cell in cells(experiment):
        if cell in done:
            continue
        progress(f"{experiment.dataset} seed {cell.seed}, {cell.order} order: {cell.method}")
        if cell.seed not in held:
            held = {cell.seed: _features(experiment, cell.seed)}
        data = held[cell.seed]
        tasks = stream_of(experiment, data, cell)
        model = learner(
            cell.method,
            gamma=experiment.gamma,
            buffer_size=experiment.buffer_size,
            seed=cell.seed,
        )
        looks = evaluate_stream(
            model, data, tasks, batch_size=experiment.batch_size, every=experiment.every
        )
        where = asdict(cell)
        for look in looks:
            run.log("evaluation", **where, **_plain(look))
        sizes = np.bincount(
            np.concatenate([data.train_labels[task.train] for task in tasks]),
            minlength=len(data.class_names),
        )
        run.log("done", **where, sizes=sizes, class_names=list(data.class_names), **_figures(looks))
    run.summary(summarise(run))
    return run


def summarise(run: Run) -> dict[str, Any]:
    """Means over seeds of each method in each order, and AIR's gains over plain ridge."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    done = run.events("done")
    for event in done:
        table.setdefault(event["order"], {}).setdefault(event["method"], {})
    for order, methods in table.items():
        for method, figures in methods.items():
            mine = [e for e in done if e["order"] == order and e["method"] == method]
            for name in _FIGURES:
                if all(name in e for e in mine):
                    figures[name] = float(np.mean([e[name] for e in mine]))
    gains = {
        order: {
            "balanced": methods["air"]["balanced_last"] - methods["ridge"]["balanced_last"],
            "accuracy": methods["air"]["a_last"] - methods["ridge"]["a_last"],
        }
        for order, methods in table.items()
        if {"air", "ridge"} <= set(methods)
    }
    return {"orders": table, "gain_over_ridge": gains, "seeds": len({e["seed"] for e in done})}


_FIGURES = (
    "a_auc",
    "a_avg",
    "a_last",
    "balanced_avg",
    "balanced_last",
    "forgetting",
    "fit_seconds",
    "predict_seconds",
)


def _figures(looks: Sequence[Evaluation]) -> dict[str, float]:
    ends = [look for look in looks if look.task_end]
    inside = [look for look in looks if not look.task_end]
    figures = {
        **({"a_auc": a_auc([look.accuracy for look in inside])} if inside else {}),
        "a_avg": a_avg([look.accuracy for look in ends]),
        "a_last": a_last([look.accuracy for look in ends]),
        "balanced_avg": a_avg([look.balanced_accuracy for look in ends]),
        "balanced_last": a_last([look.balanced_accuracy for look in ends]),
        "fit_seconds": sum(look.fit_seconds for look in looks),
        "predict_seconds": sum(look.predict_seconds for look in looks),
    }
    if len(ends) > 1:
        figures["forgetting"] = forgetting([dict(look.per_class) for look in ends])
    return figures


def _plain(look: Evaluation) -> dict[str, Any]:
    fields = asdict(look)
    fields["per_class"] = {str(label): rate for label, rate in look.per_class.items()}
    return fields


def _features(experiment: Experiment, seed: int) -> Features:
    return features_of(
        experiment.dataset,
        backbone=experiment.backbone,
        image_size=experiment.image_size,
        data=experiment.data,
        seed=seed,
    )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidSetting(f"{name} {value!r} is none of {', '.join(allowed)}")
