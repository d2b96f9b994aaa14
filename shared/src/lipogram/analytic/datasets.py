"""Labelled image collections in the formats they are published in."""

import gzip
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.cifar import cifar10, cifar100
from lipogram.analytic.cub import cub200
from lipogram.analytic.imagenet import imagenet, imagenet_100, imagenet_r
from lipogram.analytic.images import (
    MAX_PIXELS,
    ArrayImages,
    FileImages,
    FolderImages,
    image_files,
)
from lipogram.analytic.unpacked_archives import check_split, listed, unpacked
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

__all__ = [
    "cifar10",
    "cifar100",
    "cub200",
    "digits",
    "fashion_mnist",
    "folder",
    "imagenet",
    "imagenet_100",
    "imagenet_r",
    "openclipart",
    "tiny_imagenet",
]

Split = Literal["train", "test"]

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """scikit-learn's 1,797 handwritten digits: pixels (1797, 64) in [0, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data / 16.0, bunch.target.astype(np.int64)


def fashion_mnist(
    split: Split = "train", folder: Path | str | None = None, *, per_class: int | None = None
) -> ArrayImages:
    """Fashion-MNIST (arXiv:1708.07747): 60,000 training or 10,000 test images of 28 x 28 pixels.

    Args:
        split: "train" or "test".
        folder: holds the four .gz files; None takes the asset, fetched where needed.
        per_class: the first so many images of each class; None takes all.

    Raises:
        InvalidSetting: another split, or fewer than one image a class.
        MissingAsset: a file is not there, or the asset cannot be had.
        CorruptState: a file is damaged.
    """
    prefix = {"train": "train", "test": "t10k"}.get(split)
    if prefix is None:
        raise InvalidSetting(f"split is {split!r}, it must be 'train' or 'test'")
    if folder is None:
        from lipogram import assets

        folder = assets.get("fashion-mnist")
    pixels = _idx(Path(folder) / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = _idx(Path(folder) / f"{prefix}-labels-idx1-ubyte.gz", 1)
    name = f"fashion-mnist/{split}"
    if per_class is not None:
        if per_class < 1:
            raise InvalidSetting(f"per_class is {per_class}, it must be at least 1")
        firsts = [np.flatnonzero(labels == label)[:per_class] for label in range(10)]
        kept = np.sort(np.concatenate(firsts))
        name, pixels, labels = f"{name}/{per_class} a class", pixels[kept], labels[kept]
    return ArrayImages(name, pixels, labels, _FASHION_CLASSES)


def openclipart(
    *,
    min_count: int = 20,
    cap: int | None = 250,
    seed: int = 0,
    folder: Path | str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FileImages:
    """Open Clip Art by sub-category: drawings under CATEGORY/SUBCATEGORY/**, long-tailed by nature.

    A drawing that its librarians filed under two sub-categories (a link in the package) appears in
    both; images directly below a category belong to no sub-category and are left out.

    Args:
        min_count: sub-categories with fewer images are left out.
        cap: at most so many images of a class, drawn without replacement; None keeps all.
        seed: of that draw.
        folder: holds the categories; None takes the asset, fetched where needed.
        max_pixels: larger images are refused when they are loaded.

    Raises:
        InvalidSetting: no sub-category is that large, or a cap below 1.
        MissingAsset: the asset cannot be had.
    """
    if cap is not None and cap < 1:
        raise InvalidSetting(f"cap is {cap}, it must be at least 1 or None")
    if folder is None:
        from lipogram import assets

        folder = assets.get("openclipart")
    root = Path(folder)
    classes: dict[str, list[str]] = defaultdict(list)
    for file in image_files(root):
        parts = file.relative_to(root).parts
        if len(parts) > 2:
            classes["/".join(parts[:2])].append("/".join(parts))
    rng = np.random.default_rng(seed)
    names = sorted(name for name, files in classes.items() if len(files) >= min_count)
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = classes[name]
        if cap is not None and len(files) > cap:
            files = [files[i] for i in np.sort(rng.choice(len(files), cap, replace=False))]
        ids += files
        labels += [label] * len(files)
    if not names:
        raise InvalidSetting(f"{root} has no sub-category with {min_count} images or more")
    return FileImages("openclipart", root, ids, labels, names, max_pixels=max_pixels)


def folder(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> FolderImages:
    """Images laid out as PATH/CLASS/**/FILE, the layout of ImageNet-R among others.

    Raises:
        InvalidSetting: no folder, or no image in a class folder.
    """
    return FolderImages(path, max_pixels=max_pixels)


def tiny_imagenet(split: Split = "train", *, folder: Path | str) -> FileImages:
    """Tiny ImageNet from `folder`, unpacked: train/WNID/images/* and val/val_annotations.txt.

    The folder is tiny-imagenet-200 or holds it.

    The published test images have no labels, so "test" is the validation part. The classes are the
    WordNet identifiers of wnids.txt, sorted.

    Raises:
        InvalidSetting: another split.
        MissingAsset: a file that tells the labels is not there.
        CorruptState: a line of it names no class, or an image that is not there.
    """
    check_split(split)
    root = unpacked(folder, "tiny-imagenet-200")
    classes = sorted(listed(root / "wnids.txt"))
    position = {name: k for k, name in enumerate(classes)}
    owners: list[tuple[str, str]] = []
    if split == "train":
        for name in classes:
            found = image_files(root / "train" / name)
            owners += [(file.relative_to(root).as_posix(), name) for file in found]
    else:
        for line in listed(root / "val" / "val_annotations.txt"):
            file, _, rest = line.partition("\t")
            owners.append((f"val/images/{Path(file).name}", rest.partition("\t")[0]))
    for file, name in owners:
        if name not in position or not (root / file).is_file():
            raise CorruptState(f"{root}: {file} of class {name!r} is not there, or no such class")
    labels = [position[name] for _, name in owners]
    return FileImages(f"tiny-imagenet/{split}", root, [file for file, _ in owners], labels, classes)


def _idx(file: Path, ndim: int) -> NDArray[np.uint8]:
    """The array of bytes in a gzipped IDX file: magic, big-endian sizes, values."""
    if not file.is_file():
        raise MissingAsset(f"{file} is not there")
    try:
        with gzip.open(file) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptState(f"{file} is no whole gzip file: {error}") from error
    header = 4 + 4 * ndim
    if content[:4] != bytes([0, 0, 8, ndim]) or len(content) < header:
        raise CorruptState(f"{file} is no IDX file of {ndim} dimensions of bytes")
    shape = [int(size) for size in np.frombuffer(content[4:header], ">u4")]
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape, dtype=object):
        raise CorruptState(f"{file} announces {shape} and holds {values.size} values")
    return values.reshape(shape)
