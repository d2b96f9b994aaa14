"""Which floating-point type a model is loaded in."""

import time
from functools import cache

import torch

from lipogram.errors import InvalidSetting

LARGE = 1_000_000_000
"""Parameters from which a float32 checkpoint is halved on an accelerator."""

_CLEARLY = 0.8  # of the time, or noise would choose


def resolve_dtype(
    name: str | torch.dtype, device: torch.device, *, stored: str | None, parameters: int | None
) -> torch.dtype:
    """The type for a model.

    Args:
        name: a torch type or its name; "auto": float32 on a CPU, what is stored elsewhere, but
            bfloat16 for float32 of 10⁹ parameters or more on CUDA and float32 on MPS; "fast":
            bfloat16 where this CPU multiplies it clearly faster than float32, else as "auto".
        device: where the model goes.
        stored: type of the checkpoint.
        parameters: their number.

    Raises:
        InvalidSetting: no floating-point type of torch.
    """
    if isinstance(name, torch.dtype):
        return name
    if name in ("auto", "fast"):
        if device.type == "cpu":
            return fast_dtype() if name == "fast" else torch.float32
        held = getattr(torch, stored or "float32")
        large = (parameters or 0) >= LARGE
        if device.type == "cuda":
            return torch.bfloat16 if held == torch.float32 and large else held
        return torch.float32
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidSetting(f"dtype {name!r} is neither auto, fast nor a floating-point type")
    return found


@cache
def fast_dtype() -> torch.dtype:
    """bfloat16 if this CPU multiplies it clearly faster than float32, else float32.

    Timed once per process, on a product of the size of a small model's; a few hundredths of a
    second.
    """
    with torch.inference_mode():
        faster = _time(torch.bfloat16) < _CLEARLY * _time(torch.float32)
    return torch.bfloat16 if faster else torch.float32


def _time(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return best
