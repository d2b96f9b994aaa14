"""Feature rows as they come in: numpy, torch or lists, any float width, checked first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidFeatures, InvalidSetting

# With the largest weight, the gain of a feature map and a hundred million rows, the sum of
# squares is still a float64.
LARGEST = 1e100
LARGEST_WEIGHT = 1e80


def as_rows(
    features: Any, width: int, *, device: torch.device | str = "cpu", check_finite: bool = True
) -> Tensor:
    """Features as a float32 or float64 tensor (n, width) on a device.

    float16 and bfloat16 become float32, integers float64. The result may share memory with the
    input.

    Raises:
        InvalidFeatures: another shape, a dtype that is no number, NaN, infinity, or a magnitude
            above 1e100; the first bad row is named.
    """
    tensor = features.detach() if isinstance(features, Tensor) else _from_array(features)
    if tensor.is_complex():
        raise InvalidFeatures("Complex data not supported: features are complex numbers")
    if tensor.layout != torch.strided:
        raise InvalidFeatures(f"features are a tensor of layout {tensor.layout}: make them dense")
    if tensor.ndim != 2 or tensor.shape[1] != width:
        raise InvalidFeatures(
            f"features have shape {tuple(tensor.shape)}, these statistics take (n, {width})"
        )
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    elif tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.double()
    tensor = tensor.to(device)
    if check_finite and tensor.numel():
        _check_values(tensor)
    return tensor


def as_weights(weights: Any, n: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Sample weights as a float64 tensor (n,), or None for none.

    Raises:
        InvalidSetting: another length, no numbers, or a weight that is negative, not finite or
            above 1e80; the first bad one is named.
    """
    if weights is None:
        return None
    if isinstance(weights, Tensor):
        given = weights.detach()
    else:
        array = np.asarray(weights)
        if array.dtype.kind not in "biuf":
            raise InvalidSetting(f"sample_weight holds {array.dtype}, it must be real numbers")
        given = torch.from_numpy(array.astype(np.float64))
    tensor = given.to(device, torch.float64, copy=True)
    if tensor.shape != (n,):
        raise InvalidSetting(f"sample_weight has shape {tuple(tensor.shape)}, there are {n} rows")
    bad = torch.nonzero(~((tensor >= 0) & (tensor <= LARGEST_WEIGHT)))
    if bad.numel():
        row = int(bad[0])
        raise InvalidSetting(
            f"sample_weight {float(tensor[row])} in row {row} must be 0 or more, finite and at "
            f"most {LARGEST_WEIGHT:g}"
        )
    return tensor


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Let a Ctrl-C wait until the block is done, so that no batch is committed by half.

    Yields:
        The interrupts that wait: a long block looks at them to end early.
    """
    waiting: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield waiting
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def _from_array(features: Any) -> Tensor:
    try:
        array = np.asarray(features)
        if array.dtype.kind == "c":
            return torch.from_numpy(array.astype(np.complex64))  # refused by the caller
        if array.dtype.kind not in "biufO":
            raise InvalidFeatures(f"features are no numbers: they hold {array.dtype}")
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidFeatures):
            raise
        raise InvalidFeatures(f"features are no numbers: {error}") from None
    width = np.float32 if array.dtype.itemsize <= 4 else np.float64
    with np.errstate(over="ignore"):  # a longer float that overflows is named as infinity
        # torch takes neither foreign byte orders nor read-only memory; a copy is both's remedy.
        array = array.astype(width, order="C", copy=not array.flags.writeable)
    return torch.from_numpy(array)


def _check_values(tensor: Tensor) -> None:
    # One pass without a copy; NaN makes both bounds NaN, and every comparison with it is false.
    # The bounds are compared as Python floats: torch would round LARGEST to float32 infinity.
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    if -LARGEST <= low and high <= LARGEST:
        return
    finite = torch.isfinite(tensor).all(1)
    if not bool(finite.all()):
        row = int(torch.nonzero(~finite)[0])
        kind = "NaN" if bool(torch.isnan(tensor[row]).any()) else "infinity"
        raise InvalidFeatures(f"features hold {kind} in row {row}")
    row = int(torch.nonzero(tensor.abs().amax(1) > LARGEST)[0])
    raise InvalidFeatures(f"features in row {row} exceed {LARGEST:g}: their squares overflow")
