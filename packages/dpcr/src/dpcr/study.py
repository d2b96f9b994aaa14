"""One backbone trained task by task and many classifiers over it, for several seeds, with resume.

Only training is costly, so the network of each finished task is kept on disk. Killed at any instant
and started again with the same settings, a study trains what is missing, lets the classifiers
learn the finished tasks again from the networks that are there, and ends with the same figures.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpcr.incremental_metrics import (
    accuracy_matrix,
    backward_transfer,
    forgetting,
    grouped_accuracy,
    old_new_accuracy,
    top_k_accuracy,
)
from dpcr.methods import Method
from dpcr.study_data import StudyData, features_under, taken
from dpcr.study_settings import Study as Study
from dpcr.task_context import TaskContext, TestContext
from dpcr.trained_networks import TrainedNetwork, TrainedNetworks
from lipogram.analytic.metrics import a_avg, a_last, accuracy
from lipogram.analytic.scenarios import Task, exposed
from lipogram.errors import RunMismatch
from lipogram.runs import Run

FIGURES = ("a_last", "a_avg", "forgetting", "backward_transfer", "top_last", "old_last", "new_last")


def run_study(
    study: Study,
    data: StudyData | Callable[[int], StudyData],
    folder: str | Path,
    *,
    networks: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run what is not done yet; every task is one line of ``metrics.jsonl``.

    An event "task" holds, under ``methods``, each method's ``accuracy`` on all classes so far,
    ``row`` of the accuracy matrix, ``old``, ``new``, ``top``, ``seconds`` and ``remarks``
    (warnings); an event "seed" the figures of its tasks together.

    Args:
        study: the settings.
        data: the network and the samples, or what makes them from a seed.
        folder: of the run.
        networks: where trained networks are kept, the run's own folder by default. Studies that
            train alike and compare other methods may share one.
        device: where the networks run. Classifiers compute on the CPU.
        progress: told what is being worked on.

    Raises:
        RunMismatch: the folder holds a run with other settings or other data, or ``networks``
            others.
        InvalidSetting: settings that these data do not allow.
    """
    run = Run.create(folder, study.settings(), package="lipogram-dpcr")
    kept = Path(networks) if networks is not None else run.folder / "networks"
    done = {event["seed"] for event in run.events("seed")}
    for seed in study.seeds:
        if seed not in done:
            mine = data(seed) if callable(data) else data
            _one_seed(study, mine, seed, run, kept / f"seed-{seed}", torch.device(device), progress)
    run.summary(summarise(run))
    return run


def summarise(run: Run) -> dict[str, Any]:
    """Means and standard deviations over seeds of each method's figures.

    Returns:
        ``methods``: for each, the figures that every seed has, each with ``mean``, ``std`` (of the
        seeds, n − 1) and ``values``; ``seeds``, their number.
    """
    events = run.events("seed")
    table: dict[str, dict[str, Any]] = {}
    for method in events[0]["methods"] if events else ():
        each = [event["methods"][method] for event in events]
        table[method] = {}
        for name in FIGURES:
            values = [figures.get(name) for figures in each]
            if None not in values:
                std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                mean = float(np.mean(values))
                table[method][name] = {"mean": mean, "std": std, "values": values}
    return {"methods": table, "seeds": len(events)}


def _one_seed(
    study: Study,
    data: StudyData,
    seed: int,
    run: Run,
    folder: Path,
    device: torch.device,
    progress: Callable[[str], None],
) -> None:
    if data.name != study.data:
        raise RunMismatch(f"the study is of data {study.data!r}, these are {data.name!r}")
    tasks = study.stream(data.train_labels, seed)
    where = f"{data.name}, seed {seed}"

    def said(line: str) -> None:
        progress(f"{where}: {line}")

    trained = TrainedNetworks(
        folder, data, tasks, study.train, seed=seed, device=device, progress=said
    )
    methods = {name: study.method(name) for name in study.methods}
    logged = {event["task"]: event for event in run.events("task") if event["seed"] == seed}
    looks = []
    for t, task in enumerate(tasks):
        said(f"task {t + 1} of {len(tasks)}, training")
        network = trained.after(t)
        said(f"task {t + 1} of {len(tasks)}, classifiers")
        view = _View(study, data, tasks[: t + 1], trained, device)
        context, test = view.context(), view.test()
        results = {name: _looked(m, context, test, view, study) for name, m in methods.items()}
        looks.append(results)
        if t not in logged:
            classes = [data.called(label) for label in task.classes]
            told = {"seed": seed, "task": t, "classes": classes, "samples": len(task.train)}
            run.log("task", **told, training=network.report, methods=results)
    names = [data.called(label) for label in tasks[-1].seen]
    run.log("seed", seed=seed, classes=names, methods={n: _figures(n, looks) for n in methods})


class _View:
    """What is seen at the end of a task, through the networks that are there by then."""

    def __init__(
        self,
        study: Study,
        data: StudyData,
        tasks: Sequence[Task],
        trained: TrainedNetworks,
        device: torch.device,
    ) -> None:
        self.tasks, self.data, self.trained = tasks, data, trained
        self.batch_size, self.device = study.batch_size, device
        self.number = len(tasks) - 1
        self.network = trained.after(self.number)
        self.rows = exposed(data.test_labels, tasks[-1].seen)
        self.labels = data.test_labels[self.rows]

    def context(self) -> TaskContext:
        """For :meth:`dpcr.methods.Method.learn`."""
        task, data = self.tasks[-1], self.data
        old = self.trained.after(self.number - 1) if self.number else None
        everything = np.concatenate([each.train for each in self.tasks])
        return TaskContext(
            number=self.number,
            known=task.seen[: len(task.seen) - len(task.classes)],
            classes=task.classes,
            labels=data.train_labels[task.train],
            features=self._under(self.network, task.train),
            old_features=None if old is None else self._under(old, task.train),
            images=lambda rows: taken(data.train, task.train[rows]).to(self.device),
            network=self.network.backbone,
            old_network=None if old is None else old.backbone,
            first_features=cache(lambda: self._under(self.trained.after(0), task.train)),
            joint=cache(
                lambda: (self._under(self.network, everything), data.train_labels[everything])
            ),
        )

    def test(self) -> TestContext:
        """For :meth:`dpcr.methods.Method.scores`."""
        features = self._under(self.network, self.rows, test=True)
        return TestContext(
            features=features,
            head_scores=self.network.scores(features),
            first_features=cache(lambda: self._under(self.trained.after(0), self.rows, test=True)),
        )

    def _under(
        self, network: TrainedNetwork, rows: NDArray[Any], *, test: bool = False
    ) -> torch.Tensor:
        samples = self.data.test if test else self.data.train
        return features_under(
            network.backbone, samples, rows, batch_size=self.batch_size, device=self.device
        )


def _looked(
    method: Method, context: TaskContext, test: TestContext, view: _View, study: Study
) -> dict[str, Any]:
    """One method's line: it learns the task and is asked about all classes so far."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.learn(context)
    seconds = time.perf_counter() - start
    scores = method.scores(test).numpy()
    predictions = np.asarray(method.classes)[scores.argmax(1)]
    groups = [task.classes for task in view.tasks]
    row = grouped_accuracy(view.labels, predictions, groups)
    old, new = old_new_accuracy(view.labels, predictions, context.classes)
    return {
        "accuracy": accuracy(view.labels, predictions),
        "row": row.tolist(),
        "old": old,
        "new": new,
        "top": top_k_accuracy(view.labels, scores, method.classes, study.top),
        "seconds": round(seconds, 4),
        **method.figures(),
        "remarks": sorted({str(each.message) for each in caught}),
    }


def _figures(name: str, looks: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    mine = [results[name] for results in looks]
    matrix = accuracy_matrix([look["row"] for look in mine])
    accuracies = [look["accuracy"] for look in mine]
    return {
        "a_last": a_last(accuracies),
        "a_avg": a_avg(accuracies),
        "accuracies": accuracies,
        "forgetting": forgetting(matrix),
        "backward_transfer": backward_transfer(matrix),
        "top_last": mine[-1]["top"],
        "old_last": mine[-1]["old"],
        "new_last": mine[-1]["new"],
        "matrix": matrix,
        "seconds": sum(look["seconds"] for look in mine),
    }
