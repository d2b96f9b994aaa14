"""Settings files of PyCIL, LAMDA-PILOT and the released DPCR code, and the line they all print.

Zhou et al., "PyCIL: a Python toolbox for class-incremental learning" (2023). A key that is not
known is an error, since a misspelt one would silently leave a default in place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from dpcr.train_settings import TrainConfig
from lipogram.analytic.settings import flag, positive, whole
from lipogram.errors import InvalidSetting

DATA_SETS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tinyimagenet200": "tinyimagenet",
    "imagenet100": "imagenet-100",
    "imagenet1000": "imagenet",
    "imagenetr": "imagenet-r",
    "cub200": "cub200",
    "cub": "cub200",
}
METHODS = {"lwf": "lwf", "fetril": "fetril", "dpcr": "dpcr", "simplecil": "ncm"}
NETWORKS = ("resnet18",)
_NEEDED = ("dataset", "init_cls", "increment")
_TRAINING = {
    "init_epoch": "first_epochs",
    "init_epochs": "first_epochs",
    "init_lr": "first_lr",
    "init_milestones": "first_milestones",
    "init_lr_decay": "first_decay",
    "init_weight_decay": "first_weight_decay",
    "epochs": "epochs",
    "lrate": "lr",
    "milestones": "milestones",
    "lrate_decay": "decay",
    "weight_decay": "weight_decay",
    "batch_size": "batch_size",
    "num_workers": "workers",
    "T": "temperature",
    "lamda": "lam",
}
_KNOWN = (*_NEEDED, "seed", "shuffle", "device", "model_name", "rg", "rg_tssp", "DPCR")
_NETWORK = ("convnet_type", "backbone_type")
# What an exemplar-free run has no use for, or what this package does in its own way.
_WITHOUT_EFFECT = (
    "prefix",
    "memory_size",
    "memory_per_class",
    "fixed_memory",
    "cosine",
    "resume",
    "model_dir",
    "pretrained",
    "topk",
)


@dataclass(frozen=True, kw_only=True)
class PyCILConfig:
    """What such a file asks for.

    Attributes:
        dataset: name of the image set here.
        init_cls, increment: classes of the first task and of each later one.
        seeds: a run each; a seed also makes the class order where ``shuffle`` is set.
        shuffle: permute the classes, see :meth:`class_order`.
        network: architecture of the backbone.
        device: "cuda:0", "cpu" and so on; "auto" where the file names none.
        method: name of the method here; "dpcr" where the file has ``"DPCR": true``.
        gamma, eps: γ of the head and absolute ε of the shift map, None where the file has none.
        train: how the network is trained; what the file does not say is the authors' default.
        ignored: keys of the file that change nothing here, with their values.
    """

    dataset: str
    init_cls: int
    increment: int
    seeds: tuple[int, ...] = (1993,)
    shuffle: bool = True
    network: str = "resnet18"
    device: str = "auto"
    method: str = "dpcr"
    gamma: float | None = None
    eps: float | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    ignored: dict[str, Any] = field(default_factory=dict)

    def class_order(self, n_classes: int, seed: int | None = None) -> list[int]:
        """The classes in the order in which these toolboxes bring them.

        Args:
            n_classes: of the data set.
            seed: None takes the first of the file.
        """
        return legacy_class_order(n_classes, self.seeds[0] if seed is None else seed, self.shuffle)


def legacy_class_order(n_classes: int, seed: int = 1993, shuffle: bool = True) -> list[int]:
    """Classes 0 … n_classes − 1 as numpy's legacy generator permutes them, or in their order.

    The order of most class-incremental papers: ``numpy.random.seed(1993)``, then a permutation.
    """
    if not shuffle:
        return list(range(n_classes))
    order: list[int] = np.random.RandomState(seed).permutation(n_classes).tolist()
    return order


def read_pycil(path: Path | str) -> PyCILConfig:
    """Read a settings file.

    Raises:
        FileNotFoundError: there is none.
        InvalidSetting: no JSON object, an unknown key (the nearest known one is named), a missing
            one, or a value outside its range.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path} is no JSON file: {error}") from None
    if not isinstance(found, dict):
        raise InvalidSetting(f"{path} holds a {type(found).__name__}, settings are one JSON object")
    try:
        return pycil_config(found)
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error}") from None


def pycil_config(found: dict[str, Any]) -> PyCILConfig:
    """The settings of a JSON object, checked.

    Raises:
        InvalidSetting: see :func:`read_pycil`.
    """
    _check_keys(found)
    method = _choice("model_name", found.get("model_name", "dpcr"), METHODS)
    if flag("DPCR", found.get("DPCR", False)):
        method = "dpcr"
    network = next((found[name] for name in _NETWORK if name in found), "resnet18")
    return PyCILConfig(
        dataset=_choice("dataset", found["dataset"], DATA_SETS),
        init_cls=whole("init_cls", found["init_cls"]),
        increment=whole("increment", found["increment"]),
        seeds=_seeds(found.get("seed", 1993)),
        shuffle=flag("shuffle", found.get("shuffle", True)),
        network=_choice("convnet_type", network, {name: name for name in NETWORKS}),
        device=_device(found["device"]) if "device" in found else "auto",
        method=method,
        gamma=positive("rg", found["rg"]) if "rg" in found else None,
        eps=positive("rg_tssp", found["rg_tssp"]) if "rg_tssp" in found else None,
        train=TrainConfig(**{_TRAINING[k]: _listed(k, found[k]) for k in _TRAINING if k in found}),
        ignored={key: found[key] for key in _WITHOUT_EFFECT if key in found},
    )


def top1_curve(accuracies: Iterable[float]) -> str:
    """The line by which those toolboxes' logs are compared.

    Args:
        accuracies: after each task, over all classes so far, in [0, 1].

    Returns:
        ``CNN top1 curve: [90.1, 81.25]``: percentages with two decimals.

    Raises:
        InvalidSetting: a number outside [0, 1].
    """
    values = [round(100 * float(value), 2) for value in accuracies]
    if not all(0 <= value <= 100 for value in values):
        raise InvalidSetting(f"accuracies lie in [0, 1], these are {values} per cent")
    return f"CNN top1 curve: {values}"


def _check_keys(found: dict[str, Any]) -> None:
    known = (*_KNOWN, *_NETWORK, *_TRAINING, *_WITHOUT_EFFECT)
    unknown = []
    for key in found:
        if key not in known:
            near = get_close_matches(key, known, 1)
            unknown.append(f"{key!r}" + (f" (is {near[0]!r} meant?)" if near else ""))
    if unknown:
        raise InvalidSetting(f"unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise InvalidSetting(f"the file lacks {', '.join(missing)}")


def _choice(name: str, value: Any, known: dict[str, str]) -> str:
    if not isinstance(value, str) or value.lower() not in known:
        raise InvalidSetting(f"{name} is {value!r}, it must be one of {', '.join(known)}")
    return known[value.lower()]


def _seeds(value: Any) -> tuple[int, ...]:
    each = value if isinstance(value, list) else [value]
    if not each:
        raise InvalidSetting("seed is an empty list, it must name a seed for each run")
    return tuple(whole("seed", seed, least=0, most=2**32 - 1) for seed in each)


def _device(value: Any) -> str:
    """The first of the file's devices: its numbers are graphics cards, -1 is the CPU."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) and first.lstrip("-").isdecimal():
        first = int(first)
    if isinstance(first, str) and first.split(":")[0] in ("cpu", "cuda"):
        return first
    number = whole("device", first, least=-1)
    return "cpu" if number == -1 else f"cuda:{number}"


def _listed(name: str, value: Any) -> Any:
    """Milestones as a tuple; the rest is checked by the settings that it goes to."""
    if "milestones" not in name:
        return value
    if not isinstance(value, list):
        raise InvalidSetting(f"{name} is {value!r}, it must be a list of epochs")
    return tuple(value)
