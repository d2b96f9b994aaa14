"""Where features come from: names that a person types, and the arrays behind them."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.datasets import digits
from lipogram.analytic.features import FeatureStore
from lipogram.analytic.held_out_rows import held_out as held_out
from lipogram.errors import IncompatibleFeatures, InvalidFeatures, InvalidLabels, InvalidSetting

PARTED_SETS = (
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "tinyimagenet",
    "imagenet-100",
    "imagenet",
    "imagenet-r",
    "cub200",
)
IMAGE_SETS = ("openclipart", *PARTED_SETS)
NAMES = ("digits", "synthetic", *IMAGE_SETS, "folder:PATH", "store:PATH")


@dataclass(frozen=True)
class Features:
    """A labelled feature set cut in two.

    Attributes:
        train, test: (n, d) float arrays. ``train_labels``, ``test_labels``: (n,) positions in
            ``class_names``.
        class_names: (k,) names.
        name: what tables call it. ``space``: identity of the features (a backbone's fingerprint).
    """

    train: NDArray[Any]
    train_labels: NDArray[np.int64]
    test: NDArray[Any]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str
    space: str = ""


def features_of(
    name: str,
    *,
    backbone: str = "effnet-lite0",
    image_size: int = 128,
    data: Path | None = None,
    seed: int = 0,
    test_share: float = 0.25,
    per_class: tuple[int, int] | None = None,
    progress: bool = True,
) -> Features:
    """A data set as features, split into train and test.

    ``digits`` are the raw pixels of scikit-learn's digits; ``synthetic`` is a Gaussian mixture;
    image sets go through the backbone once and are kept in the cache; ``store:PATH`` is a
    folder of features. Sets without a test part of their own are split per class by ``seed``;
    of the others, both parts are taken as published.

    Args:
        name: one of :data:`NAMES`.
        backbone: registry name, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        data: folder of a set that is not fetched: all but openclipart and fashion-mnist.
        seed: seed of the split.
        test_share: share of each class that is tested on, where there is no test part.
        per_class: of fashion-mnist, so many training and test images of each class; None takes all.
        progress: show progress while features are extracted.

    Raises:
        InvalidSetting: an unknown name.
        MissingAsset: a set that is not there and cannot be fetched.
    """
    if name == "digits":
        rows, labels = digits()
        names = tuple(str(digit) for digit in range(10))
        return _split(rows, labels, names, name, "digits", seed, test_share)
    if name == "synthetic":
        rows, labels = synthetic(seed)
        names = tuple(str(label) for label in range(int(labels.max()) + 1))
        return _split(rows, labels, names, name, "synthetic", seed, test_share)
    if name.startswith("store:"):
        store = FeatureStore.open(Path(name.removeprefix("store:")))
        return _of_store(store, name, seed, test_share)
    # Decoding and backbones, only where they are needed.
    from lipogram.analytic.image_features import Part, stored

    if name in PARTED_SETS:
        cut = per_class or (None, None)
        parts: tuple[Part, Part] = ("train", "test")
        train, test = (
            stored(
                name,
                part,
                backbone=backbone,
                image_size=image_size,
                data=data,
                per_class=n,
                progress=progress,
            )
            for part, n in zip(parts, cut, strict=True)
        )
        return Features(
            train.features(),
            train.labels,
            test.features(),
            test.labels,
            tuple(train.class_names),
            name,
            train.backbone["fingerprint"],
        )
    if name in IMAGE_SETS or name.startswith("folder:"):
        store = stored(
            name, "all", backbone=backbone, image_size=image_size, data=data, progress=progress
        )
        return _of_store(store, name, seed, test_share)
    raise InvalidSetting(f"unknown data set {name!r}: use one of {', '.join(NAMES)}")


def synthetic(
    seed: int = 0, n_classes: int = 20, per_class: int = 150, width: int = 64
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A Gaussian mixture: (n_classes · per_class, width) rows and their labels."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((n_classes, width))
    labels = np.repeat(np.arange(n_classes), per_class)
    return means[labels] + 1.5 * rng.standard_normal((len(labels), width)), labels


def read_rows(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Features, labels and feature space of a file or folder that a person names.

    A FeatureStore folder, an ``.npz`` with ``X`` and perhaps ``y``, or a ``.csv`` whose last column
    is called ``label`` (it may be missing).

    Returns:
        rows (n, d), labels (n,) or None, identity of the features or "".

    Raises:
        FileNotFoundError: nothing there.
        InvalidFeatures, InvalidLabels: a file that holds no such table.
        CorruptState: a damaged store.
    """
    if path.is_dir():
        store = FeatureStore.open(path)
        names = np.asarray(store.class_names)
        return store.features(), names[store.labels], store.backbone["fingerprint"]
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as held:
                return held["X"], held["y"] if "y" in held else None, ""
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise InvalidFeatures(
                f"{path}: an .npz with a plain array X is needed ({error})"
            ) from None
    if path.suffix == ".csv":
        return _read_csv(path)
    raise InvalidFeatures(
        f"{path}: features come as a folder of extracted features, an .npz or a .csv"
    )


def check_space(head: str, rows: str, path: Path) -> None:
    """Raise IncompatibleFeatures unless a head and rows come from the same backbone."""
    if head != rows:
        raise IncompatibleFeatures(
            f"the head was made on features {head[:12] or 'without a name'}…, {path} holds "
            f"{rows[:12] or 'features without a name'}…: extract with the same backbone"
        )


def _read_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        head = next(lines, None)
        if not head:
            raise InvalidFeatures(f"{path} is empty: the first line names the columns")
        labelled = head[-1].strip().lower() == "label"
        width = len(head) - labelled
        rows, labels = [], []
        for number, line in enumerate(lines, start=2):
            if len(line) != len(head):
                raise InvalidFeatures(
                    f"{path}, line {number}: {len(line)} cells, the head has {len(head)}"
                )
            try:
                rows.append([float(cell) for cell in line[:width]])
            except ValueError as error:
                raise InvalidFeatures(f"{path}, line {number}: {error}") from None
            labels.append(line[-1])
    if not rows:
        raise InvalidFeatures(f"{path} has no row")
    return np.asarray(rows), _whole_numbers(labels) if labelled else None, ""


def _whole_numbers(labels: list[str]) -> NDArray[Any]:
    if not all(label.strip() for label in labels):
        raise InvalidLabels("a label is empty")
    try:
        return np.asarray([int(label) for label in labels])
    except ValueError:
        return np.asarray(labels)


def _of_store(store: FeatureStore, name: str, seed: int, test_share: float) -> Features:
    fingerprint = store.backbone["fingerprint"]
    names = tuple(store.class_names)
    return _split(store.features(), store.labels, names, name, fingerprint, seed, test_share)


def _split(
    rows: NDArray[Any],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    name: str,
    space: str,
    seed: int,
    test_share: float,
) -> Features:
    test = held_out(labels, test_share=test_share, seed=seed)
    return Features(rows[~test], labels[~test], rows[test], labels[test], names, name, space)
