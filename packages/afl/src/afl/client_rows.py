"""The rows of one client, from whatever a person names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.datasets import digits
from lipogram.analytic.labels import Label
from lipogram.analytic.sources import read_rows
from lipogram.errors import InvalidLabels, InvalidSetting


def labelled_rows(
    name: str, *, backbone: str = "effnet-lite0", image_size: int = 96, progress: bool = True
) -> tuple[NDArray[Any], NDArray[Any], str]:
    """Rows (n, d), labels (n,) and the identity of the features.

    Args:
        name: a folder with one sub-folder of images a class, a folder of extracted features, an
            ``.npz`` with ``X`` and ``y``, a ``.csv`` with a column ``label``, or ``digits``.
        backbone: for images, see :func:`lipogram.analytic.load_backbone`.
        image_size: for images, side in pixels.
        progress: show progress while features are extracted.

    Raises:
        FileNotFoundError: nothing there.
        InvalidFeatures, InvalidLabels: a file that holds no labelled rows.
        MissingAsset: a backbone that cannot be had.
    """
    path = Path(name)
    if name == "digits":
        rows, labels = digits()
        return rows, labels, "digits"
    if path.is_dir() and not (path / "index.json").exists():
        from lipogram.analytic.image_features import stored

        store = stored(
            f"folder:{path}",
            "all",
            backbone=backbone,
            image_size=image_size,
            data=None,
            progress=progress,
        )
        names = np.asarray(store.class_names)
        return store.features(), names[store.labels], store.backbone["fingerprint"]
    rows, known, space = read_rows(path)
    if known is None:
        raise InvalidLabels(
            f"{path} has no labels: an .npz needs y, a .csv a last column called label"
        )
    return rows, known, space


def public_labels(text: str | None, like: Sequence[Label]) -> list[Label]:
    """Labels that a person listed by commas, of the kind that the data have.

    Raises:
        InvalidSetting: no list, or words where the labels are whole numbers.
    """
    if text is None:
        raise InvalidSetting("with --epsilon, name the labels by --classes: which occur is private")
    words = [word.strip() for word in text.split(",")]
    if not like or isinstance(like[0], str):
        return list(words)
    try:
        return [int(word) for word in words]
    except ValueError:
        raise InvalidSetting(f"classes {text!r}: the labels are whole numbers") from None
