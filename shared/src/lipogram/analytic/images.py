"""Labelled image collections, decoded one at a time and only when asked for."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lipogram.errors import BrokenImage, InvalidLabels, InvalidSetting

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 40_000_000
# The decoders worth their attack surface: all of them run inside Pillow, none calls a program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .pgm .pbm".split())


class Images(Protocol):
    """A labelled image collection; no image is decoded before `load`.

    Attributes:
        name: what the collection is called.
        labels: (n,) int64, positions in `class_names`.
        class_names: one name a class.
        ids: a stable identifier of each image: its path in the folder, or its position.
        fingerprint: SHA-256 that changes when the images or their labels do.
    """

    name: str
    labels: NDArray[np.int64]
    class_names: list[str]
    ids: list[str]
    fingerprint: str

    def __len__(self) -> int:
        """Number of images."""
        ...

    def load(self, i: int) -> NDArray[np.uint8]:
        """Image i as (h, w, 3) RGB; raises BrokenImage if it cannot or must not be decoded."""
        ...


class ArrayImages:
    """Images held in one array, grey or RGB."""

    def __init__(
        self,
        name: str,
        pixels: NDArray[np.uint8],
        labels: Sequence[int] | NDArray[np.integer],
        class_names: Sequence[str],
    ) -> None:
        """Wrap `pixels`, uint8 of shape (n, h, w) or (n, h, w, 3), without copying them.

        Raises:
            InvalidSetting: The array has another type or shape.
            InvalidLabels: Not one label an image, or a label that names no class.
        """
        if pixels.dtype != np.uint8 or not (
            pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
        ):
            raise InvalidSetting(
                f"{name}: pixels are {pixels.dtype} of shape {pixels.shape}; "
                "they must be uint8 of shape (n, h, w) or (n, h, w, 3)"
            )
        self.name = name
        self.pixels = pixels
        self.class_names = list(class_names)
        self.labels = _checked_labels(name, labels, len(pixels), len(self.class_names))
        self.ids = [str(i) for i in range(len(pixels))]
        self.fingerprint = fingerprint(
            name, self.class_names, self.labels, np.ascontiguousarray(pixels).data
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def load(self, i: int) -> NDArray[np.uint8]:
        """Image i as (h, w, 3) RGB; grey is repeated."""
        image: NDArray[np.uint8] = self.pixels[i]
        if image.ndim == 2:
            return np.repeat(image[:, :, None], 3, axis=2)
        return image


class FileImages:
    """Images in files below one folder, decoded on demand."""

    def __init__(
        self,
        name: str,
        root: Path,
        ids: Sequence[str],
        labels: Sequence[int] | NDArray[np.integer],
        class_names: Sequence[str],
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Describe the files `root / id`; an image of more than `max_pixels` is refused.

        Raises:
            InvalidLabels: Not one label a file, or a label that names no class.
        """
        self.name = name
        self.root = root
        self.ids = list(ids)
        self.class_names = list(class_names)
        self.labels = _checked_labels(name, labels, len(self.ids), len(self.class_names))
        self.max_pixels = max_pixels
        # Sizes stand in for the contents, which would take minutes to read for a large set.
        sizes = [(root / identifier).stat().st_size for identifier in self.ids]
        self.fingerprint = fingerprint(
            name,
            self.class_names,
            self.labels,
            json.dumps([self.ids, sizes, max_pixels]).encode(),
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def load(self, i: int) -> NDArray[np.uint8]:
        """Image i as (h, w, 3) RGB; raises BrokenImage if it cannot or must not be decoded."""
        return decode(self.root / self.ids[i], name=self.ids[i], max_pixels=self.max_pixels)


class FolderImages(FileImages):
    """Images laid out as PATH/CLASS/**/FILE; the classes are the sorted folder names."""

    def __init__(
        self, path: Path | str, *, name: str | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        """List the image files (by suffix) below `path` in sorted order.

        Raises:
            InvalidSetting: `path` is no folder, or no class folder in it holds an image.
        """
        root = Path(path)
        if not root.is_dir():
            raise InvalidSetting(f"{root} is no folder; an image folder is PATH/CLASS/FILE")
        ids: list[str] = []
        owners: list[str] = []
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            files = image_files(folder)
            ids += [file.relative_to(root).as_posix() for file in files]
            owners += [folder.name] * len(files)
        if not ids:
            raise InvalidSetting(
                f"{root} holds no image: expected PATH/CLASS/FILE with files named "
                + ", ".join(sorted(SUFFIXES))
            )
        class_names = sorted(set(owners))
        position = {owner: k for k, owner in enumerate(class_names)}
        super().__init__(
            name or root.resolve().name,
            root,
            ids,
            [position[owner] for owner in owners],
            class_names,
            max_pixels=max_pixels,
        )


def image_files(folder: Path) -> list[Path]:
    """Files below `folder`, at any depth, whose suffix is that of an image; sorted."""
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )


def decode(
    file: Path, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Pixels of an image file as (h, w, 3) uint8 RGB.

    Transparency is laid over white, 16-bit grey is reduced to its upper byte, the orientation
    noted by the camera is applied, and of an animation the first frame counts.

    Args:
        file: where the image is.
        name: what an error calls it; None takes the path.
        max_pixels: an image whose header announces more is refused before it is decoded.

    Raises:
        BrokenImage: not one of the accepted formats, truncated or damaged, or too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or str(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage(
                    f"{name}: {width} x {height} is {width * height / 1e6:.1f} Mpixel, "
                    f"more than the limit of {max_pixels / 1e6:g}"
                )
            return _rgb(ImageOps.exif_transpose(image))
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"{name}: no image of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders raise anything at all on damaged bytes
        raise BrokenImage(f"{name}: cannot be decoded ({type(error).__name__}: {error})") from error


def _rgb(image: "Image") -> NDArray[np.uint8]:
    """The pixels of a Pillow image in any mode whose range is known."""
    from PIL import Image

    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint16) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def fingerprint(
    name: str, class_names: Sequence[str], labels: NDArray[np.int64], content: bytes | memoryview
) -> str:
    """SHA-256 of a collection's name, classes, labels and the bytes that stand for its images."""
    digest = hashlib.sha256(json.dumps([name, list(class_names)]).encode())
    digest.update(labels.astype("<i8").tobytes())
    digest.update(content)
    return digest.hexdigest()


def _checked_labels(
    name: str, labels: Sequence[int] | NDArray[np.integer], n: int, n_classes: int
) -> NDArray[np.int64]:
    """The labels as int64, one an image and each the position of a class."""
    checked = np.asarray(labels, dtype=np.int64)
    if checked.shape != (n,):
        raise InvalidLabels(f"{name}: {n} images but labels of shape {checked.shape}")
    if n and not (checked.min() >= 0 and checked.max() < n_classes):
        raise InvalidLabels(
            f"{name}: labels run from {checked.min()} to {checked.max()}, "
            f"but there are {n_classes} class names"
        )
    return checked
