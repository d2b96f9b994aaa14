"""The order of a stream in which what is in view stays in view for a while."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.sample_labels import sample_labels
from lipogram.analytic.scenarios import Task, chronological
from lipogram.analytic.scenarios.class_order import rows_by_class
from lipogram.errors import InvalidSetting


def burst_order(
    labels: ArrayLike, burst: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every row once, in runs of one class.

    The class of a run is drawn in proportion to the rows it has left, so that its share does not
    drift; the length is geometric. A class's rows keep the order they have.

    Args:
        labels: (n,) integers or strings.
        burst: mean length of a run, at least 1; shorter where a class ends.
        rng: draws classes and lengths.

    Returns:
        (n,) positions in order, and (n,) the number of the run that each belongs to.

    Raises:
        InvalidSetting: a burst below 1.
        InvalidLabels: none, or neither integers nor strings.
    """
    if not burst >= 1:
        raise InvalidSetting(f"burst is {burst}, it must be at least 1")
    rows = list(rows_by_class(sample_labels(labels)).values())
    left = np.array([len(members) for members in rows])
    order: list[NDArray[np.int64]] = []
    while left.any():
        k = int(rng.choice(len(rows), p=left / left.sum()))
        length = min(int(rng.geometric(1 / burst)), int(left[k]))
        start = len(rows[k]) - int(left[k])
        order.append(rows[k][start : start + length])
        left[k] -= length
    runs = np.repeat(np.arange(len(order)), [len(run) for run in order])
    return np.concatenate(order), runs


def equal_segments(
    order: NDArray[np.int64], labels: NDArray[Any], segments: int
) -> tuple[Task, ...]:
    """A stream cut into segments that differ by one row at most.

    Args:
        order: (n,) positions in ``labels`` in order of arrival.
        labels: labels of all rows.
        segments: how many.

    Raises:
        InvalidSetting: fewer than one segment, or more than rows.
    """
    n = len(order)
    if not 1 <= segments <= n:
        raise InvalidSetting(f"segments is {segments}, it must be between 1 and the {n} rows")
    cuts = [round(i * n / segments) for i in range(1, segments)]
    tasks = chronological(np.arange(n), cuts, labels=labels[order])
    return tuple(task.within(order) for task in tasks)
