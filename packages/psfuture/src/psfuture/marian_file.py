"""Reader of Marian's model files: binary ones, as Bergamot and Firefox use them, and `.npz`.

Binary layout (little-endian): u64 version = 1, u64 n; n headers of four u64 (length of the name,
type, number of dimensions, length of the data); NUL-ended names; int32 shapes; u64 padding and as
many bytes; data blocks back to back. int8 matrices hold rows x cols bytes, then one float32
multiplier m: a weight is q / m. Each but the embeddings is stored transposed.
"""

from __future__ import annotations

import io
import struct
import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch

from lipogram.errors import CorruptState

FLOAT32, FLOAT16, INT8 = 0x404, 0x402, 0x4101
OPTIONS = "special:model.yml"
MOST_TENSORS, MOST_DIMENSIONS, LONGEST_NAME = 100_000, 8, 4096


def read_marian(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights by name, dequantised to float32, and the options of `special:model.yml`.

    Nothing is allocated beyond the file's own size times some small number, whatever it claims.

    Args:
        path: a binary model, or an archive of NumPy arrays if it ends in `.npz`.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: truncated, of another version or type, with sizes that do not fit the file, or
            with values that are not finite.
    """
    content = path.read_bytes()
    return _read_npz(path, content) if path.suffix == ".npz" else _read_binary(path, content)


def _read_binary(path: Path, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
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
    if len(set(names)) < len(names):
        raise CorruptState(f"{path} has two tensors of one name")
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
        if name == OPTIONS:
            options = _options(block)
        else:
            weights[name] = _tensor(path, name, shape, kind, block)
    if reader.at < len(content):
        raise CorruptState(f"{path} goes on for {len(content) - reader.at} bytes after its end")
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


def _tensor(path: Path, name: str, shape: tuple[int, ...], kind: int, block: bytes) -> torch.Tensor:
    size = prod(shape)
    width = {FLOAT32: 4 * size, FLOAT16: 2 * size, INT8: size + 4}.get(kind)
    if width is None:
        raise CorruptState(
            f"{path}: {name} has the type {kind:#x}; "
            f"known: float32 {FLOAT32:#x}, float16 {FLOAT16:#x}, int8 {INT8:#x}"
        )
    if width > len(block):
        raise CorruptState(f"{path}: {name} needs {width} bytes for {shape}, it has {len(block)}")
    if kind != INT8:
        dtype = "<f4" if kind == FLOAT32 else "<f2"
        return _finite(path, name, np.frombuffer(block, dtype, size).reshape(shape))
    if name.endswith("_QuantMultA"):
        return torch.empty(0)  # a scale of activations, which stay floating-point here
    (multiplier,) = struct.unpack_from("<f", block, size)
    if not np.isfinite(multiplier) or multiplier == 0:
        raise CorruptState(f"{path}: {name} has the multiplier {multiplier}")
    with np.errstate(over="ignore"):
        values = np.frombuffer(block, "i1", size).astype(np.float32) / np.float32(multiplier)
    as_is = name.endswith("Wemb")
    return _finite(path, name, values.reshape(shape) if as_is else values.reshape(shape[::-1]).T)


def _read_npz(path: Path, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    weights: dict[str, torch.Tensor] = {}
    options: dict[str, str] = {}
    for member, block in _members(path, content):
        name = member.removesuffix(".npy")
        if name in weights or (name == OPTIONS and options):
            raise CorruptState(f"{path} has two tensors of one name, {name}")
        array = _array(path, name, block)
        if name == OPTIONS:
            options = _options(array.tobytes())
        elif array.dtype.kind == "f":
            weights[name] = _finite(path, name, array)
        elif not name.startswith("special:"):
            raise CorruptState(f"{path}: {name} has the type {array.dtype}, not a float")
    return weights, options


def _members(path: Path, content: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            # A stored member is no larger than the file; deflated or overlapping ones may be bombs.
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if stored and sum(member.file_size for member in members) <= len(content):
                return [(member.filename, archive.read(member)) for member in members]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CorruptState(f"{path} is no archive of arrays: {error}") from None
    raise CorruptState(f"{path} is compressed, or its members are larger than itself")


def _array(path: Path, name: str, block: bytes) -> np.ndarray:
    """One `.npy`; never an object, and never larger than its bytes."""
    file = io.BytesIO(block)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
    except (ValueError, TypeError, SyntaxError) as error:
        raise CorruptState(f"{path}: {name} is no array: {error}") from None
    rest = block[file.tell() :]
    if dtype.kind not in "fiu" or min(shape, default=0) < 0:
        raise CorruptState(f"{path}: {name} is an array of {dtype} of the shape {shape}")
    if prod(shape) * dtype.itemsize != len(rest):
        raise CorruptState(f"{path}: {name} has {len(rest)} bytes, not those of {shape} {dtype}")
    flat = np.frombuffer(rest, dtype)
    return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)


def _finite(path: Path, name: str, values: np.ndarray) -> torch.Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.array(values, np.float32, order="C")
    if not np.isfinite(floats).all():
        raise CorruptState(f"{path}: {name} holds values that are not finite")
    return torch.from_numpy(floats)


def _options(block: bytes) -> dict[str, str]:
    """`name: value` lines of the YAML text, quotes taken off; a list is written as "[a, b]"."""
    found: dict[str, str] = {}
    items: list[str] = []
    name = ""
    for line in block.rstrip(b"\0").decode("utf-8", "replace").splitlines():
        if line.lstrip().startswith("- "):
            items.append(line.strip()[2:])
            found[name] = f"[{', '.join(items)}]"
        elif line[:1].strip():
            name, _, value = (part.strip() for part in line.partition(":"))
            found[name], items = value.strip("\"'"), []
    return found
