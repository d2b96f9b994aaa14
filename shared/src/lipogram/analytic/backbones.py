"""Frozen feature extractors, by name."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipogram.analytic.preparation import Preparation
from lipogram.errors import InvalidFeatures, InvalidSetting

Extractor = Callable[[Tensor], Tensor]
Preparer = Callable[[NDArray[np.uint8]], Tensor]

NAMES = {
    "effnet-lite0": "EfficientNet-Lite0, ImageNet-1k weights from an asset, 1280 features",
    "pixels": "the resized image itself, 3 s^2 features in [0, 1]",
    "torchvision:NAME": "torchvision model with its default weights, before the last linear layer",
    "torchvision:NAME@FILE": "the same with weights from a .safetensors or .pth file",
    "timm:NAME": "timm model with its pretrained weights, pooled features",
    "timm:NAME@FILE": "the same with weights from a .safetensors or .pth file",
    "hf:ORG/MODEL": "vision model of a Hugging Face repository or of a local folder",
}


class Backbone:
    """A frozen map from images to feature vectors.

    Attributes:
        name: how it was asked for.
        dim: features an image.
        image_size: side s of the square it reads, pixels.
        fingerprint: SHA-256 of its parameters and of how it prepares an image; two backbones with
            one fingerprint give features of one space.
        transform: how it prepares an image, in words.
    """

    def __init__(
        self,
        name: str,
        extractor: Extractor,
        prepare: Preparer,
        *,
        dim: int,
        image_size: int,
        parameters: str,
        transform: str,
        device: str = "cpu",
    ) -> None:
        """Put together a backbone; `parameters` is the SHA-256 of what it has learnt."""
        self.name = name
        self.dim = dim
        self.image_size = image_size
        self.transform = transform
        self.fingerprint = hashlib.sha256(f"{parameters}\n{transform}".encode()).hexdigest()
        self.device = torch.device(device)
        self._extractor = extractor
        self._prepare = prepare

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """Float32 tensor (3, s, s) of an RGB image (h, w, 3)."""
        return self._prepare(image)

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """Float32 features (b, dim), on the CPU, of prepared images (b, 3, s, s).

        Raises:
            InvalidFeatures: the extractor gave another shape.
        """
        features = self._extractor(batch.to(self.device)).float().cpu()
        if features.shape != (len(batch), self.dim):
            raise InvalidFeatures(
                f"{self.name} gave features of shape {tuple(features.shape)} for {len(batch)} "
                f"images; it must be ({len(batch)}, {self.dim})"
            )
        return features


def load_backbone(name: str, *, image_size: int | None = None, device: str = "cpu") -> Backbone:
    """The backbone called `name`, in evaluation mode; `NAMES` lists the forms.

    Args:
        name: one of the forms in `NAMES`.
        image_size: side of the square that is read, pixels; None takes the model's own.
        device: where the network runs.

    Raises:
        InvalidSetting: no such form or model, an image size it cannot read, or a weight file that
            does not fit the model.
        MissingAsset: its weights, or the library that defines it, are not to be had.
    """
    from lipogram.analytic import model_hubs

    if image_size is not None and image_size < 1:
        raise InvalidSetting(f"image_size is {image_size}, it must be at least 1")
    family, _, model = name.partition(":")
    loaders: Mapping[str, Callable[..., Backbone]] = {
        "torchvision": model_hubs.torchvision_backbone,
        "timm": model_hubs.timm_backbone,
        "hf": model_hubs.hugging_face_backbone,
    }
    if family in loaders and model:
        return loaders[family](model, image_size=image_size, device=device)
    if name == "effnet-lite0":
        return _efficientnet_lite0(image_size or 224, device)
    if name == "pixels":
        return _pixels(image_size or 32, device)
    raise InvalidSetting(f"no backbone is called {name!r}; known: {', '.join(NAMES)}")


def wrap_backbone(
    function: Extractor,
    dim: int,
    name: str,
    *,
    image_size: int = 224,
    preparation: Preparation | None = None,
    device: str = "cpu",
) -> Backbone:
    """A backbone out of any callable from (b, 3, s, s) to (b, dim).

    Args:
        function: a module is put into evaluation mode and recognised by its parameters; any other
            callable is recognised by `name` alone, so give it a new name when it changes. `extract`
            calls it from several threads at a time.
        dim: features an image.
        name: what the backbone is called.
        image_size: side s of the images that `function` reads, where no preparation is given.
        preparation: how an image becomes a tensor; None squashes it to s x s with values in [0, 1].
        device: where `function` runs.
    """
    parameters = f"callable {name}"
    if isinstance(function, nn.Module):
        function = function.eval().to(device)
        parameters = parameter_hash(function.state_dict())
    preparation = preparation or Preparation(image_size)
    return Backbone(
        name,
        function,
        preparation,
        dim=dim,
        image_size=preparation.image_size,
        parameters=parameters,
        transform=repr(preparation),
        device=device,
    )


def parameter_hash(state: Mapping[str, Any]) -> str:
    """SHA-256 of the names, types, shapes and bytes of a module's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _efficientnet_lite0(image_size: int, device: str) -> Backbone:
    from lipogram import assets
    from lipogram.analytic.efficientnet_lite0 import FEATURES, EfficientNetLite0

    weights = torch.load(assets.get("efficientnet-lite0"), weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict(weights)
    network = network.eval().fold_batch_norm()
    # Depthwise convolutions run about twice as fast on a CPU with the channels innermost.
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def extractor(batch: Tensor) -> Tensor:
        features: Tensor = network.features(batch.contiguous(memory_format=torch.channels_last))
        return features

    preparation = Preparation(
        image_size, mean=(127.0,) * 3, std=(128.0,) * 3, fit="squash", resample="BICUBIC"
    )
    return Backbone(
        "effnet-lite0",
        extractor,
        preparation,
        dim=FEATURES,
        image_size=image_size,
        parameters=parameter_hash(weights),
        transform=repr(preparation),
        device=device,
    )


def _pixels(image_size: int, device: str) -> Backbone:
    def flat(batch: Tensor) -> Tensor:
        return batch.flatten(1)

    return wrap_backbone(flat, 3 * image_size**2, "pixels", image_size=image_size, device=device)
