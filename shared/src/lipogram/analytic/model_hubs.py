"""Backbones from torchvision, timm and Hugging Face."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipogram.analytic.backbones import Backbone, parameter_hash
from lipogram.analytic.preparation import Preparation
from lipogram.errors import InvalidSetting, MissingAsset


def torchvision_backbone(
    model: str, *, image_size: int | None = None, device: str = "cpu"
) -> Backbone:
    """Torchvision's `model`, or `model@file`: what its last linear layer reads.

    Raises:
        InvalidSetting: no such model, no linear layer in it, an image size or a file that does not
            fit.
        MissingAsset: torchvision or the weights are not to be had.
    """
    models = _library("torchvision", "torchvision").models
    model, file = _split(model)
    if model not in models.list_models(module=models):
        raise _unknown("torchvision", model, models.list_models(module=models))
    weights = models.get_model_weights(model).DEFAULT
    network = models.get_model(model, weights=None)
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise InvalidSetting(f"torchvision:{model} ends in no linear layer, so it gives no vector")
    network.set_submodule(layers[-1], nn.Identity())
    state = (
        _weights(file)
        if file
        else _pretrained(
            "torchvision", model, lambda: weights.get_state_dict(progress=False, check_hash=True)
        )
    )
    _fill(network, state, heads=(layers[-1],), name=f"torchvision:{model}")
    preset = weights.transforms()
    size = image_size or preset.crop_size[0]
    preparation = Preparation(
        size,
        mean=_on_bytes(preset.mean),
        std=_on_bytes(preset.std),
        fit="crop",
        crop_share=preset.crop_size[0] / preset.resize_size[0],
        resample=preset.interpolation.name,
    )
    return _network_backbone(_name("torchvision", model, file), network, preparation, device)


def timm_backbone(model: str, *, image_size: int | None = None, device: str = "cpu") -> Backbone:
    """Timm's `model`, or `model@file`: its pooled features.

    Raises:
        InvalidSetting: no such model, an image size or a file that does not fit.
        MissingAsset: timm or the weights are not to be had.
    """
    timm = _library("timm", "timm")
    model, file = _split(model)
    if not timm.is_model(model):
        raise _unknown("timm", model, timm.list_models())

    def create() -> Any:
        return timm.create_model(model, pretrained=file is None, num_classes=0)

    network = create() if file else _pretrained("timm", model, create)
    config = timm.data.resolve_model_data_config(network)
    if file:
        named = network.pretrained_cfg.get("classifier") or ()
        heads = (named,) if isinstance(named, str) else tuple(named)
        _fill(network, _weights(file), heads=heads, name=f"timm:{model}")
    fit: Literal["squash", "crop"] = "squash" if config["crop_mode"] == "squash" else "crop"
    preparation = Preparation(
        image_size or config["input_size"][-1],
        mean=_on_bytes(config["mean"]),
        std=_on_bytes(config["std"]),
        fit=fit,
        crop_share=config["crop_pct"] if fit == "crop" else 1.0,
        resample=config["interpolation"].upper(),
    )
    return _network_backbone(_name("timm", model, file), network, preparation, device)


def hugging_face_backbone(
    model: str, *, image_size: int | None = None, device: str = "cpu"
) -> Backbone:
    """Vision model of the repository or the folder `model`, with its own image processor.

    The features are the image embedding of a two-tower model (CLIP, SigLIP), else the pooled output
    where the checkpoint holds all weights of the pooler, else the first token of a transformer or
    the mean over the positions of a convolutional network. Code from a repository is never run.

    Raises:
        InvalidSetting: no vision model, weights missing in the checkpoint, or an image size asked
            for, which the processor decides.
        MissingAsset: transformers or the files are not to be had.
    """
    transformers = _library("transformers", "transformers")
    name = f"hf:{model}"
    if image_size is not None:
        raise InvalidSetting(
            f"{name} takes the image size of its own processor; leave image_size out, "
            "or edit a local copy of preprocessor_config.json"
        )

    def load() -> tuple[Any, Any, dict[str, Any]]:
        processor = transformers.AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        network, report = transformers.AutoModel.from_pretrained(
            model, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
        )
        return processor, network, report

    processor, network, report = _pretrained("hf", model, load)
    pooled = not any("pooler" in key for key in report["missing_keys"])
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InvalidSetting(f"{name}: the checkpoint lacks {len(missing)} tensors: {missing[:3]}")
    network = network.eval().to(device)

    def extractor(batch: Tensor) -> Tensor:
        if hasattr(network, "get_image_features"):
            output = network.get_image_features(pixel_values=batch)
            if isinstance(output, Tensor):
                return output
        else:
            output = network(pixel_values=batch)
        if pooled and getattr(output, "pooler_output", None) is not None:
            return torch.as_tensor(output.pooler_output).flatten(1)
        hidden: Tensor = output.last_hidden_state
        return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, 0]

    def prepare(image: NDArray[np.uint8]) -> Tensor:
        values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return values.float()

    size = prepare(np.zeros((64, 64, 3), np.uint8)).shape[-1]
    kept = {
        key: value for key, value in network.state_dict().items() if pooled or "pooler" not in key
    }
    return Backbone(
        name,
        extractor,
        prepare,
        dim=_probe(name, extractor, size, device),
        image_size=size,
        parameters=parameter_hash(kept),
        transform=processor.to_json_string(),
        device=device,
    )


def _network_backbone(
    name: str, network: nn.Module, preparation: Preparation, device: str
) -> Backbone:
    network = network.eval().to(device)
    return Backbone(
        name,
        network,
        preparation,
        dim=_probe(name, network, preparation.image_size, device),
        image_size=preparation.image_size,
        parameters=parameter_hash(network.state_dict()),
        transform=repr(preparation),
        device=device,
    )


@torch.inference_mode()
def _probe(name: str, extractor: Any, size: int, device: str) -> int:
    """Features an image, found by trying one."""
    try:
        features = extractor(torch.zeros(1, 3, size, size, device=device))
    except Exception as error:  # each architecture refuses a size in its own way
        raise InvalidSetting(f"{name} cannot read an image of {size} pixels: {error}") from error
    if features.ndim != 2:
        raise InvalidSetting(f"{name} gives {tuple(features.shape)} for one image, not a vector")
    return int(features.shape[1])


def _library(module: str, distribution: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingAsset(
            f"this backbone needs {distribution}: pip install {distribution} ({error})"
        ) from error


def _pretrained(family: str, model: str, load: Any) -> Any:
    """What `load` brings; libraries report a missing network in a dozen ways."""
    try:
        return load()
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        local = "hf:FOLDER" if family == "hf" else f"{family}:{model}@FILE"
        raise MissingAsset(
            f"the weights of {family}:{model} are neither in the local cache nor could they be "
            f"downloaded ({type(error).__name__}: {said}). "
            f"Download them on a machine with a network and name them as {local}"
        ) from error


def _unknown(family: str, model: str, known: Iterable[str]) -> InvalidSetting:
    close = difflib.get_close_matches(model, list(known), n=5)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {family}'s list of models"
    return InvalidSetting(f"{family} has no model called {model!r}; {hint}")


def _split(model: str) -> tuple[str, Path | None]:
    model, _, file = model.partition("@")
    return model, Path(file) if file else None


def _name(family: str, model: str, file: Path | None) -> str:
    return f"{family}:{model}@{file.name}" if file else f"{family}:{model}"


def _weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a weight file; nothing in it is executed."""
    if not file.is_file():
        raise MissingAsset(f"there is no weight file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidSetting(
            f"{file} holds no plain tensors (.safetensors, or a .pth state dictionary): "
            f"{type(error).__name__}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InvalidSetting(f"{file} is no state dictionary: it must map names to tensors")
    return state


def _fill(
    network: nn.Module, state: dict[str, Tensor], *, heads: tuple[str, ...], name: str
) -> None:
    """Load `state` without its classifiers `heads` into `network`, or say what does not fit."""
    prefixes = tuple(f"{head}." for head in heads)
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise InvalidSetting(f"the weights do not fit {name}: {said[:300]}") from error


def _on_bytes(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = (255.0 * float(value) for value in values)
    return red, green, blue
