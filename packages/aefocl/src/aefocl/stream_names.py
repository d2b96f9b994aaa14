"""Streams by the name that a person types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aefocl.stream import Stream
from lipogram.errors import InvalidSetting

NAMES = (
    "openclipart",
    "emoji",
    "digits",
    "synthetic",
    "clad:FOLDER",
    "chronological:CSV",
    "folder:PATH",
)


def stream_of(
    name: str,
    *,
    backbone: str = "effnet-lite0",
    image_size: int = 128,
    segments: int = 6,
    boundaries: Sequence[str | float] | None = None,
    skip_malformed: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Stream:
    """A stream by name.

    ``openclipart``, ``emoji`` and ``digits`` are real, ``synthetic`` is a made-up road; ``clad:``
    names what :func:`aefocl.clad_features.prepare_clad` left, ``chronological:`` a table with
    times, ``folder:`` pictures by segment and class.

    Args:
        name: one of :data:`NAMES`.
        backbone: for pictures; ``clad:`` has features already.
        image_size: side in pixels.
        segments: test points of a stream that does not bring its own.
        boundaries: times at which a segment begins, of ``chronological:``.
        skip_malformed: leave out malformed rows of a table.
        seed: of splits and orders.
        progress: told what is worked on.

    Raises:
        InvalidSetting: an unknown name.
        MissingAsset: what it is made of cannot be had. Others: see the function of each.
    """
    kind, _, where = name.partition(":")
    if name == "digits":
        from aefocl.image_streams import digits_stream

        return digits_stream(segments=segments, seed=seed)
    if name == "synthetic":
        from aefocl.road_stream import road_stream

        return road_stream(segments=segments, seed=seed)
    if name == "openclipart":
        from aefocl.image_streams import openclipart_stream

        return openclipart_stream(
            backbone=backbone, image_size=image_size, segments=segments, seed=seed
        )
    if name == "emoji":
        from aefocl.image_streams import emoji_stream

        return emoji_stream(backbone=backbone, image_size=image_size, seed=seed, progress=progress)
    if kind == "clad" and where:
        from aefocl.clad_features import clad_stream

        return clad_stream(Path(where))
    if kind == "chronological" and where:
        from aefocl.chronological_stream import csv_stream

        return csv_stream(
            where,
            boundaries=boundaries,
            segments=segments,
            skip_malformed=skip_malformed,
            seed=seed,
            backbone=backbone,
            image_size=image_size,
        )
    if kind == "folder" and where:
        from aefocl.chronological_stream import folder_stream

        return folder_stream(where, seed=seed, backbone=backbone, image_size=image_size)
    raise InvalidSetting(f"unknown stream {name!r}: use one of {', '.join(NAMES)}")
