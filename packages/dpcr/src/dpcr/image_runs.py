"""Runs on image sets in files: a ResNet-18, the paper's image transforms, its class order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from dpcr.augmentation import ImageRows, image_recipe
from dpcr.methods import METHODS
from dpcr.networks import Stem, resnet18
from dpcr.presets import Preset
from dpcr.pycil_config import PyCILConfig, legacy_class_order
from dpcr.study_data import StudyData, seeded
from dpcr.study_settings import Study
from dpcr.train_settings import TrainConfig
from lipogram.analytic.image_features import images_of
from lipogram.analytic.images import Images
from lipogram.errors import InvalidSetting

SMALL_IMAGES = ("cifar10", "cifar100", "tinyimagenet")


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """A stream of classes of an image set, and how a ResNet-18 learns it.

    Attributes:
        dataset: by its name in :data:`lipogram.analytic.sources.IMAGE_SETS`.
        init_cls, increment: classes of the first task and of each later one.
        stem: how the network begins, see :func:`dpcr.networks.resnet18`.
        pretrained: start from torchvision's ImageNet weights.
        train: how it is trained.
        options: of the classifiers: gamma, eps, prior, cip.
        seeds: of the runs.
        order: ``"legacy"``, the classes as numpy's legacy generator permutes them, or ``"sorted"``.
        order_seed: of that permutation; None takes each run's own.
    """

    dataset: str
    init_cls: int
    increment: int
    stem: Stem
    pretrained: bool
    train: TrainConfig
    options: dict[str, Any]
    seeds: tuple[int, ...]
    order: Literal["legacy", "sorted"] = "legacy"
    order_seed: int | None = None

    @classmethod
    def of_preset(cls, preset: Preset, seeds: Sequence[int]) -> ImageRun:
        """A preset as a run; ``order_seed`` of the preset holds for every seed."""
        return cls(
            dataset=preset.dataset,
            init_cls=preset.init_cls,
            increment=preset.increment,
            stem=preset.stem,
            pretrained=preset.pretrained,
            train=preset.train,
            options={
                "gamma": preset.gamma,
                "eps": preset.eps,
                "prior": preset.prior,
                "cip": preset.cip,
            },
            seeds=tuple(seeds),
            order_seed=preset.order_seed,
        )

    @classmethod
    def of_pycil(cls, found: PyCILConfig, seeds: Sequence[int] | None) -> ImageRun:
        """A settings file of PyCIL or PILOT as a run."""
        options: dict[str, Any] = {} if found.gamma is None else {"gamma": found.gamma}
        return cls(
            dataset=found.dataset,
            init_cls=found.init_cls,
            increment=found.increment,
            stem="small" if found.dataset in SMALL_IMAGES else "small-pool",
            pretrained=False,
            train=found.train,
            options=options,
            seeds=found.seeds if seeds is None else tuple(seeds),
            order="legacy" if found.shuffle else "sorted",
        )

    def study(self, n_classes: int, seed: int, methods: Sequence[str] = METHODS) -> Study:
        """The settings of one seed's study.

        Raises:
            InvalidSetting: more classes than there are, or methods that are none.
        """
        order_seed = seed if self.order_seed is None else self.order_seed
        known = {"eps", "prior", "cip"}
        options = dict(self.options)
        if not any(method == "dpcr" for method in methods):
            options = {name: value for name, value in options.items() if name not in known}
        return Study(
            data=f"{self.dataset}, ResNet-18",
            tasks=None,
            initial=0 if self.init_cls == self.increment else self.init_cls,
            increment=self.increment,
            order=legacy_class_order(n_classes, order_seed, self.order == "legacy"),
            methods=tuple(methods),
            options=options,
            seeds=(seed,),
            train=self.train,
        )

    def data(self, folder: Path | None, seed: int, *, resume_from: Path | None = None) -> StudyData:
        """Network and images.

        Args:
            folder: of the image set, where it is not fetched.
            seed: of what is drawn for an image.
            resume_from: safetensors file of a backbone that the first task starts from.

        Raises:
            InvalidSetting, MissingAsset, CorruptState: see there.
        """
        recipe = image_recipe(self.dataset)
        train, test = (images_of(self.dataset, part, folder) for part in ("train", "test"))
        if train.class_names != test.class_names:
            raise InvalidSetting(f"{self.dataset}: the two parts name other classes")
        return StudyData(
            f"{self.dataset}, ResNet-18",
            seeded(self._network(resume_from)),
            ImageRows(train, recipe.test_transform()),
            train.labels,
            ImageRows(test, recipe.test_transform()),
            test.labels,
            tuple(train.class_names),
            augmented=ImageRows(train, recipe.train_transform(), seed=seed),
        )

    def n_classes(self, folder: Path | None) -> int:
        """Classes of the image set."""
        images: Images = images_of(self.dataset, "train", folder)
        return len(np.unique(images.labels))

    def _network(self, resume_from: Path | None) -> Callable[[], nn.Module]:
        def made() -> nn.Module:
            network = resnet18(self.stem)
            if self.pretrained:
                from torchvision import models

                weights = models.ResNet18_Weights.DEFAULT.get_state_dict(check_hash=True)
                held = {name: value for name, value in weights.items() if name[:3] != "fc."}
                network.load_state_dict(held)
            if resume_from is not None:
                load_backbone(network, resume_from)
            return network

        return made


def load_backbone(network: nn.Module, path: Path) -> None:
    """Weights of a safetensors file into a network of the same names.

    Raises:
        FileNotFoundError: no such file.
        InvalidSetting: tensors of other names or shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise InvalidSetting(f"{path} does not fit the network: {error}") from None
