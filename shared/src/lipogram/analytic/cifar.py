"""CIFAR-10 and CIFAR-100 from the archives that their authors publish."""

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipogram.analytic.images import ArrayImages
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MEMBERS = {
    ("cifar10", "train"): [f"data_batch_{i}.bin" for i in range(1, 6)],
    ("cifar10", "test"): ["test_batch.bin"],
    ("cifar100", "train"): ["train.bin"],
    ("cifar100", "test"): ["test.bin"],
}
# folder of the binary version, its archive, its class names, label bytes a row
_BINARY = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "batches.meta.txt", 1),
    "cifar100": ("cifar-100-binary", "cifar-100-binary.tar.gz", "fine_label_names.txt", 2),
}


def cifar10(split: Literal["train", "test"] = "train", *, folder: Path | str) -> ArrayImages:
    """CIFAR-10, 32 x 32 RGB, from `folder`; 50,000 training and 10,000 test images of 10 classes.

    The folder holds the binary version (cifar-10-batches-bin, or cifar-10-binary.tar.gz as it is
    published) or the unpacked Python version (cifar-10-batches-py, needs torchvision).

    Raises:
        InvalidSetting: another split.
        MissingAsset: neither version is there.
        CorruptState: a damaged file; one of the Python version without its published MD5.
    """
    return _cifar("cifar10", split, Path(folder))


def cifar100(split: Literal["train", "test"] = "train", *, folder: Path | str) -> ArrayImages:
    """CIFAR-100 with its 100 fine labels, 32 x 32 RGB, from `folder`; 50,000 and 10,000 images.

    The folder holds the binary version (cifar-100-binary, or cifar-100-binary.tar.gz as it is
    published) or the unpacked Python version (cifar-100-python, needs torchvision).

    Raises:
        InvalidSetting: another split.
        MissingAsset: neither version is there.
        CorruptState: a damaged file; one of the Python version without its published MD5.
    """
    return _cifar("cifar100", split, Path(folder))


def _cifar(kind: str, split: str, root: Path) -> ArrayImages:
    members = _MEMBERS.get((kind, split))
    if members is None:
        raise InvalidSetting(f"split is {split!r}, it must be 'train' or 'test'")
    base, archive, names_file, label_bytes = _BINARY[kind]
    read: Callable[[str], bytes]
    if (root / base).is_dir():
        read = _from_folder(root / base)
    elif (root / archive).is_file():
        read = _from_archive(root / archive, base)
    else:
        return _python_version(kind, split, root)
    classes = read(names_file).decode().split()
    rows = np.frombuffer(b"".join(read(member) for member in members), np.uint8)
    if rows.size == 0 or rows.size % (label_bytes + _PIXELS):
        raise CorruptState(f"{root}: {', '.join(members)} hold no whole number of images")
    rows = rows.reshape(-1, label_bytes + _PIXELS)
    pixels = rows[:, label_bytes:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    labels = rows[:, label_bytes - 1]  # CIFAR-100 gives the coarse label first
    if labels.max() >= len(classes):
        raise CorruptState(f"{root}: label {labels.max()} of {len(classes)} classes")
    return ArrayImages(f"{kind}/{split}", pixels, labels, classes)


def _from_folder(folder: Path) -> Callable[[str], bytes]:
    def read(member: str) -> bytes:
        if not (folder / member).is_file():
            raise MissingAsset(f"{folder} lacks {member}; unpack the archive again")
        return (folder / member).read_bytes()

    return read


def _from_archive(archive: Path, base: str) -> Callable[[str], bytes]:
    def read(member: str) -> bytes:
        try:
            with tarfile.open(archive) as files:
                content = files.extractfile(f"{base}/{member}")
                return content.read() if content else b""
        except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
            raise CorruptState(f"{archive} has no whole {base}/{member}: {error}") from error

    return read


def _python_version(kind: str, split: str, root: Path) -> ArrayImages:
    """The published pickles, by torchvision, which compares the MD5 of each before it opens it."""
    base, archive, _, _ = _BINARY[kind]
    try:
        from torchvision import datasets
    except ImportError:
        python, found = "the Python version", False
        reader: Any = None
    else:
        reader = datasets.CIFAR10 if kind == "cifar10" else datasets.CIFAR100
        python, found = reader.base_folder, (root / reader.base_folder).is_dir()
    if not found:
        raise MissingAsset(
            f"{root} holds neither {base} nor {archive} nor {python}; "
            f"put {archive}, from the page of its authors, there"
        )
    try:
        data = reader(root, train=split == "train", download=False)
    except RuntimeError as error:
        raise CorruptState(f"{root / python} is damaged: {error}") from error
    return ArrayImages(f"{kind}/{split}", data.data, data.targets, data.classes)
