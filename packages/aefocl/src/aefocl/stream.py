"""A stream: rows in the order of time, segments of them, and what is tested on after each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.scenarios import Task
from lipogram.analytic.sources import Features
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled features that arrive segment by segment, with a test point after each.

    A segment may be empty, and need not hold every class; a row comes once at most.

    Attributes:
        data: features; the stream runs over ``data.train``, tests are rows of ``data.test``.
        segments: in order; ``train`` of each are positions in ``data.train``, in order of time.
        tests: positions in ``data.test`` for the test point after each segment; () tests on every
            row at every point.
        remarks: what a reader did to the data: times repaired, rows left out.
    """

    data: Features
    segments: tuple[Task, ...]
    tests: tuple[Indices, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a stream whose parts do not fit.

        Raises:
            InvalidFeatures: rows that are no finite (n, d), or test rows of another width.
            InvalidLabels: not one label a row, or one that names no class.
            InvalidSetting: no segment, positions out of range or twice, tests that are not one a
                segment.
        """
        _check_part("train", self.data.train, self.data.train_labels, self.data.class_names)
        _check_part("test", self.data.test, self.data.test_labels, self.data.class_names)
        if self.data.train.shape[1] != self.data.test.shape[1]:
            raise InvalidFeatures(
                f"training rows have {self.data.train.shape[1]} features, test rows "
                f"{self.data.test.shape[1]}"
            )
        if not self.segments:
            raise InvalidSetting("a stream needs at least one segment")
        order = self.order
        _check_positions("the segments", order, len(self.data.train))
        if len(np.unique(order)) != len(order):
            raise InvalidSetting("a row is in the stream twice: repeat the row, not its position")
        if self.tests and len(self.tests) != len(self.segments):
            raise InvalidSetting(
                f"{len(self.tests)} tests for {len(self.segments)} segments: name one for each, or "
                "none to test on every row"
            )
        for rows in self.tests:
            _check_positions("a test", rows, len(self.data.test))

    @property
    def order(self) -> Indices:
        """(n,) positions in ``data.train`` in the order in which they arrive."""
        return np.concatenate([segment.train for segment in self.segments])

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """(k,) rows of each class that arrive, by its position in ``data.class_names``."""
        return np.bincount(
            self.data.train_labels[self.order], minlength=len(self.data.class_names)
        ).astype(np.int64)

    @cached_property
    def duplicates(self) -> int:
        """Rows that arrive and are equal, feature by feature, to one that arrived before."""
        rows = np.ascontiguousarray(self.data.train)[self.order]
        return len(rows) - len({row.tobytes() for row in rows})

    def test_rows(self, segment: int) -> Indices:
        """Positions in ``data.test`` of what is tested on after that segment."""
        return self.tests[segment] if self.tests else np.arange(len(self.data.test))

    def batches(self, size: int) -> Iterator[tuple[int, Indices, bool]]:
        """Batches in order: segment, positions in ``data.train``, whether the segment ends here.

        A batch never crosses from one segment into the next, since the test point lies between. An
        empty segment gives one empty batch.

        Args:
            size: rows a batch; CLAD-C allows 10 at most.

        Raises:
            InvalidSetting: a size below 1.
        """
        if size < 1:
            raise InvalidSetting(f"a batch of {size} rows: it must be at least 1")
        for number, segment in enumerate(self.segments):
            n = len(segment.train)
            for start in range(0, max(n, 1), size):
                yield number, segment.train[start : start + size], start + size >= n


def _check_part(
    what: str, rows: NDArray[np.generic], labels: NDArray[np.int64], names: tuple[str, ...]
) -> None:
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
        raise InvalidFeatures(
            f"{what} rows are {rows.dtype} of shape {rows.shape}; a stream needs numbers (n, d) "
            "with at least one row"
        )
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InvalidFeatures(f"{what} row {bad} holds NaN or infinity")
    if labels.shape != (len(rows),) or labels.dtype.kind not in "iu":
        raise InvalidLabels(f"{len(rows)} {what} rows, but labels {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= len(names):
        raise InvalidLabels(
            f"{what} labels run from {labels.min()} to {labels.max()}, there are {len(names)} "
            "class names"
        )


def _check_positions(what: str, rows: Indices, n: int) -> None:
    if len(rows) and not (rows.min() >= 0 and rows.max() < n):
        raise InvalidSetting(
            f"{what}: positions from {rows.min()} to {rows.max()}, but there are {n} rows"
        )
