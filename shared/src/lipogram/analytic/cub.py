"""Caltech-UCSD Birds-200-2011 (Wah et al., 2011) as its authors publish it."""

from pathlib import Path
from typing import Literal

from lipogram.analytic.images import MAX_PIXELS, FileImages
from lipogram.analytic.unpacked_archives import check_split, child, listed, unpacked
from lipogram.errors import CorruptState


def cub200(
    split: Literal["train", "test"] = "train", *, folder: Path | str, max_pixels: int = MAX_PIXELS
) -> FileImages:
    """CUB-200-2011: 5,994 training and 5,794 test photographs of 200 kinds of birds.

    Four lists tell what is where: images.txt (number, path below images/), classes.txt (number,
    name), image_class_labels.txt (image, class) and train_test_split.txt (image, 1 for training).

    Args:
        split: "train" or "test", as the authors cut it.
        folder: CUB_200_2011, unpacked, or the folder that holds it.
        max_pixels: larger images are refused when they are loaded.

    Raises:
        InvalidSetting: another split.
        MissingAsset: a list is not there.
        CorruptState: a line of a list that is no pair, an image without a class or a split, a class
            without a name, an image that is not there or lies outside the folder.
    """
    check_split(split)
    root = unpacked(folder, "CUB_200_2011")
    images, classes = _pairs(root / "images.txt"), _pairs(root / "classes.txt")
    owners, trains = _pairs(root / "image_class_labels.txt"), _pairs(root / "train_test_split.txt")
    order = sorted(classes, key=_number)
    position = {number: k for k, number in enumerate(order)}
    ids: list[str] = []
    labels: list[int] = []
    for number, path in images.items():
        owner, in_train = owners.get(number), trains.get(number)
        if owner not in position or in_train not in ("0", "1"):
            raise CorruptState(
                f"{root}: image {number} ({path}) has class {owner!r} and split {in_train!r}; "
                "it needs one of classes.txt, and 0 or 1"
            )
        if (in_train == "1") == (split == "train"):
            ids.append(child(root, f"images/{path}"))
            labels.append(position[owner])
    names = [classes[number] for number in order]
    return FileImages(f"cub200/{split}", root, ids, labels, names, max_pixels=max_pixels)


def _pairs(file: Path) -> dict[str, str]:
    """First word of each line to the rest of it."""
    found: dict[str, str] = {}
    for line in listed(file):
        number, _, value = line.strip().partition(" ")
        if not value.strip() or not number.isdecimal() or number in found:
            raise CorruptState(f"{file}: {line!r} is no number, not seen before, and its value")
        found[number] = value.strip()
    return found


def _number(text: str) -> int:
    return int(text)
