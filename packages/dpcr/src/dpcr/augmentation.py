"""Images as a network takes them: the crops, flips and colours of the paper, data set by data set.

As the authors' released code has them (DPCR, He et al., ICML 2025). Test images are never changed
at random. Every random choice is a function of (seed, epoch, image) and of nothing else: neither
the number of workers nor the order of a batch matters, and a resumed epoch is the same epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from dpcr.randomness import drawn_from
from lipogram.analytic.images import Images
from lipogram.analytic.settings import one_of, whole
from lipogram.errors import InvalidSetting

Transform = Callable[[Image.Image], Tensor]

CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = [128.0, 128.0, 128.0]


@dataclass(frozen=True)
class ImageRecipe:
    """How images of a data set are cut and coloured.

    Attributes:
        side: side of the square that a network sees, pixels.
        mean, std: per channel, of pixels in [0, 1].
        train: ``"pad and crop"`` by 4 pixels, for images that have that side already, or
            ``"crop and resize"`` of a random part.
        colours: also vary the brightness by a quarter and apply one of the CIFAR-10 policies of
            AutoAugment (Cubuk et al., CVPR 2019).
    """

    side: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    train: str = "crop and resize"
    colours: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidSetting for a side below 1, or an unknown way to train."""
        whole("side", self.side)
        one_of("train", self.train, ("crop and resize", "pad and crop"))

    def train_transform(self) -> Transform:
        """A Pillow image to (3, side, side) float32, changed at random."""
        steps: list[Any] = [
            transforms.RandomCrop(self.side, padding=4)
            if self.train == "pad and crop"
            else transforms.RandomResizedCrop(self.side),
            transforms.RandomHorizontalFlip(),
        ]
        if self.colours:
            policy = transforms.AutoAugmentPolicy.CIFAR10
            steps += [
                transforms.ColorJitter(brightness=63 / 255),
                transforms.AutoAugment(policy, fill=GREY),
            ]
        return self._as_rows(steps)

    def test_transform(self) -> Transform:
        """A Pillow image to (3, side, side) float32, always the same way.

        An image that is "pad and crop"-ped in training is taken as it is, or resized to the side;
        of others, the short side becomes 8/7 of the side, and the centre is cut out.
        """
        if self.train == "pad and crop":
            return self._as_rows([transforms.Resize((self.side, self.side))])
        return self._as_rows(
            [transforms.Resize(self.side * 8 // 7), transforms.CenterCrop(self.side)]
        )

    def _as_rows(self, steps: list[Any]) -> Transform:
        normal = transforms.Normalize(self.mean, self.std)
        chain: Transform = transforms.Compose([*steps, transforms.ToTensor(), normal])
        return chain


SMALL = ImageRecipe(32, CIFAR_MEAN, CIFAR_STD, "pad and crop", colours=True)
RECIPES = {
    "cifar10": SMALL,
    "cifar100": SMALL,
    "tinyimagenet": ImageRecipe(64, train="pad and crop"),
    "imagenet-100": ImageRecipe(224),
    "imagenet": ImageRecipe(224),
    "imagenet-r": ImageRecipe(224),
    "cub200": ImageRecipe(224),
}


def image_recipe(data_set: str) -> ImageRecipe:
    """The recipe of a data set by its name in :data:`lipogram.analytic.sources.IMAGE_SETS`.

    CIFAR-10 and ImageNet-R, which the paper does not use, are treated like their kin.

    Raises:
        InvalidSetting: a set without one.
    """
    if data_set not in RECIPES:
        raise InvalidSetting(
            f"there is no image recipe for {data_set!r}: those of {', '.join(RECIPES)} are known, "
            "others are described by ImageRecipe"
        )
    return RECIPES[data_set]


class ImageRows(Dataset[tuple[Tensor, int]]):
    """Some images of a collection, decoded when asked for and turned into a network's input.

    Attributes:
        images: the collection. ``indices``: (n,) which of its images.
        labels: (n,) int64, positions in the collection's class names, or those that were given.
        transform: a Pillow image to a tensor. ``seed``, ``epoch``: what its choices depend on.
    """

    def __init__(
        self,
        images: Images,
        transform: Transform,
        *,
        indices: Sequence[int] | NDArray[np.integer] | None = None,
        labels: Sequence[int] | NDArray[np.integer] | None = None,
        seed: int = 0,
    ) -> None:
        """Describe the rows; nothing is decoded.

        Args:
            images: a collection.
            transform: such as :meth:`ImageRecipe.train_transform`.
            indices: (n,) positions in the collection; None takes all.
            labels: (n,) in place of the collection's own.
            seed: of random choices, with the epoch and the image's position.

        Raises:
            InvalidSetting: a position outside the collection, labels of another number, or a
                negative seed.
        """
        every = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64)
        if every.ndim != 1 or (len(every) and not 0 <= every.min() <= every.max() < len(images)):
            raise InvalidSetting(
                f"indices must be one row of positions among the {len(images)} images of "
                f"{images.name}"
            )
        own = images.labels[every] if labels is None else np.asarray(labels, dtype=np.int64)
        if own.shape != every.shape:
            raise InvalidSetting(f"{len(every)} images of {images.name}, labels {own.shape}")
        self.images, self.transform = images, transform
        self.indices, self.labels = every, own
        self.seed, self.epoch = whole("seed", seed, least=0), 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Image and label; raises BrokenImage, which names the file, if it cannot be decoded."""
        index = int(self.indices[row])
        image = Image.fromarray(self.images.load(index))
        with drawn_from(self.seed, self.epoch, index):
            return self.transform(image), int(self.labels[row])

    def set_epoch(self, epoch: int) -> None:
        """Choose the random choices of an epoch; to be called before its loader starts.

        Raises:
            InvalidSetting: a negative epoch.
        """
        self.epoch = whole("epoch", epoch, least=0)
