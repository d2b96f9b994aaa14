"""Hooks on the sites of a model: read an activation, or give another in its place.

Hooks never write into an activation. They see it as [b, t, width], also where the model itself
works on flattened rows.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import Architecture

Place = tuple[str, int]
Change = Callable[[Tensor], Tensor | None]


@contextmanager
def hooked(architecture: Architecture, changes: Mapping[Place, Change]) -> Iterator[None]:
    """Runs `changes` at their places in every forward pass inside the `with`.

    Hooks at one place run in the order in which they were entered. A compiled model runs uncompiled
    meanwhile, since compiled code does not see hooks that were added later.

    Args:
        architecture: of the model.
        changes: for each (site, layer) a function of the activation [b, t, width] that returns
            another of that shape, or None to leave it.

    Raises:
        InvalidSetting, UnsupportedArchitecture: a place that is not there; no hook is left behind.
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for (site, layer), change in changes.items():
            module, side = architecture.module(site, layer)
            if architecture.layout.flat and site.startswith("mlp"):
                change = _unflattened(architecture.block(layer), change, stack)
            if side == "input":
                handle = module.register_forward_pre_hook(_on_input(change), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_on_output(change))
            stack.callback(handle.remove)
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside the `with`, everything that was compiled runs as plain PyTorch."""
    if "torch._dynamo" not in sys.modules:  # nothing was; importing it here would take a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The activation among the arguments of a block, a half of one or a matrix."""
    value: Tensor = args[0] if args else kwargs["hidden_states"]
    return value


def with_first_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with another activation."""
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": value}


def _on_input(change: Change) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = change(first_input(args, kwargs))
        return None if value is None else with_first_input(args, kwargs, value)

    return hook


def _on_output(change: Change) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        value = change(output[0])  # a tuple with attention weights or a cache after it
        return None if value is None else (value, *output[1:])

    return hook


def _unflattened(block: nn.Module, change: Change, stack: ExitStack) -> Change:
    """The change for an activation that may come as [b·t, width]."""
    shape: list[torch.Size] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = [first_input(args, kwargs).shape[:2]]

    stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)

    def unflattened(activation: Tensor) -> Tensor | None:
        if activation.ndim != 2:
            return change(activation)
        value = change(activation.view(*shape[0], -1))
        return None if value is None else value.flatten(0, 1)

    return unflattened


def check_mask(positions: Tensor | None) -> None:
    """Refuses positions that are not a bool mask.

    Raises:
        InvalidSetting: naming the dtype.
    """
    if positions is not None and positions.dtype != torch.bool:
        raise InvalidSetting(f"positions must be a bool mask [b, t], got {positions.dtype}")


def check_positions(positions: Tensor | None, activation: Tensor, place: Place) -> None:
    """Refuses a mask that does not fit an activation [b, t, width].

    Raises:
        PatchMismatch: naming site, layer and both shapes.
    """
    if positions is not None and positions.shape != activation.shape[:2]:
        raise PatchMismatch(
            f"positions at {place[0]}, layer {place[1]}, have shape {list(positions.shape)}; the "
            f"activation has {list(activation.shape[:2])} rows and tokens"
        )
