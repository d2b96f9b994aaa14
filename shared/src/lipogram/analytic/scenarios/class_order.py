"""The order in which classes arrive, and the samples of each."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.labels import Label
from lipogram.analytic.scenarios.task import Indices
from lipogram.errors import InvalidSetting

ClassOrder = Literal["ascending", "descending", "shuffled"] | Sequence[Label] | None


def class_order(labels: NDArray[Any], order: ClassOrder, rng: np.random.Generator) -> list[Label]:
    """The classes of `labels` in the order asked for.

    Args:
        labels: (n,) int64 or unicode.
        order: None for sorted; "ascending" or "descending" by class size, ties sorted; "shuffled";
            or every class in the order wanted.
        rng: draws the shuffled order.

    Raises:
        InvalidSetting: another word, or classes that are not a permutation of those in `labels`.
    """
    unique, sizes = np.unique(labels, return_counts=True)
    classes: list[Label] = unique.tolist()
    if order is None:
        return classes
    if isinstance(order, str):
        if order == "shuffled":
            return [classes[i] for i in rng.permutation(len(classes))]
        if order not in ("ascending", "descending"):
            raise InvalidSetting(
                f"order must be 'ascending', 'descending', 'shuffled' or the classes, got {order!r}"
            )
        key = sizes if order == "ascending" else -sizes
        return [classes[i] for i in np.argsort(key, kind="stable")]
    asked: list[Label] = np.asarray(order).tolist()
    wrong = sorted(set(map(repr, classes)) ^ set(map(repr, asked)))
    if wrong or len(asked) != len(classes):
        detail = f"missing or unknown: {', '.join(wrong[:5])}" if wrong else "a class is repeated"
        raise InvalidSetting(f"order must name each of the {len(classes)} classes once; {detail}")
    return asked


def rows_by_class(labels: NDArray[Any]) -> dict[Label, Indices]:
    """Positions of each class's samples, ascending."""
    rows = np.argsort(labels, kind="stable").astype(np.int64)
    unique, starts = np.unique(labels[rows], return_index=True)
    return dict(zip(unique.tolist(), np.split(rows, starts[1:]), strict=True))
