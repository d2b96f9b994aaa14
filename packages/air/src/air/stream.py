"""A learner on a stream: batches in, accuracy on everything exposed so far, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.labels import Label
from lipogram.analytic.linear_heads import StreamLearner
from lipogram.analytic.metrics import accuracy, balanced_accuracy, per_class_accuracy
from lipogram.analytic.scenarios import Task, exposed
from lipogram.analytic.sources import Features


@dataclass(frozen=True)
class Evaluation:
    """One look at a learner.

    Attributes:
        n_seen: rows learnt before it. ``task``: name of the current task. ``task_end``: whether the
            task is over.
        accuracy, balanced_accuracy: on the test rows of the classes exposed so far, in [0, 1].
        per_class: accuracy of each exposed class by label.
        fit_seconds, predict_seconds: wall time since the evaluation before.
    """

    n_seen: int
    task: str
    task_end: bool
    accuracy: float
    balanced_accuracy: float
    per_class: dict[Label, float]
    fit_seconds: float
    predict_seconds: float


def evaluate_stream(
    learner: StreamLearner,
    data: Features,
    tasks: Sequence[Task],
    *,
    batch_size: int = 64,
    every: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Evaluation]:
    """Feed the tasks to a learner in order and evaluate it after each, and every ``every`` rows.

    Args:
        learner: anything with ``partial_fit``, ``end_task`` and ``predict``.
        data: features.
        tasks: positions into ``data.train``.
        batch_size: rows to a ``partial_fit``.
        every: rows between evaluations inside tasks; None for none.
        progress: told the number of rows of each batch.
    """
    results: list[Evaluation] = []
    n_seen, due, spent = 0, every or 0, 0.0
    exposed_so_far: set[Any] = set()
    for task, rows, last in _batches(tasks, batch_size):
        labels = data.train_labels[rows]
        start = time.perf_counter()
        if len(rows):
            learner.partial_fit(data.train[rows], labels)
        if last:
            learner.end_task()
        spent += time.perf_counter() - start
        n_seen += len(rows)
        exposed_so_far.update(labels.tolist())
        progress(len(rows))
        if exposed_so_far and (last or (every is not None and n_seen >= due)):
            while every is not None and n_seen >= due:
                due += every
            results.append(_look(learner, data, exposed_so_far, n_seen, task.name, last, spent))
            spent = 0.0
    return results


def _batches(
    tasks: Sequence[Task], batch_size: int
) -> Iterator[tuple[Task, NDArray[np.int64], bool]]:
    for task in tasks:
        starts = range(0, max(len(task.train), 1), batch_size)
        for start in starts:
            yield task, task.train[start : start + batch_size], start == starts[-1]


def _look(
    learner: StreamLearner,
    data: Features,
    seen: set[Any],
    n_seen: int,
    task: str,
    task_end: bool,
    fit_seconds: float,
) -> Evaluation:
    rows = exposed(data.test_labels, sorted(seen))
    start = time.perf_counter()
    predicted = learner.predict(data.test[rows])
    seconds = time.perf_counter() - start
    labels = data.test_labels[rows]
    return Evaluation(
        n_seen=n_seen,
        task=task,
        task_end=task_end,
        accuracy=accuracy(labels, predicted),
        balanced_accuracy=balanced_accuracy(labels, predicted),
        per_class=per_class_accuracy(labels, predicted),
        fit_seconds=fit_seconds,
        predict_seconds=seconds,
    )
