"""CLAD-C as features: extracted once into a folder, read back as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aefocl.clad import SEGMENTS, CladC
from aefocl.clad_annotations import CLASS_NAMES, RoadObject
from aefocl.kept_features import undecoded
from aefocl.road_images import RoadImages
from aefocl.stream import Stream
from lipogram.analytic.backbones import Backbone, load_backbone
from lipogram.analytic.features import FeatureStore, extract
from lipogram.analytic.scenarios import Task
from lipogram.analytic.scenarios.task import tasks_of
from lipogram.analytic.sources import Features
from lipogram.errors import CorruptState, IncompatibleFeatures, MissingAsset
from lipogram.files import write_atomically

SCHEMA = "aefocl.clad-c/1"
OBJECTS = "objects.json"
Tested = Literal["test", "validation"]


def prepare_clad(
    root: CladC | Path | str,
    out: Path | str,
    *,
    backbone: Backbone | str = "effnet-lite0",
    image_size: int = 128,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Features of CLAD-C's objects, and what is known of each, into a folder.

    ``out/train``, ``out/test`` and ``out/validation`` are feature stores in stream order (test and
    validation where their annotations are there, one of the two at least); ``out/objects.json``
    lists every object with its time, video, sequence, segment and split, the repairs, and how
    many were left out and why. Killed and started again, it goes on where it was.

    Args:
        root: the data, or a reader with settings of its own.
        out: made where it is not there.
        backbone: one, or a registry name, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels, for a name.
        progress: told what is worked on.

    Returns:
        What ``objects.json`` says, without its lists of objects: counts by split, class and
        segment, repairs, left_out, and skipped (objects whose picture could not be decoded).

    Raises:
        MissingAsset: annotations that are not there, or neither test nor validation ones.
        CorruptState, InvalidTimestamps: see :class:`aefocl.clad.CladC`.
        IncompatibleFeatures: ``out`` holds features of other objects or of another backbone.
    """
    clad = root if isinstance(root, CladC) else CladC(root)
    out = Path(out)
    model = (
        load_backbone(backbone, image_size=image_size) if isinstance(backbone, str) else backbone
    )
    parts = {"train": clad.train}
    missing = []
    for name, part in (("test", clad.test), ("validation", clad.validation)):
        try:
            parts[name] = part()
        except MissingAsset as error:
            missing.append(str(error))
            progress(f"no {name} part: {error}")
    if len(parts) == 1:
        raise MissingAsset("; ".join(missing))
    kept = {name: _extracted(model, images, out / name, progress) for name, images in parts.items()}
    segment_of = {int(i): s for s, task in enumerate(clad.segments) for i in task.train}
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "class_names": list(CLASS_NAMES),
        "segments": [" ".join(segment) for segment in SEGMENTS],
        "counts": {
            name: dict(
                zip(CLASS_NAMES, np.bincount(store.labels, minlength=6).tolist(), strict=True)
            )
            for name, store in kept.items()
        },
        "repairs": [asdict(done) for done in clad.repairs],
        "left_out": clad.left_out,
        "skipped": {name: store.skipped for name, store in kept.items()},
        "missing": missing,
    }
    objects = {
        name: {
            images.ids[i]: _known(item, segment_of.get(i) if name == "train" else None)
            for i, item in enumerate(images.objects)
        }
        for name, images in parts.items()
    }
    write_atomically(out / OBJECTS, json.dumps({**summary, "objects": objects}, indent=1).encode())
    return summary


def clad_stream(folder: Path | str, *, test: Tested | None = None) -> Stream:
    """The stream that :func:`prepare_clad` left in a folder.

    Args:
        folder: its ``out``.
        test: what is tested on after each segment; None takes the test part, or the validation part
            where there is no other, and says so in the stream's remarks.

    Raises:
        MissingAsset: no such folder or part.
        CorruptState: ``objects.json`` is damaged or does not fit the features.
        IncompatibleFeatures: the parts come from different backbones.
    """
    folder = Path(folder)
    about = _read(folder / OBJECTS)
    remarks = [f"{len(about['repairs'])} malformed dates and times repaired"]
    if test is None:
        test = "test" if (folder / "test" / "index.json").is_file() else "validation"
        if test == "validation":
            remarks.append("tested on the validation part: there is no test part")
    train, tested = FeatureStore.open(folder / "train"), FeatureStore.open(folder / test)
    if train.backbone["fingerprint"] != tested.backbone["fingerprint"]:
        raise IncompatibleFeatures(
            f"{folder}: train was made by {train.backbone['name']}, {test} by "
            f"{tested.backbone['name']}; prepare it again in another folder"
        )
    remarks += undecoded(train.skipped, "objects of train")
    remarks += undecoded(tested.skipped, f"objects of {test}")
    data = Features(
        train.features(),
        train.labels,
        tested.features(),
        tested.labels,
        CLASS_NAMES,
        f"clad-c ({test})",
        train.backbone["fingerprint"],
    )
    return Stream(data, _segments(train, about, folder), remarks=tuple(remarks))


def _extracted(
    model: Backbone, images: RoadImages, folder: Path, progress: Callable[[str], None]
) -> FeatureStore:
    progress(f"{images.name}: {len(images)} objects")
    store = extract(model, images, folder)
    for remark in undecoded(store.skipped, f"objects of {folder.name}"):
        progress(remark)
    return store


def _known(item: RoadObject, segment: int | None) -> dict[str, Any]:
    return {
        "time": item.moment.isoformat() if item.moment else None,
        "date": item.date,
        "period": item.period,
        "video": item.video,
        "sequence": item.sequence,
        "segment": segment,
        "split": item.split,
        "box": item.box,
    }


def _segments(store: FeatureStore, about: dict[str, Any], folder: Path) -> tuple[Task, ...]:
    names = about["segments"]
    known = about["objects"].get("train", {})
    of_row = []
    for identifier in store.ids:
        entry = known.get(identifier)
        segment = entry.get("segment") if isinstance(entry, dict) else None
        if not isinstance(segment, int) or not 0 <= segment < len(names):
            raise CorruptState(f"{folder / OBJECTS} does not tell the segment of {identifier}")
        of_row.append(segment)
    number = np.array(of_row, dtype=np.int64)
    tasks = tasks_of([np.flatnonzero(number == s) for s in range(len(names))], store.labels)
    return tuple(
        Task(name, task.train, task.classes, task.seen)
        for name, task in zip(names, tasks, strict=True)
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingAsset(f"{path} is not there: make it with 'aefocl prepare-clad'")
    try:
        about = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptState(f"{path} is not JSON: {error}") from error
    sound = (
        isinstance(about, dict)
        and about.get("schema") == SCHEMA
        and isinstance(about.get("repairs"), list)
        and about.get("segments") == [" ".join(segment) for segment in SEGMENTS]
        and isinstance(about.get("objects"), dict)
        and isinstance(about["objects"].get("train"), dict)
    )
    if not sound:
        raise CorruptState(f"{path} is no list of objects of the form {SCHEMA}")
    return dict(about)
