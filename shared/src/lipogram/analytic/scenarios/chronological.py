"""Streams in the order of time."""

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.sample_labels import sample_labels
from lipogram.analytic.scenarios.task import Task, tasks_of
from lipogram.errors import InvalidLabels, InvalidSetting, InvalidTimestamps, OutOfOrder


def chronological(
    timestamps: ArrayLike,
    boundaries: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    video: ArrayLike | None = None,
    sequence: ArrayLike | None = None,
) -> list[Task]:
    """Segments of a stream ordered by (time, video, sequence), cut at the `boundaries`.

    Segment t holds the samples with `boundaries[t-1] <= time < boundaries[t]`; the first has no
    lower and the last no upper bound, so b boundaries give b+1 segments, each followed by a test
    point. A segment may be empty. Samples that tie keep the order given.

    Args:
        timestamps: (n,) times of one kind: finite numbers, `datetime64`, or ISO 8601 strings (times
            with a zone are compared in UTC; all or none must have one).
        boundaries: (b,) times of the same kind, strictly increasing; may be empty.
        labels: (n,) integers or strings; without them the tasks name no classes.
        video: (n,) integers or strings that order samples of equal time.
        sequence: (n,) integers or strings that order samples of equal time and video.

    Raises:
        InvalidTimestamps: no timestamps, or malformed ones; the message names the rows.
        InvalidLabels: labels, video or sequence of another length or kind.
        InvalidSetting: boundaries that do not increase or are of another kind than the timestamps.

    Warns:
        OutOfOrder: once, if the rows were not in order of time; they are sorted.

    Reference: the protocol of CLAD-C, Verwimp et al., Neural Networks 161 (2023), 659-669.
    """
    times = _times(timestamps, "timestamps")
    if len(times) == 0:
        raise InvalidTimestamps("timestamps are empty: a stream needs at least one sample")
    cuts = _times(boundaries, "boundaries") if np.size(boundaries) else times[:0]
    if cuts.dtype.kind != times.dtype.kind:
        raise InvalidSetting(f"boundaries are {cuts.dtype}, but the timestamps are {times.dtype}")
    if (cuts[1:] <= cuts[:-1]).any():
        raise InvalidSetting("boundaries must be strictly increasing")
    array = None if labels is None else _same_length(labels, "labels", len(times))
    keys: list[NDArray[Any]] = [times]
    for name, key in (("video", video), ("sequence", sequence)):
        if key is not None:
            keys.insert(0, _same_length(key, name, len(times)))
    backward = int((times[1:] < times[:-1]).sum())
    if backward:
        warnings.warn(
            f"{backward} of {len(times)} rows are earlier than the row before them; "
            "the stream is sorted by time",
            OutOfOrder,
            stacklevel=2,
        )
    rows = np.lexsort(keys)
    starts = np.searchsorted(times[rows], cuts, side="left")
    return tasks_of(np.split(rows, starts), array, name="segment")


def _same_length(values: ArrayLike, what: str, n: int) -> NDArray[Any]:
    array = sample_labels(values, what=what)
    if len(array) != n:
        raise InvalidLabels(f"{what} has {len(array)} rows, the timestamps have {n}")
    return array


def _times(values: ArrayLike, what: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise InvalidTimestamps(f"{what} must be one-dimensional (n,), got shape {array.shape}")
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())
    kind = array.dtype.kind
    if kind == "U":
        return _parsed(array.tolist(), what)
    if kind == "M":
        bad = np.isnat(array)
    elif kind in "iuf":
        bad = ~np.isfinite(array)
    elif array.size == 0:
        return array.astype(np.float64)
    else:
        raise InvalidTimestamps(
            f"{what} must be numbers, datetime64 or ISO 8601 strings, got {array.dtype}"
        )
    _refuse(np.flatnonzero(bad).tolist(), array.tolist(), what)
    return array.astype("datetime64[us]") if kind == "M" else array.astype(np.float64)


def _parsed(texts: list[str], what: str) -> NDArray[np.datetime64]:
    moments: list[datetime] = []
    bad = []
    zoned = set()
    for row, text in enumerate(texts):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            bad.append(row)
            continue
        zoned.add(moment.tzinfo is not None)
        moments.append(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment)
    _refuse(bad, texts, what)
    if len(zoned) > 1:
        raise InvalidTimestamps(f"{what} must all name a time zone, or none of them")
    return np.array(moments, dtype="datetime64[us]")


def _refuse(bad: list[int], values: Sequence[object], what: str) -> None:
    if bad:
        rows = ", ".join(f"row {row} ({values[row]!r})" for row in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InvalidTimestamps(f"malformed {what}: {rows}{more}; repair or drop these rows")
