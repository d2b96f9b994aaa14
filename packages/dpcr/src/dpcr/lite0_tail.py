"""The last stages of EfficientNet-Lite0 as a network to train, on maps that the first ones made.

Training the whole network takes an accelerator. Here its first eleven blocks stay as ImageNet left
them and are run once over each image; what is trained are the blocks after them, a quarter of the
work an image, so that features drift for real on a laptop.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipogram.analytic.backbones import Backbone, parameter_hash
from lipogram.analytic.efficientnet_lite0 import FEATURES, EfficientNetLite0
from lipogram.analytic.features import extract
from lipogram.analytic.images import Images
from lipogram.analytic.preparation import Preparation
from lipogram.assets import cache_folder, get

CUT = 11  # blocks that are not trained
CHANNELS = 112  # of their output, at a sixteenth of the image's side
BATCH_NORM_MOMENTUM = 0.1  # the published 0.01 needs thousands of steps to follow


class Lite0Tail(nn.Module):
    """Blocks 12 to 16 and the last convolution, from ImageNet's weights.

    Attributes:
        width: features an image, 1280.
    """

    width = FEATURES

    def __init__(self) -> None:
        super().__init__()
        network = _published()
        self.blocks = nn.Sequential(*network._blocks[CUT:])
        self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM

    def forward(self, x: Tensor) -> Tensor:
        """Features (b, 1280) of maps (b, 112, s, s), or of pairs of views (b, 2, 112, s, s).

        Of a pair the first view counts: the image as it is, its mirror image second.
        """
        if x.ndim == 5:
            x = x[:, 0]
        # Depthwise convolutions run about twice as fast on a CPU with the channels innermost.
        maps = self.blocks(x.float().contiguous(memory_format=torch.channels_last))
        features: Tensor = self.head(maps).mean(dim=(2, 3))
        return features


def one_view(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """One of the two views of each image at random: (b, 2, …) to (b, …)."""
    mirrored = torch.randint(2, (len(pairs),), generator=generator)
    return pairs[torch.arange(len(pairs)), mirrored.to(pairs.device)]


@dataclass(frozen=True, eq=False)
class Maps:
    """Images behind the first blocks.

    Attributes:
        views: (n, 2, 112, s, s) float16, each image and its mirror image.
        labels: (n,) positions in ``class_names``.
    """

    views: Tensor
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def maps_of(images: Images, *, image_size: int = 96, progress: bool = True) -> Maps:
    """Maps of an image collection, made now or found in the cache.

    Args:
        images: decoded one at a time; those that cannot be are left out.
        image_size: side in pixels to which an image is squashed; the maps' side s is a sixteenth.
        progress: show a bar, where standard error is a terminal.
    """
    side = -(-image_size // 16)
    backbone = _first_blocks(image_size, side)
    key = hashlib.sha256(f"{images.fingerprint} {backbone.fingerprint}".encode()).hexdigest()[:16]
    plain = "".join(c if c.isalnum() else "-" for c in images.name)
    folder = cache_folder() / "features" / f"{plain}-maps-{key}"
    store = extract(backbone, images, folder, dtype="float16", progress=progress)
    views = torch.from_numpy(store.features()).half()
    return Maps(views.reshape(-1, 2, CHANNELS, side, side), store.labels, tuple(store.class_names))


def _first_blocks(image_size: int, side: int) -> Backbone:
    network = _published()
    first = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(), *network._blocks[:CUT])
    first = first.eval().to(memory_format=torch.channels_last)
    preparation = Preparation(
        image_size, mean=(127.0,) * 3, std=(128.0,) * 3, fit="squash", resample="BICUBIC"
    )

    def extractor(batch: Tensor) -> Tensor:
        views = [batch, batch.flip(3)]
        maps = [first(view.contiguous(memory_format=torch.channels_last)) for view in views]
        return torch.stack(maps, 1).flatten(1)

    return Backbone(
        f"effnet-lite0, {CUT} blocks",
        extractor,
        preparation,
        dim=2 * CHANNELS * side * side,
        image_size=image_size,
        parameters=parameter_hash(first.state_dict()),
        transform=f"{preparation!r}, and its mirror image",
    )


def _published() -> Any:
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(get("efficientnet-lite0"), weights_only=True))
    return network
