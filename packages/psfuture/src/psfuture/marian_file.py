"""Reader of Marian's binary model files, as Bergamot and Firefox use them.

Layout (little-endian): u64 version = 1, u64 n; n headers of four u64 (length of the name, type,
number of dimensions, length of the data); NUL-ended names; int32 shapes; u64 padding and as many
bytes; data blocks back to back. int8 matrices hold rows x cols bytes, then one float32 multiplier m:
a weight is q / m. Each but `Wemb` is stored transposed.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import numpy as np
import torch

from lipogram.errors import CorruptState

FLOAT32, INT8 = 0x404, 0x4101
MOST_TENSORS, MOST_DIMENSIONS, LONGEST_NAME = 100_000, 8, 4096


def read_marian(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights by name, dequantised to float32, and the options of `special:model.yml`.

    Nothing is allocated beyond the file's own size times four.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: truncated, of another version or type, or with sizes that do not fit the file.
    """
    content = path.read_bytes()
    reader = _Reader(content, path)
    if reader.u64() != 1:
        raise CorruptState(f"{path} is not a Marian binary model of version 1")
    count = reader.u64()
    if count > MOST_TENSORS:
        raise CorruptState(f"{path} claims {count} tensors")
    headers = [(reader.u64(), reader.u64(), reader.u64(), reader.u64()) for _ in range(count)]
    names = []
    for length, *_ in headers:
        if not 0 < length <= LONGEST_NAME:
            raise CorruptState(f"{path} has a name of {length} bytes")
        names.append(reader.take(length).rstrip(b"\0").decode("utf-8", "replace"))
    shapes = []
    for name, (_, _, dimensions, _) in zip(names, headers, strict=True):
        if dimensions > MOST_DIMENSIONS:
            raise CorruptState(f"{path}: {name} claims {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}i", reader.take(4 * dimensions))
        if any(side < 0 for side in shape):
            raise CorruptState(f"{path}: {name} has the shape {shape}")
        shapes.append(shape)
    reader.take(reader.u64())
    weights: dict[str, torch.Tensor] = {}
    options: dict[str, str] = {}
    for name, shape, (_, kind, _, length) in zip(names, shapes, headers, strict=True):
        block = reader.take(length)
        if name == "special:model.yml":
            options = _options(block)
        else:
            weights[name] = _tensor(path, name, shape, kind, block)
    return weights, options


class _Reader:
    def __init__(self, content: bytes, path: Path):
        self.content, self.path, self.at = content, path, 0

    def take(self, length: int) -> bytes:
        if length > len(self.content) - self.at:
            raise CorruptState(f"{self.path} is truncated: {length} bytes wanted at {self.at}")
        self.at += length
        return self.content[self.at - length : self.at]

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")


def _tensor(
    path: Path, name: str, shape: tuple[int, ...], kind: int, block: bytes
) -> torch.Tensor:
    size = prod(shape)
    width = {FLOAT32: 4 * size, INT8: size + 4}.get(kind)
    if width is None:
        raise CorruptState(f"{path}: {name} has the unknown type {kind:#x}")
    if width > len(block):
        raise CorruptState(f"{path}: {name} needs {width} bytes for {shape}, it has {len(block)}")
    if kind == FLOAT32:
        values = np.frombuffer(block, "<f4", size).reshape(shape).copy()
    else:
        (multiplier,) = struct.unpack_from("<f", block, size)
        if not np.isfinite(multiplier) or multiplier == 0:
            raise CorruptState(f"{path}: {name} has the multiplier {multiplier}")
        values = np.frombuffer(block, "i1", size).astype(np.float32) / np.float32(multiplier)
        values = values.reshape(shape) if name == "Wemb" else values.reshape(shape[::-1]).T
    if not np.isfinite(values).all():
        raise CorruptState(f"{path}: {name} holds values that are not finite")
    return torch.from_numpy(np.ascontiguousarray(values))


def _options(block: bytes) -> dict[str, str]:
    """Plain `name: value` lines of the YAML text; lists and blocks are of no use here."""
    text = block.rstrip(b"\0").decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if line[:1].strip())
    return {name: value.strip() for name, _, value in lines if value.strip()}
