"""Backbones to train from scratch: ResNet-18 as the paper has it, and two that a laptop trains.

Each maps samples to features (b, d) with d in its attribute ``width``, after a ReLU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from lipogram.analytic.settings import one_of, whole

Stem = Literal["small", "small-pool", "imagenet"]


class ResidualNetwork(nn.Module):
    """A residual network (He et al., CVPR 2016) for small images, up to the average over places.

    Args:
        widths: channels of the stages; every stage after the first halves the resolution.
        blocks: basic blocks of each stage.
        channels: of the images.

    Attributes:
        width: d, the last of ``widths``.

    Raises:
        InvalidSetting: no stage, or a size below 1.
    """

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 64), *, blocks: int = 1, channels: int = 3
    ) -> None:
        super().__init__()
        whole("the number of stages", len(widths))
        sizes = [whole("a stage's width", each) for each in widths]
        whole("blocks", blocks)
        self.width = sizes[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(whole("channels", channels), sizes[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(sizes[0]),
            nn.ReLU(inplace=True),
        )
        stages = [_stage(sizes[0], sizes[0], blocks, stride=1)]
        stages += [_stage(a, b, blocks, stride=2) for a, b in pairwise(sizes)]
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features (b, width) of images (b, channels, h, w)."""
        features: Tensor = self.pool(self.stages(self.stem(images)))
        return features


class MultilayerPerceptron(nn.Module):
    """Rows (b, n) through layers with ReLU, the last included.

    Args:
        sizes: of the layers, the input first.

    Attributes:
        width: d, the last of ``sizes``.

    Raises:
        InvalidSetting: fewer than two sizes, or one below 1.
    """

    def __init__(self, sizes: tuple[int, ...] = (64, 256, 64)) -> None:
        super().__init__()
        whole("the number of sizes", len(sizes), least=2)
        layers: list[nn.Module] = []
        for a, b in pairwise([whole("a layer's size", each) for each in sizes]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.width = sizes[-1]

    def forward(self, rows: Tensor) -> Tensor:
        """Features (b, width); samples of more dimensions are flattened."""
        features: Tensor = self.layers(rows.flatten(1))
        return features


def resnet18(stem: Stem = "small", *, channels: int = 3) -> ResNet:
    """ResNet-18 without its classifier, 512 features, as the released code of DPCR builds it.

    Torchvision's own, so weights saved from there fit by name where the first layer is the same.

    Args:
        stem: ``"small"``, a convolution 3 × 3, for images of 32 or 64 pixels; ``"small-pool"``,
            that and a max-pooling of stride 2, for the authors' ImageNet runs; ``"imagenet"``, the
            original convolution 7 × 7 of stride 2, and pooling.
        channels: of the images.

    Raises:
        InvalidSetting: an unknown stem, or no channel.
    """
    one_of("stem", stem, get_args(Stem))
    whole("channels", channels)
    network = models.resnet18(weights=None)
    if stem != "imagenet":
        network.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if stem == "small":
        network.maxpool = nn.Identity()
    network.width, network.fc = network.fc.in_features, nn.Identity()
    return network


def small_resnet(width: int = 64, *, channels: int = 3) -> ResidualNetwork:
    """Three stages of one block, a quarter, half and all of ``width`` channels.

    Some 75,000 weights at width 64: images of 32 pixels train in minutes on two cores.

    Raises:
        InvalidSetting: a width below 4.
    """
    whole("width", width, least=4)
    return ResidualNetwork((width // 4, width // 2, width), blocks=1, channels=channels)


def mlp(*sizes: int) -> MultilayerPerceptron:
    """A perceptron of the given sizes; without any, 64-256-64 for scikit-learn's digits."""
    return MultilayerPerceptron(sizes or (64, 256, 64))


def _stage(a: int, b: int, blocks: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride > 1 or a != b:
        shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
    more = [BasicBlock(b, b) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(a, b, stride, shortcut), *more)
