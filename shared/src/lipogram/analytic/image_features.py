"""Image sets through a backbone, once: the features stay in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lipogram.analytic import datasets
from lipogram.analytic.backbones import load_backbone
from lipogram.analytic.features import PATIENCE, FeatureStore, extract
from lipogram.analytic.images import Images
from lipogram.analytic.sources import IMAGE_SETS
from lipogram.assets import cache_folder
from lipogram.errors import InvalidSetting

Part = Literal["train", "test", "all"]
_READERS: dict[str, Callable[..., Images]] = {
    "cifar10": datasets.cifar10,
    "cifar100": datasets.cifar100,
    "tinyimagenet": datasets.tiny_imagenet,
    "imagenet-100": datasets.imagenet_100,
    "imagenet": datasets.imagenet,
    "imagenet-r": datasets.imagenet_r,
    "cub200": datasets.cub200,
}


def images_of(
    name: str, part: Part = "all", data: Path | None = None, per_class: int | None = None
) -> Images:
    """The images of a set by name; see :data:`lipogram.analytic.sources.NAMES`.

    Args:
        name: one of the image sets.
        part: of a set that comes in parts; there, "all" is the training part.
        data: folder of a set that is not fetched.
        per_class: of fashion-mnist, the first so many of each class.

    Raises:
        InvalidSetting: an unknown set, or one that needs ``data`` and got none.
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
    if name not in _READERS:
        raise InvalidSetting(f"unknown image set {name!r}: use one of {', '.join(IMAGE_SETS)}")
    if data is None:
        raise InvalidSetting(f"{name} is not fetched: name its folder with --data")
    return _READERS[name]("train" if part == "all" else part, folder=data)


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

    Where another process is extracting them, it is waited for.

    Raises:
        FolderInUse: it took more than an hour.
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
    return extract(model, images, folder, progress=progress, wait_seconds=PATIENCE)
