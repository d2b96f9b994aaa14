"""Streams that people bring: a table with times, or a folder of pictures by segment and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aefocl.burst_order import equal_segments
from aefocl.stream import Stream
from aefocl.timed_table import TimedTable, read_timed_table, told_lines
from lipogram.analytic.scenarios import Task, chronological
from lipogram.analytic.scenarios.task import tasks_of
from lipogram.analytic.sources import Features, held_out
from lipogram.errors import InvalidSetting

TEST = "test"


def csv_stream(
    path: Path | str,
    *,
    boundaries: Sequence[str | float] | None = None,
    segments: int = 6,
    pictures: Path | str | None = None,
    skip_malformed: bool = False,
    test_share: float = 0.25,
    seed: int = 0,
    backbone: str = "effnet-lite0",
    image_size: int = 128,
    progress: bool = True,
) -> Stream:
    """A stream from a table, see :func:`aefocl.timed_table.read_timed_table`.

    Rows come by (timestamp, video, sequence). The column ``split`` tells what is tested on, after
    each segment. Without it a share is held out: whole videos where there is a column ``video``
    (frames of one video resemble each other), else a share of each class.

    Args:
        path: the table.
        boundaries: times at which a segment begins, increasing; b of them give b + 1 segments.
        segments: without boundaries, so many of equal numbers of rows.
        pictures: folder that the column ``path`` starts from; None takes the table's.
        skip_malformed: leave malformed rows out and name them in the stream's remarks.
        test_share: share of the rows held out, where there is no ``split``.
        seed: of what is held out.
        backbone: for pictures, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        progress: show progress while features are extracted.

    Raises:
        FileNotFoundError: no such file.
        InvalidTimestamps, InvalidLabels, InvalidFeatures: malformed rows, by line.
        InvalidSetting: columns that are not enough, boundaries that do not increase, or nothing
            left to train or test on.

    Warns:
        OutOfOrder: once, if the rows were not in order of time; they are sorted.
    """
    path = Path(path)
    folder = path.parent if pictures is None else Path(pictures)
    table = read_timed_table(path, pictures=folder, skip_malformed=skip_malformed)
    names = sorted({row.label for row in table.rows})
    labels = np.array([names.index(row.label) for row in table.rows], dtype=np.int64)
    remarks = []
    if table.malformed:
        remarks.append(
            f"{len(table.malformed)} malformed rows left out: {told_lines(table.malformed)}"
        )
    tested = _held_out(table, labels, test_share, seed)
    if "path" in table.columns:
        rows, kept, space, told = _decoded(
            table, labels, names, folder, path.stem, backbone, image_size, progress
        )
        remarks += told
    else:
        rows, space = np.array([row.features for row in table.rows]), path.stem
        kept = np.arange(len(rows))
    held, labels, tested = np.array(table.rows, dtype=object)[kept], labels[kept], tested[kept]
    for what, part in (("train", ~tested), ("test", tested)):
        if not part.any():
            raise InvalidSetting(f"{path} leaves no row to {what} on")
    data = Features(
        rows[~tested],
        labels[~tested],
        rows[tested],
        labels[tested],
        tuple(names),
        path.stem,
        space,
    )
    tasks = _in_time(list(held[~tested]), table, data.train_labels, boundaries, segments)
    return Stream(data, tasks, remarks=tuple(remarks))


def folder_stream(
    path: Path | str,
    *,
    test_share: float = 0.25,
    seed: int = 0,
    backbone: str = "effnet-lite0",
    image_size: int = 128,
    progress: bool = True,
) -> Stream:
    """A stream from pictures laid out as PATH/SEGMENT/CLASS/FILE.

    Segments come in the order of their names; within one, pictures come in the order of their file
    names, whatever their class, as a camera numbers them. PATH/test/CLASS/FILE is tested on after
    each segment; without it, a share of each class is held out.

    Args:
        path: the folder.
        test_share: share of each class held out, where there is no folder ``test``.
        seed: of what is held out.
        backbone: see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        progress: show progress while features are extracted.

    Raises:
        InvalidSetting: no such folder, or no picture to train on.
    """
    from aefocl.kept_features import kept_features, origin, undecoded
    from lipogram.analytic.backbones import load_backbone
    from lipogram.analytic.images import FileImages, image_files

    root = Path(path)
    if not root.is_dir():
        raise InvalidSetting(f"{root} is no folder; a stream's folder is PATH/SEGMENT/CLASS/FILE")
    found = [file.relative_to(root) for file in image_files(root)]
    found = [file for file in found if len(file.parts) > 2]
    segments = sorted({file.parts[0] for file in found} - {TEST})
    if not segments:
        raise InvalidSetting(f"{root} holds no picture: expected PATH/SEGMENT/CLASS/FILE")
    found.sort(key=lambda file: (file.parts[0], file.name, file.parts))
    names = sorted({file.parts[1] for file in found})
    labels = [names.index(file.parts[1]) for file in found]
    images = FileImages(root.resolve().name, root, [f.as_posix() for f in found], labels, names)
    model = load_backbone(backbone, image_size=image_size)
    store = kept_features(images, model, where=origin(images), progress=progress)
    owner = np.array([identifier.split("/", 1)[0] for identifier in store.ids])
    tested = owner == TEST
    if store.n and not tested.any():
        tested = held_out(store.labels, test_share=test_share, seed=seed)
    if tested.all():
        raise InvalidSetting(f"{root} leaves no picture to train on, of {len(found)}")
    rows, owner = store.features(), owner[~tested]
    data = Features(
        rows[~tested],
        store.labels[~tested],
        rows[tested],
        store.labels[tested],
        tuple(names),
        images.name,
        model.fingerprint,
    )
    chunks = [np.flatnonzero(owner == segment) for segment in segments]
    tasks = tasks_of(chunks, data.train_labels)
    named = tuple(replace(task, name=name) for task, name in zip(tasks, segments, strict=True))
    return Stream(data, named, remarks=undecoded(store.skipped))


def _held_out(
    table: TimedTable, labels: NDArray[np.int64], test_share: float, seed: int
) -> NDArray[np.bool_]:
    """(n,) True for rows to test on."""
    if "split" in table.columns:
        return np.array([row.split == TEST for row in table.rows])
    if "video" not in table.columns:
        return held_out(labels, test_share=test_share, seed=seed)
    if not 0 < test_share < 1:
        raise InvalidSetting(f"test_share is {test_share}, it must lie between 0 and 1")
    video = np.array([row.video for row in table.rows])
    videos = np.random.default_rng(seed).permutation(np.unique(video))
    if len(videos) < 2:
        raise InvalidSetting("all rows are of one video: say in a column 'split' what is tested on")
    sizes = np.cumsum([np.count_nonzero(video == name) for name in videos])
    n_tested = int(np.searchsorted(sizes, test_share * len(video))) + 1
    return np.isin(video, videos[: min(n_tested, len(videos) - 1)])


def _decoded(
    table: TimedTable,
    labels: NDArray[np.int64],
    names: list[str],
    folder: Path,
    name: str,
    backbone: str,
    image_size: int,
    progress: bool,
) -> tuple[NDArray[Any], NDArray[np.int64], str, tuple[str, ...]]:
    """Features of the pictures that can be decoded, their rows, the space, and remarks."""
    from aefocl.kept_features import kept_features, origin, undecoded
    from lipogram.analytic.backbones import load_backbone
    from lipogram.analytic.images import FileImages

    files = [row.path for row in table.rows]
    images = FileImages(name, folder, files, labels, names)
    model = load_backbone(backbone, image_size=image_size)
    store = kept_features(images, model, where=origin(images), progress=progress)
    # A frame may be in the table twice; it is decoded, or not, both times.
    lost = {entry["id"] for entry in store.skipped}
    kept = np.array([i for i, file in enumerate(files) if file not in lost], dtype=np.int64)
    return store.features(), kept, model.fingerprint, undecoded(store.skipped)


def _in_time(
    rows: list[Any],
    table: TimedTable,
    labels: NDArray[np.int64],
    boundaries: Sequence[str | float] | None,
    segments: int,
) -> tuple[Task, ...]:
    """The training rows by time, cut at the boundaries or into equal parts."""
    number = float if table.numeric else str
    keys = {
        name: _integers([getattr(row, name) for row in rows])
        for name in ("video", "sequence")
        if name in table.columns
    }
    try:
        cuts = [number(boundary) for boundary in boundaries or ()]
    except ValueError as error:
        raise InvalidSetting(f"timestamps are numbers, but a boundary is not: {error}") from None
    tasks = chronological([number(row.time) for row in rows], cuts, labels=labels, **keys)
    if boundaries is not None:
        return tuple(tasks)
    return equal_segments(tasks[0].train, labels, segments)


def _integers(texts: list[str]) -> NDArray[Any]:
    """Whole numbers where all are, so that frame 10 comes after 9."""
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(texts)
