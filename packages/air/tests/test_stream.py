"""The stream: every row once, every evaluation where it was asked for."""

import numpy as np
import pytest
from numpy.typing import NDArray

from air.stream import evaluate_stream
from lipogram.analytic.scenarios import Task, class_incremental, si_blurry
from lipogram.analytic.sources import Features

LABELS = np.repeat(np.arange(6), 50)
ROWS = np.arange(300, dtype=float)[:, None]
DATA = Features(ROWS, LABELS, ROWS[::5], LABELS[::5], tuple("abcdef"), "toy")


class Recorder:
    """A learner that writes down what it is given and answers with its first class."""

    def __init__(self) -> None:
        self.rows: list[float] = []
        self.ends: list[int] = []
        self.labels: list[int] = []

    def partial_fit(self, X: NDArray[np.float64], y: NDArray[np.int64]) -> None:
        self.rows += X[:, 0].tolist()
        self.labels += y.tolist()

    def end_task(self) -> None:
        self.ends.append(len(self.rows))

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.full(len(X), self.labels[0])


def test_every_row_once_in_order_and_a_look_after_each_task() -> None:
    tasks, learner = class_incremental(LABELS, increment=2, order="shuffled", seed=3), Recorder()
    looks = evaluate_stream(learner, DATA, tasks, batch_size=7)
    assert learner.rows == ROWS[np.concatenate([t.train for t in tasks]), 0].tolist()
    assert learner.ends == [100, 200, 300]
    assert [look.n_seen for look in looks] == [100, 200, 300]
    assert all(look.task_end for look in looks)


def test_only_exposed_classes_are_tested() -> None:
    looks = evaluate_stream(Recorder(), DATA, class_incremental(LABELS, increment=2), batch_size=10)
    assert [sorted(look.per_class) for look in looks] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert [look.balanced_accuracy for look in looks] == pytest.approx([1 / 2, 1 / 4, 1 / 6])


def test_queries_inside_tasks() -> None:
    tasks = si_blurry(LABELS, tasks=3, seed=0)
    looks = evaluate_stream(Recorder(), DATA, tasks, batch_size=10, every=50)
    inside = [look.n_seen for look in looks if not look.task_end]
    due = [n for n in range(50, 300, 50) if n not in {x.n_seen for x in looks if x.task_end}]
    assert set(inside) <= {n + extra for n in range(50, 301, 50) for extra in range(10)}
    assert len(inside) >= len(due) - 3
    assert looks[-1].n_seen == 300


def test_a_task_without_rows_is_looked_at_all_the_same() -> None:
    empty = Task("empty", np.empty(0, dtype=np.int64), (), (0, 1))
    tasks = [class_incremental(LABELS, increment=2)[0], empty]
    assert len(evaluate_stream(Recorder(), DATA, tasks)) == 2
