"""Activations replaced, added to or scaled during a forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import describe
from lipogram.llm.hooks import Change, Place, check_mask, check_positions, hooked

Mode = Literal["replace", "add", "scale"]
Patch = Tensor | Callable[[Tensor], Tensor]


@contextmanager
def patch(
    model: Any,
    patches: Mapping[tuple[str, int], Patch],
    *,
    positions: Tensor | None = None,
    mode: Mode = "replace",
) -> Iterator[None]:
    """Changes activations in the forward passes inside the `with`.

    With activation a [b, t, width] and value v, the model goes on with v ("replace"), a + v ("add")
    or a·v ("scale"), where `positions` is true, and with a elsewhere. v is moved to a's device and
    dtype. Gradients flow into v. Patches compose in the order in which they were entered.

    Args:
        model: a causal language model, also inside PEFT (the site is then the adapted module's) or
            compiled (it runs uncompiled inside the `with`).
        patches: for each (site, layer) a value or a function of a that returns one. A value has a's
            shape, or is a vector [width], a scalar, or (with `positions`) has one row a chosen
            token, as `record` with the same positions gives. For "add" and "scale" anything
            that broadcasts to a will do.
        positions: bool [b, t].
        mode: what is done with the value.

    Raises:
        InvalidSetting: an unknown site, layer or mode, or positions that are no bool mask.
        UnsupportedArchitecture: a model that cannot be described, or a site it does not have.
        PatchMismatch: in the forward pass, a value or `positions` that do not fit.
    """
    if mode not in ("replace", "add", "scale"):
        raise InvalidSetting(f"mode {mode!r}: replace, add or scale")
    check_mask(positions)
    changes: dict[Place, Change] = {
        place: partial(_patched, place, value, positions, mode) for place, value in patches.items()
    }
    with hooked(describe(model), changes):
        yield


def _patched(
    place: Place, patch: Patch, positions: Tensor | None, mode: Mode, activation: Tensor
) -> Tensor:
    check_positions(positions, activation, place)
    value = patch if isinstance(patch, Tensor) else patch(activation)
    value = value.to(device=activation.device, dtype=activation.dtype)
    if value.is_inference() and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        value = value.clone()  # an inference tensor cannot be part of a graph
    if positions is not None:
        positions = positions.to(activation.device).unsqueeze(-1)
    value = _fitted(place, value, positions, mode, activation)
    if mode == "add":
        value = activation + value
    elif mode == "scale":
        value = activation * value
    if positions is not None:
        return torch.where(positions, value, activation)
    return value if value.shape == activation.shape else value.expand_as(activation).contiguous()


def _fitted(
    place: Place, value: Tensor, positions: Tensor | None, mode: Mode, activation: Tensor
) -> Tensor:
    """The value in a shape that broadcasts to the activation."""
    width = activation.shape[-1]
    if value.shape == activation.shape or value.shape in ((), (width,)):
        return value
    if positions is not None and value.shape == (int(positions.sum()), width):
        rows = positions.expand_as(activation)
        return torch.zeros_like(activation).masked_scatter(rows, value)
    if mode != "replace":
        sizes = zip(reversed(value.shape), reversed(activation.shape), strict=False)
        if value.ndim <= activation.ndim and all(size in (1, full) for size, full in sizes):
            return value
    raise PatchMismatch(
        f"the value for {place[0]}, layer {place[1]}, has shape {list(value.shape)}; the "
        f"activation has shape {list(activation.shape)}"
    )
