"""The modules of a model, seen through what wraps them: PEFT, data parallelism, compilation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn


class Part(NamedTuple):
    """A module whose parameters belong to a group, or some of its outputs.

    Attributes:
        name: its path in the model; the same with and without an adapter around it.
        module: the module; a PEFT layer where there is one.
        outputs: indices of the output features that belong to the group; None for all of them.
    """

    name: str
    module: nn.Module
    outputs: Tensor | None = None


def unwrap(model: Any) -> Any:
    """The transformers model inside wrappers of PEFT, data parallelism and compilation."""
    while True:
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a PEFT layer around one of the model."""
    return hasattr(module, "enable_adapters") and (
        "base_layer" in module._modules or "original_module" in module._modules
    )


def unadapted(module: nn.Module) -> nn.Module:
    """The model's own module inside a PEFT layer; any other module itself."""
    while is_adapted(module):
        inner = module._modules.get("base_layer") or module._modules["original_module"]
        assert inner is not None
        module = inner
    return module


def n_inputs(module: nn.Module) -> int:
    """Width of the input of a linear module."""
    if is_conv1d(unadapted(module)):
        return int(unadapted(module).weight.shape[0])  # type: ignore[index]
    return int(module.in_features)  # type: ignore[arg-type]


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear module of GPT-2, whose weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D"


def is_packed(module: nn.Module) -> bool:
    """Whether it is a linear module without a weight, as quantisers that pack it leave it."""
    return hasattr(module, "in_features") and module._parameters.get("weight") is None


def submodule(module: nn.Module, path: str | None) -> nn.Module | None:
    """The module at a path; None where there is none."""
    for name in path.split(".") if path else []:
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            return None
        module = child
    return module if path else None


def path_of(model: nn.Module, part: nn.Module) -> str:
    """The path of a module in its model."""
    return next(name for name, module in model.named_modules() if module is part)


def owners(module: nn.Module, name: str = "") -> Iterator[Part]:
    """The modules with parameters of their own under a module; a PEFT layer counts as one."""
    inner = unadapted(module)
    if is_packed(inner) or any(p is not None for p in inner._parameters.values()):
        yield Part(name, module)
    for child_name, child in inner.named_children():
        yield from owners(child, f"{name}.{child_name}".lstrip("."))
