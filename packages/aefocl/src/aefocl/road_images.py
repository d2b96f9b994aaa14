"""Objects cut from pictures of the road, one at a time and only when asked for."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aefocl.clad_annotations import CLASS_NAMES, RoadObject
from lipogram.analytic.images import MAX_PIXELS, decode, fingerprint
from lipogram.errors import BrokenImage, InvalidSetting

PADDING = 5


class RoadImages:
    """Objects as square cuts of their pictures; :class:`lipogram.analytic.images.Images`.

    Attributes:
        name, labels, class_names, ids, fingerprint: as of every image collection; an identifier is
            ``SPLIT/FILE#ANNOTATION``.
        objects: what is known of each.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        objects: Sequence[RoadObject],
        *,
        side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Describe the objects in the pictures ``folder / split / file``.

        Args:
            name: of the collection.
            folder: holds the folders of the splits.
            objects: in order.
            side: cuts are resized to so many pixels (64 in the published reader); None leaves them
                as they are for the backbone to resize once.
            max_pixels: a larger picture is refused when it is loaded.

        Raises:
            InvalidSetting: a side below 1.
        """
        if side is not None and side < 1:
            raise InvalidSetting(f"side is {side}, it must be at least 1 pixel")
        self.name, self.folder, self.objects = name, folder, tuple(objects)
        self.side, self.max_pixels = side, max_pixels
        self.class_names = list(CLASS_NAMES)
        self.labels = np.array([item.label for item in self.objects], dtype=np.int64)
        self.ids = [f"{item.split}/{item.file}#{item.id}" for item in self.objects]
        # Sizes stand in for the contents, which would take minutes to read; -1 is not there.
        sizes = {place: _size(folder, *place) for place in {(o.split, o.file) for o in objects}}
        about = [
            [identifier, item.box, sizes[item.split, item.file]]
            for identifier, item in zip(self.ids, self.objects, strict=True)
        ]
        self.fingerprint = fingerprint(
            name, self.class_names, self.labels, json.dumps([about, side, max_pixels]).encode()
        )
        self._held = threading.local()

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def load(self, i: int) -> NDArray[np.uint8]:
        """Object i as (h, h, 3) RGB, cut inside its picture.

        Raises:
            BrokenImage: a picture that is not there or cannot be decoded, or an object outside it.
        """
        item = self.objects[i]
        picture = self._picture(item, self.ids[i])
        height, width = picture.shape[:2]
        left, top, right, bottom = square_around(item.box, width, height)
        if right - left < 1:
            raise BrokenImage(f"{self.ids[i]}: a picture of {width} x {height} has no room for it")
        cut: NDArray[np.uint8] = picture[top:bottom, left:right]
        if self.side is None:
            return cut
        from PIL import Image

        resized = Image.fromarray(cut).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return np.array(resized)

    def _picture(self, item: RoadObject, name: str) -> NDArray[np.uint8]:
        """The picture of an object; a thread keeps its last one, as objects come by picture."""
        file = self.folder / item.split / item.file
        if getattr(self._held, "file", None) != file:
            self._held.pixels = decode(file, name=name, max_pixels=self.max_pixels)
            self._held.file = file
        pixels: NDArray[np.uint8] = self._held.pixels
        return pixels


def square_around(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the square that is cut around an object.

    Half its side is half the longer side of the box, rounded down, and five pixels, at most what
    fits the picture (539 at 1920 x 1080). It is centred on the box and shifted inside; the last
    column and row are never part of it, as in the published reader.

    Args:
        box: left, top, width, height.
        width: of the picture.
        height: of the picture.
    """
    x, y, w, h = box
    half = min(int(max(w, h) // 2) + PADDING, (min(width, height) - 1) // 2)
    left = min(max(round(x + w // 2) - half, 0), width - 1 - 2 * half)
    top = min(max(round(y + h // 2) - half, 0), height - 1 - 2 * half)
    return left, top, left + 2 * half, top + 2 * half


def _size(folder: Path, split: str, file: str) -> int:
    try:
        return os.stat(os.path.join(folder, split, file)).st_size
    except OSError:
        return -1
