"""Real drawings and garments to study drift on, with a network whose last stages are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dpcr.lite0_tail import Lite0Tail, Maps, maps_of, one_view
from dpcr.networks import mlp
from dpcr.study_data import StudyData, digits_data, seeded
from dpcr.study_settings import Study
from dpcr.train_settings import TrainConfig
from lipogram.analytic import datasets
from lipogram.analytic.sources import held_out
from lipogram.errors import InvalidSetting

SETS = ("openclipart", "fashion-mnist", "digits")
METHODS = (
    "dpcr",
    "dpcr, not widened",
    "dpcr, published",
    "lwf",
    "stale",
    "ncm",
    "ncm+shift",
    "ncm+shift, our map",
    "fetril",
    "frozen",
    "oracle",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "dpcr, not widened": {"method": "dpcr", "widen": False},
    "dpcr, published": {"method": "dpcr-published"},
    "ncm+shift, our map": {"method": "ncm+shift", "eps": "classes", "prior": "auto"},
}
# γ of all heads, chosen among 200, 2000 and 10000 on seeds 0 to 2.
RIDGE = {"openclipart": 2000.0, "fashion-mnist": 2000.0, "digits": 1.0}
# A head that starts at scale 16 learns in epochs what one that starts at 1 learns in hundreds.
LITE0_TRAINING = TrainConfig(
    first_epochs=6,
    first_lr=0.02,
    epochs=6,
    lr=0.01,
    weight_decay=5e-4,
    batch_size=64,
    lam=10.0,
    head_scale=16.0,
    schedule="cosine",
)
DIGITS_TRAINING = TrainConfig(
    first_epochs=40,
    first_lr=0.05,
    epochs=40,
    lr=0.02,
    weight_decay=0.0,
    first_weight_decay=0.0,
    batch_size=32,
    schedule="cosine",
)


def study_of(
    name: str, *, seeds: tuple[int, ...] = (0,), methods: tuple[str, ...] = METHODS
) -> Study:
    """The settings of a study of one of :data:`SETS`.

    openclipart brings four of its 44 classes a task, Fashion-MNIST and the digits two of ten.

    Raises:
        InvalidSetting: another name, or methods that are none.
    """
    if name not in SETS:
        raise InvalidSetting(f"data set {name!r} is none of {', '.join(SETS)}")
    digits = name == "digits"
    return Study(
        data=name if digits else f"{name}, last stages of EfficientNet-Lite0",
        tasks=11 if name == "openclipart" else 5,
        methods=methods,
        variants={method: VARIANTS[method] for method in methods if method in VARIANTS},
        options={"gamma": RIDGE[name]},
        seeds=seeds,
        train=DIGITS_TRAINING if digits else LITE0_TRAINING,
    )


def data_of(
    name: str, *, per_class: int = 150, image_size: int = 96, progress: bool = True
) -> Callable[[int], StudyData]:
    """Network and samples of one of :data:`SETS`, as a function of the seed of the split.

    Args:
        name: of the set.
        per_class: of Fashion-MNIST, the first so many training images of each class; a hundred of
            each are tested.
        image_size: side in pixels to which images are squashed.
        progress: show a bar while images are read, where standard error is a terminal.

    Raises:
        InvalidSetting: another name.
        MissingAsset: images or weights are not there and cannot be fetched.
    """
    if name == "digits":
        return lambda seed: digits_data(seeded(mlp), seed)
    if name == "fashion-mnist":
        garments = datasets.fashion_mnist("train", per_class=per_class)
        train = maps_of(garments, image_size=image_size, progress=progress)
        others = datasets.fashion_mnist("test", per_class=100)
        test = maps_of(others, image_size=image_size, progress=progress)
        return lambda seed: _data(name, train, test)
    if name == "openclipart":
        maps = maps_of(datasets.openclipart(), image_size=image_size, progress=progress)

        def parted(seed: int) -> StudyData:
            tested = held_out(maps.labels, test_share=0.25, seed=seed)
            return _data(name, _part(maps, ~tested), _part(maps, tested))

        return parted
    raise InvalidSetting(f"data set {name!r} is none of {', '.join(SETS)}")


def _part(maps: Maps, rows: np.ndarray) -> Maps:
    return Maps(maps.views[np.flatnonzero(rows)], maps.labels[rows], maps.class_names)


def _data(name: str, train: Maps, test: Maps) -> StudyData:
    return StudyData(
        f"{name}, last stages of EfficientNet-Lite0",
        seeded(Lite0Tail),
        train.views[:, 0].float(),
        train.labels,
        test.views[:, 0].float(),
        test.labels,
        train.class_names,
        augmented=train.views,
        augment=one_view,
    )
