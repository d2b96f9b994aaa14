"""CLAD-C: objects cut from pictures of Chinese roads, in six segments of day and night.

The protocol of the ICCV 2021 challenge (SSLAD, track 3A) as its code has it:
VerwimpEli/SSLAD_Track_3 at 21f56bd, VerwimpEli/CLAD at 56960ab. Its paper is Verwimp et al., Neural
Networks 161 (2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from aefocl.clad_annotations import (
    CLASS_NAMES,
    Annotations,
    Occluded,
    RoadObject,
    Split,
    read_annotations,
)
from aefocl.clad_repairs import DATES, TIMES, Repair
from aefocl.road_images import RoadImages
from lipogram.analytic.scenarios.task import tasks_of
from lipogram.errors import InvalidTimestamps, MissingAsset

SEGMENTS = (
    ("20191111", "Daytime"),
    ("20191111", "Night"),
    ("20191117", "Daytime"),
    ("20191117", "Night"),
    ("20191120", "Daytime"),
    ("20191121", "Night"),
)


class CladC:
    """The stream of CLAD-C, read from SODA10M's labelled part; no picture is opened here.

    Iterating gives the six segments in order, each as :class:`aefocl.road_images.RoadImages`.

    Attributes:
        folder: holds ``annotations``, ``val``, ``train`` and ``test``.
        train: the six segments one after the other, each by (time, video, sequence).
        segments: the six as positions in ``train``.
        repairs: dates and times that were malformed and read as others, of all files read so far.
        left_out: objects too small, and those the rule of occlusion leaves out, by split.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        min_area: float = 1024.0,
        occluded: Occluded = "published",
        side: int | None = None,
        dates: Mapping[str, str] = DATES,
        times: Mapping[str, str] = TIMES,
    ) -> None:
        """Read the training segments, which are part of SODA10M's validation file.

        Args:
            root: the folder ``labeled``, ``SSLAD-2D`` or the one that holds it.
            min_area: smaller objects are left out, square pixels.
            occluded: see :func:`aefocl.clad_annotations.read_annotations`.
            side: see :class:`aefocl.road_images.RoadImages`.
            dates: what each malformed date is read as.
            times: what each malformed time is read as.

        Raises:
            MissingAsset: annotations that are not there or have no times.
            CorruptState: a file that is no such annotation.
            InvalidTimestamps: a training picture whose time is malformed and in no table.
            InvalidSetting: an unknown rule of occlusion, or a side below 1.
        """
        self.folder = _labelled_part(Path(root))
        self._rules = (min_area, occluded, dates, times)
        self._side = side
        self.repairs: list[Repair] = []
        self.left_out: dict[str, dict[str, int]] = {}
        self._read: dict[Split, Annotations] = {}
        found = self._annotations("val").objects
        parts = [[o for o in found if (o.date, o.period) == segment] for segment in SEGMENTS]
        _check_times([item for part in parts for item in part])
        parts = [sorted(part, key=_instant) for part in parts]
        self.train = self._images("train", [item for part in parts for item in part])
        if not len(self.train):
            raise MissingAsset(f"{self.folder} holds no object of the six training segments")
        ends = np.cumsum([len(part) for part in parts])[:-1]
        tasks = tasks_of(np.split(np.arange(len(self.train)), ends), self.train.labels)
        self.segments = tuple(
            replace(task, name=" ".join(segment))
            for task, segment in zip(tasks, SEGMENTS, strict=True)
        )

    def __len__(self) -> int:
        """Six."""
        return len(self.segments)

    def __iter__(self) -> Iterator[RoadImages]:
        """The segments in order."""
        for task in self.segments:
            yield self._images(task.name, [self.train.objects[i] for i in task.train])

    def validation(self) -> RoadImages:
        """The challenge's validation objects.

        All of SODA10M's validation file outside the days of the training segments, and of its
        training file every Tricycle and the Cyclists of 15 October 2018 at 15:20:30 and 16:00:00.
        This is the rule of 2021; in CLAD's newer package the second half is true of every object.

        Raises:
            MissingAsset, CorruptState: as of the constructor, for either file.
        """
        days = {date for date, _ in SEGMENTS[:5]}
        other = [
            o
            for o in self._annotations("val").objects
            if o.date not in days and (o.date, o.period) != SEGMENTS[5]
        ]
        rare = [
            o
            for o in self._annotations("train").objects
            if CLASS_NAMES[o.label] == "Tricycle"
            or (
                CLASS_NAMES[o.label] == "Cyclist"
                and o.date == "20181015"
                and o.time in ("152030", "160000")
            )
        ]
        return self._images("validation", other + rare)

    def test(self) -> RoadImages:
        """All objects of SODA10M's test file, on which CLAD-C tests after each segment.

        Raises:
            MissingAsset, CorruptState: as of the constructor.
        """
        return self._images("test", self._annotations("test").objects)

    def _annotations(self, split: Split) -> Annotations:
        if split not in self._read:
            min_area, occluded, dates, times = self._rules
            self._read[split] = read_annotations(
                self.folder / "annotations" / f"instance_{split}.json",
                split,
                min_area=min_area,
                occluded=occluded,
                dates=dates,
                times=times,
            )
            self.repairs += self._read[split].repairs
            self.left_out[split] = self._read[split].left_out
        return self._read[split]

    def _images(self, name: str, objects: Sequence[RoadObject]) -> RoadImages:
        return RoadImages(f"clad-c/{name}", self.folder, objects, side=self._side)


def _labelled_part(root: Path) -> Path:
    for folder in (root, root / "labeled", root / "SSLAD-2D" / "labeled"):
        if (folder / "annotations").is_dir():
            return folder
    raise MissingAsset(
        f"{root} holds no annotations: name SODA10M's folder 'labeled', or 'SSLAD-2D' around it"
    )


def _check_times(objects: Sequence[RoadObject]) -> None:
    bad = {o.image: o for o in objects if o.moment is None or o.video is None}
    if bad:
        told = ", ".join(
            f"image {o.image} ({o.file}: {o.date!r} {o.time!r})" for o in list(bad.values())[:5]
        )
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InvalidTimestamps(
            f"no place in time or in a video for {told}{more}; name the right text in 'times' or "
            "'dates'"
        )


def _instant(item: RoadObject) -> tuple[datetime, int, int]:
    # Numbers, so that video 9 comes before 13; the published reader compares them as text.
    assert item.moment is not None, "times are checked before"
    return item.moment, item.video or 0, item.sequence or 0
