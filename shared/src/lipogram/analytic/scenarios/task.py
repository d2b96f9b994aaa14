"""A task of a stream, and the test samples that belong to what was seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.labels import Label
from lipogram.analytic.sample_labels import sample_labels

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """One stretch of a stream.

    Attributes:
        name: what a table or figure calls it.
        train: (n,) int64 positions of its samples, in stream order; may be empty.
        classes: the classes first seen here.
        seen: every class seen by the end of this task, in order of exposure.
    """

    name: str
    train: Indices
    classes: tuple[Label, ...]
    seen: tuple[Label, ...]

    def within(self, kept: Indices) -> "Task":
        """The same task as positions in the whole, for a stream made from `labels[kept]`."""
        return replace(self, train=kept[self.train])


def exposed(labels: ArrayLike, seen: Iterable[Label]) -> Indices:
    """Positions of the samples whose class is among `seen`: the test set of that moment.

    Raises:
        InvalidLabels: labels that are neither integers nor strings, or of another kind than `seen`.
    """
    array = sample_labels(labels)
    wanted = list(seen)
    if not wanted:
        return np.empty(0, dtype=np.int64)
    known = sample_labels(wanted, what="the classes seen", like=array)
    return np.flatnonzero(np.isin(array, known)).astype(np.int64)


def tasks_of(
    chunks: Sequence[Indices],
    labels: NDArray[Any] | None,
    *,
    order: Sequence[Label] | None = None,
    name: str = "task",
) -> list[Task]:
    """Tasks from their samples; new classes in `order`, else in the order they appear."""
    seen: dict[Label, None] = {}
    tasks = []
    for number, chunk in enumerate(chunks, 1):
        present: list[Label] = [] if labels is None else labels[chunk].tolist()
        new = [label for label in dict.fromkeys(present) if label not in seen]
        if order is not None:
            new.sort(key=order.index)
        seen |= dict.fromkeys(new)
        train = chunk.astype(np.int64)
        tasks.append(Task(f"{name} {number}", train, tuple(new), tuple(seen)))
    return tasks
