"""The annotation files of SODA10M, with the times that CLAD adds to them: JSON to road objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from aefocl.clad_repairs import DATES, TIMES, Repair, moment, repair
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

CLASS_NAMES = ("Pedestrian", "Cyclist", "Car", "Truck", "Tram (Bus)", "Tricycle")
Occluded = Literal["published", "visible", "any"]
Split = Literal["train", "val", "test"]
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class RoadObject:
    """A labelled object in a picture from the road.

    Attributes:
        id: of the annotation. ``image``: of the picture.
        file: the picture, below the folder of its split.
        box: left, top, width and height in pixels.
        label: position in :data:`CLASS_NAMES`; the file's category less 1.
        date, time: repaired texts. ``moment``: the instant; None where they are none.
        period: "Daytime" or "Night".
        video, sequence: the two numbers in the picture's old name; None where there are none.
        split: annotation file that it comes from.
    """

    id: int
    image: int
    file: str
    box: tuple[float, float, float, float]
    label: int
    date: str
    time: str
    moment: datetime | None
    period: str
    video: int | None
    sequence: int | None
    split: Split


@dataclass(frozen=True)
class Annotations:
    """One annotation file.

    Attributes:
        objects: those large enough, in the order of the file.
        repairs: of every picture.
        left_out: objects that were too small, and those that the rule of occlusion leaves out.
    """

    objects: tuple[RoadObject, ...]
    repairs: tuple[Repair, ...]
    left_out: dict[str, int]


def read_annotations(
    path: Path,
    split: Split,
    *,
    min_area: float = 1024.0,
    occluded: Occluded = "published",
    dates: Mapping[str, str] = DATES,
    times: Mapping[str, str] = TIMES,
) -> Annotations:
    """The objects of one annotation file.

    Args:
        path: JSON with ``images`` and ``annotations``.
        split: which of the three it is.
        min_area: objects of fewer square pixels are left out.
        occluded: "published" keeps those whose flag ``occluded`` is not 0, as the published reader
            does under the name *remove_occluded*; "visible" those whose flag is 0; "any" all.
        dates: malformed dates, see :func:`aefocl.clad_repairs.repair`.
        times: malformed times.

    Raises:
        MissingAsset: no such file, or one without times (SODA10M's own; CLAD publishes others).
        CorruptState: not such JSON, an object without its picture, or a picture whose name leads
            out of the folder; the message names the entry.
        InvalidSetting: an unknown rule of occlusion.
    """
    if occluded not in ("published", "visible", "any"):
        raise InvalidSetting(
            f"occluded is {occluded!r}, it must be 'published', 'visible' or 'any'"
        )
    content = _content(path)
    pictures: dict[int, dict[str, Any]] = {}
    repairs: list[Repair] = []
    for entry in content["images"]:
        picture, done = _picture(entry, path, dates, times)
        if picture["id"] in pictures:
            raise CorruptState(f"{path}: image {picture['id']} is there twice")
        pictures[picture["id"]] = picture
        repairs += done
    objects: list[RoadObject] = []
    seen: set[int] = set()
    left_out = {"small": 0, "occlusion": 0}
    for entry in content["annotations"]:
        identifier = _typed(entry, "id", int, path, "an annotation")
        where = f"annotation {identifier}"
        if identifier in seen:
            raise CorruptState(f"{path}: {where} is there twice")
        seen.add(identifier)
        if _number(entry, "area", path, where) < min_area:
            left_out["small"] += 1
        elif occluded != "any" and (
            (_number(entry, "occluded", path, where) == 0) == (occluded == "published")
        ):
            left_out["occlusion"] += 1
        else:
            objects.append(_object(entry, identifier, pictures, split, path))
    return Annotations(tuple(objects), tuple(repairs), left_out)


def _content(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise MissingAsset(
            f"{path} is not there: CLAD-C needs SODA10M's labelled part (annotations/"
            "instance_val.json and the folders val, train, test) with CLAD's annotation files"
        )
    if path.stat().st_size > MAX_BYTES:
        raise CorruptState(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptState(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise CorruptState(f"{path} holds no lists 'images' and 'annotations'")
    return content


def _picture(
    entry: Any, path: Path, dates: Mapping[str, str], times: Mapping[str, str]
) -> tuple[dict[str, Any], list[Repair]]:
    identifier = _typed(entry, "id", int, path, "an image")
    where = f"image {identifier}"
    if "time" not in entry or "date" not in entry:
        raise MissingAsset(
            f"{path}: {where} has no date and time. SODA10M's own files have none; CLAD publishes "
            "the same files with times (time_annotations, see VerwimpEli/CLAD)"
        )
    name = _typed(entry, "file_name", str, path, where)
    if not _stays_inside(name):
        raise CorruptState(
            f"{path}: {where} is called {name!r}, which is no plain path below its folder"
        )
    date, time, done = repair(
        identifier,
        _typed(entry, "date", str, path, where),
        _typed(entry, "time", str, path, where),
        dates=dates,
        times=times,
    )
    old = entry.get("file_name_old", name)
    numbers = re.findall(r"[0-9]+", PurePosixPath(old).stem) if isinstance(old, str) else []
    video, sequence = (int(n[:18]) for n in numbers[:2]) if len(numbers) >= 2 else (None, None)
    return {
        "id": identifier,
        "file": name,
        "date": date,
        "time": time,
        "moment": moment(date, time),
        "period": _typed(entry, "period", str, path, where),
        "video": video,
        "sequence": sequence,
    }, done


def _object(
    entry: Any, identifier: int, pictures: dict[int, dict[str, Any]], split: Split, path: Path
) -> RoadObject:
    where = f"annotation {identifier}"
    image = _typed(entry, "image_id", int, path, where)
    if image not in pictures:
        raise CorruptState(f"{path}: {where} belongs to image {image}, which is not in the file")
    category = _typed(entry, "category_id", int, path, where)
    if not 1 <= category <= len(CLASS_NAMES):
        raise CorruptState(f"{path}: {where} is of category {category}, there are 1 to 6")
    box = entry.get("bbox")
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(_is_number(value) and abs(value) < 1e9 for value in box)
        and box[2] > 0
        and box[3] > 0
    ):
        raise CorruptState(
            f"{path}: {where} has the box {box!r}; it must be left, top, width and height"
        )
    picture = pictures[image]
    return RoadObject(
        id=identifier,
        image=image,
        file=picture["file"],
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        label=category - 1,
        date=picture["date"],
        time=picture["time"],
        moment=picture["moment"],
        period=picture["period"],
        video=picture["video"],
        sequence=picture["sequence"],
        split=split,
    )


def _stays_inside(name: str) -> bool:
    """Whether a name from a file is a plain path downwards, on any system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts)


def _typed(entry: Any, key: str, kind: type, path: Path, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CorruptState(f"{path}: {where} has {key} {value!r}, it must be a {kind.__name__}")
    return value


def _number(entry: Any, key: str, path: Path, where: str) -> float:
    value = entry.get(key)
    if not _is_number(value):
        raise CorruptState(f"{path}: {where} has {key} {value!r}, it must be a number")
    return float(value)


def _is_number(value: Any) -> bool:
    # An integer of a thousand digits is JSON, too, and no float.
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    )
