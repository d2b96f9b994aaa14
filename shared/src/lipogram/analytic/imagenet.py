"""ImageNet (ILSVRC 2012), subsets of it, and ImageNet-R, from the folders they are unpacked to."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lipogram.analytic.held_out_rows import held_out
from lipogram.analytic.images import (
    MAX_PIXELS,
    FileImages,
    FolderImages,
    image_files,
)
from lipogram.analytic.unpacked_archives import check_split, child, listed, unpacked
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

Split = Literal["train", "test"]
SUBSET_SEED, SUBSET_CLASSES = 1993, 100
TEST_SHARE = 0.2


def imagenet(
    split: Split = "train",
    *,
    folder: Path | str,
    synsets: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FileImages:
    """ILSVRC 2012, or the classes of it that are named; "test" is the validation part.

    The folder holds train/SYNSET/* and either val/SYNSET/* or, as it is published for Kaggle,
    val/* beside LOC_val_solution.csv (there, train and val may lie in ILSVRC/Data/CLS-LOC).

    Args:
        split: "train" or "test".
        folder: see above.
        synsets: WordNet identifiers such as "n01440764"; None takes every folder of train.
            Classes are numbered in their sorted order.
        max_pixels: larger images are refused when they are loaded.

    Raises:
        InvalidSetting: another split, no synset, or one twice.
        MissingAsset: no such folder, or no images or labels of a class in it.
        CorruptState: a line of LOC_val_solution.csv that is no pair, or an image outside val.
    """
    check_split(split)
    base = Path(folder)
    root = unpacked(base, "ILSVRC/Data/CLS-LOC")
    names = synsets_of(root) if synsets is None else sorted(synsets)
    if not names or len(set(names)) < len(names):
        raise InvalidSetting(f"{len(names)} synsets, {len(set(names))} of them different")
    solution = base / "LOC_val_solution.csv"
    if split == "test" and solution.is_file():
        owners = _solution(root, solution, set(names))
    else:
        part = "train" if split == "train" else "val"
        owners = [
            (file.relative_to(root).as_posix(), name)
            for name in names
            for file in image_files(root / part / name)
        ]
    position = {name: k for k, name in enumerate(names)}
    labels = [position[name] for _, name in owners]
    lacking = sorted(set(names) - {name for _, name in owners})
    if lacking:
        raise MissingAsset(
            f"{root} holds no {split} image of {len(lacking)} of {len(names)} classes, the first "
            f"{lacking[0]}: train/{lacking[0]}/* and val/{lacking[0]}/* are read, or val/* beside "
            "LOC_val_solution.csv"
        )
    name = f"imagenet/{split}/{len(names)}"
    return FileImages(
        name, root, [file for file, _ in owners], labels, names, max_pixels=max_pixels
    )


def imagenet_100(
    split: Split = "train", *, folder: Path | str, max_pixels: int = MAX_PIXELS
) -> FileImages:
    """ImageNet-100, of which several lists are in use: which one, the folder says.

    imagenet100.txt in it names the classes, one synset a line (what follows a blank or a slash on
    the line is not read). Without it, a folder of 100 classes is taken as it is; and of one with
    more, the 100 classes that come first in the permutation of numpy's legacy generator with seed
    1993, the list of LUCIR (Hou et al., CVPR 2019) and Mnemonics (Liu et al., CVPR 2020).

    Raises:
        InvalidSetting: another split, or a list or a folder without 100 classes.
        MissingAsset: see :func:`imagenet`.
        CorruptState: see :func:`imagenet`.
    """
    check_split(split)
    root = unpacked(folder, "ILSVRC/Data/CLS-LOC")
    listing = Path(folder) / "imagenet100.txt"
    if listing.is_file():
        names = sorted({line.split()[0].partition("/")[0] for line in listed(listing)})
    else:
        listing, names = root / "train", legacy_subset(synsets_of(root))
    if len(names) != SUBSET_CLASSES:
        raise InvalidSetting(
            f"{listing} names {len(names)} classes, ImageNet-100 has {SUBSET_CLASSES}: "
            f"put the list of synsets, one a line, into {Path(folder) / 'imagenet100.txt'}"
        )
    return imagenet(split, folder=folder, synsets=names, max_pixels=max_pixels)


def legacy_subset(
    names: Sequence[str], n: int = SUBSET_CLASSES, seed: int = SUBSET_SEED
) -> list[str]:
    """The first n of sorted names in the order that numpy's legacy generator permutes them to."""
    order = np.random.RandomState(seed).permutation(len(names))[:n]
    ordered = sorted(names)
    return sorted(ordered[k] for k in order)


def synsets_of(root: Path) -> list[str]:
    """The class folders of ``root/train``, sorted.

    Raises:
        MissingAsset: there are none.
    """
    train = root / "train"
    names = (
        sorted(entry.name for entry in train.iterdir() if entry.is_dir()) if train.is_dir() else []
    )
    if not names:
        raise MissingAsset(f"{train} has no class folders; ImageNet is unpacked to train/SYNSET/*")
    return names


def imagenet_r(
    split: Split = "train", *, folder: Path | str, seed: int = 0, max_pixels: int = MAX_PIXELS
) -> FileImages:
    """ImageNet-R (Hendrycks et al., ICCV 2021): 30,000 renditions of 200 ImageNet classes.

    It is published without a training part. Papers draw one; here 20 % of each class are the test
    part, drawn by ``seed``, so numbers are comparable between runs but not, to the digit, with
    papers whose draw is another. A folder that is already cut into train/CLASS/* and test/CLASS/*
    is taken as it is.

    Args:
        split: "train" or "test".
        folder: imagenet-r, unpacked, or the folder that holds it.
        seed: of the draw.
        max_pixels: larger images are refused when they are loaded.

    Raises:
        InvalidSetting: another split, or no folder of images.
    """
    check_split(split)
    root = unpacked(folder, "imagenet-r")
    name = f"imagenet-r/{split}"
    if (root / "train").is_dir() and (root / "test").is_dir():
        return FolderImages(root / split, name=name, max_pixels=max_pixels)
    every = FolderImages(root, max_pixels=max_pixels)
    tested = held_out(every.labels, test_share=TEST_SHARE, seed=seed)
    kept = np.flatnonzero(tested == (split == "test"))
    return FileImages(
        f"{name}/seed {seed}",
        root,
        [every.ids[k] for k in kept],
        every.labels[kept],
        every.class_names,
        max_pixels=max_pixels,
    )


def _solution(root: Path, file: Path, wanted: set[str]) -> list[tuple[str, str]]:
    """Image and class of each wanted line of LOC_val_solution.csv, in the order of the images."""
    owners = []
    with file.open(newline="", encoding="utf-8") as lines:
        for line in csv.reader(lines):
            if len(line) != 2 or not line[1].split():
                raise CorruptState(f"{file}: {line} is no image and its prediction string")
            image, name = line[0], line[1].split()[0]
            if name in wanted:
                owners.append((child(root, f"val/{image}.JPEG"), name))
    return sorted(owners)
