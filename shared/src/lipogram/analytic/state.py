"""State on disk: one safetensors file with its description as JSON inside; a kill loses nothing.

The file is streamed tensor by tensor to a temporary file beside the target, synced and renamed, so
states larger than memory can be written and an interrupted save leaves the old file whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipogram import __version__
from lipogram.errors import CorruptState

SCHEMA = 1
_KEY = "lipogram"
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}


def write_state(
    path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
) -> Path:
    """Write tensors (float64, float32, int64 or uint8) and a JSON description, atomically.

    Returns:
        The path, once the file is on disk under its name.
    """
    target = Path(path)
    meaning = {"schema": SCHEMA, "version": __version__, **description}
    header: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(meaning, allow_nan=False)}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for tensor in tensors.values():
                file.write(tensor.detach().cpu().contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file that :func:`write_state` wrote.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: not such a file, truncated, of another schema, or holding NaN or infinity.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no state file {source}")
    try:
        with safe_open(source, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_KEY], parse_constant=_refuse)
            names = list(file.keys())
            for name in names:
                if file.get_slice(name).get_dtype() not in _DTYPES.values():
                    raise ValueError(name)
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, RecursionError) as error:
        raise CorruptState(
            f"{source} is no Lipogram state, or a damaged one ({type(error).__name__}): restore it "
            "from a copy or fit again"
        ) from None
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else None
        raise CorruptState(f"{source} has schema {found!r}, this version reads {SCHEMA}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptState(f"{source}: tensor {name!r} holds NaN or infinity")
    return tensors, description


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
