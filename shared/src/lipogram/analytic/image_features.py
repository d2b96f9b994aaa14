"""Image sets through a backbone, once: the features stay in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from lipogram.analytic import datasets
from lipogram.analytic.backbones import load_backbone
from lipogram.analytic.features import FeatureStore, extract
from lipogram.analytic.images import Images
from lipogram.assets import cache_folder
from lipogram.errors import InvalidSetting

Part = Literal["train", "test", "all"]


def images_of(
    name: str, part: Part = "all", data: Path | None = None, per_class: int | None = None
) -> Images:
    """The images of a set by name; see :data:`lipogram.analytic.sources.NAMES`.

    Args:
        name: one of the image sets.
        part: of a set that is published in parts.
        data: folder of a set that is not fetched.
        per_class: of fashion-mnist, the first so many of each class.

    Raises:
        InvalidSetting: a set that needs ``data`` and got none.
        MissingAsset: a set that is not there and cannot be fetched.
    """
    if name == "openclipart":
        return datasets.openclipart(folder=data)
    if name == "fashion-mnist":
        return datasets.fashion_mnist(
            "train" if part == "all" else part, folder=data, per_class=per_class
        )
    if name.startswith("folder:"):
        return datasets.folder(Path(name.removeprefix("folder:")))
    if data is None:
        raise InvalidSetting(f"{name} is not fetched: name its folder with --data")
    if name in ("cifar10", "cifar100"):
        return getattr(datasets, name)(data, "train" if part == "all" else part)
    return datasets.folder(data)


def stored(
    name: str,
    part: Part,
    *,
    backbone: str,
    image_size: int,
    data: Path | None,
    per_class: int | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Features of a set, extracted now or found in the cache.

    Raises:
        IncompatibleFeatures: a cached folder that another backbone or image set made.
    """
    images = images_of(name, part, data, per_class)
    model = load_backbone(backbone, image_size=image_size)
    where = "" if data is None else str(data.resolve())
    key = hashlib.sha256(
        f"{name} {part} {where} {per_class or ''} {model.fingerprint}".encode()
    ).hexdigest()[:16]
    plain_name = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    folder = cache_folder() / "features" / f"{plain_name}-{part}-{key}"
    return extract(model, images, folder, progress=progress)
