"""Class-incremental streams: each task brings classes of its own."""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from lipogram.analytic.sample_labels import sample_labels
from lipogram.analytic.scenarios.class_order import ClassOrder, class_order, rows_by_class
from lipogram.analytic.scenarios.task import Task, tasks_of
from lipogram.errors import InvalidSetting


def class_incremental(
    labels: ArrayLike,
    *,
    increment: int,
    base: int = 0,
    order: ClassOrder = None,
    seed: int = 0,
    drop_remainder: bool = False,
) -> list[Task]:
    """Tasks of disjoint classes: `base` classes first, then `increment` a task.

    Classes that do not fill a last task form a smaller one.

    Args:
        labels: (n,) integers or strings.
        increment: classes of each task after the base task, at least 1.
        base: classes of the first task (50 is the field's B50); 0 gives equal tasks (B0).
        order: None for sorted classes; "ascending" or "descending" by class size, ties sorted;
            "shuffled" by the seed; or every class in the order wanted.
        seed: of the class order when shuffled, and of the order of samples within a task.
        drop_remainder: leave out the classes that do not fill a task, as some published code does.

    Raises:
        InvalidLabels: labels that are neither integers nor strings, or none.
        InvalidSetting: `increment` < 1, `base` outside 0..K, an order that is not a permutation of
            the classes, or no task left.
    """
    array = sample_labels(labels)
    rng = np.random.default_rng(seed)
    ordered = class_order(array, order, rng)
    n_classes = len(ordered)
    if increment < 1:
        raise InvalidSetting(f"increment must be at least 1 class a task, got {increment}")
    if not 0 <= base <= n_classes:
        raise InvalidSetting(f"base must be between 0 and the {n_classes} classes, got {base}")
    edges = [0, base] if base else [0]
    edges += range(base + increment, n_classes + 1, increment)
    if not drop_remainder and edges[-1] < n_classes:
        edges.append(n_classes)
    if len(edges) == 1:
        raise InvalidSetting(
            f"drop_remainder leaves no task: {n_classes} classes do not fill one of {increment}"
        )
    rows = rows_by_class(array)
    chunks = [
        rng.permutation(np.concatenate([rows[label] for label in ordered[start:stop]]))
        for start, stop in pairwise(edges)
    ]
    return tasks_of(chunks, array, order=ordered)
