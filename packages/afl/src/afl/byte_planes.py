"""Fewer bytes for the same numbers: each byte of a float is kept with its like, and deflated.

Sign and exponent of the sums of like features differ little, which a Huffman code turns into fewer
bytes; the mantissa's bytes are noise as a rule and stay as they are. A plane holds the first byte
of all numbers, the next one the second, and so on; it is deflated where that takes an eighth off,
as less is not worth the reader's time. Not a bit is lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from afl.errors import RejectedUpload

WORTH = 7 / 8
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def split_bytes(values: Tensor) -> tuple[Tensor, list[int]]:
    """All planes one after the other (m,) uint8, and the length of each.

    Args:
        values: float64, float32 or bfloat16 of any shape, on the CPU; the plane of the highest byte
            comes first. A plane that is as long as there are numbers is not deflated.
    """
    words = values.contiguous().reshape(-1).view(_WORDS[values.element_size()]).numpy()
    low_first = words.astype(words.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    columns = low_first.reshape(len(words), values.element_size())
    planes = [_deflated(np.ascontiguousarray(column)) for column in columns.T[::-1]]
    return torch.from_numpy(np.concatenate(planes)), [len(plane) for plane in planes]


def join_bytes(data: Tensor, lengths: Sequence[int], dtype: torch.dtype, size: int) -> Tensor:
    """The numbers (size,) of :func:`split_bytes`; no plane is inflated beyond ``size`` bytes.

    Args:
        data: (m,) uint8.
        lengths: of the planes.
        dtype: of the numbers.
        size: how many there must be. The result takes ``size · dtype.itemsize`` bytes whatever m
            is, so whoever asks bounds it first.

    Raises:
        RejectedUpload: parts of other lengths or types, or damaged ones.
    """
    width = dtype.itemsize
    sound = len(lengths) == width and all(type(n) is int and 0 <= n <= size for n in lengths)
    if not sound or data.dtype != torch.uint8 or data.shape != (sum(lengths),):
        raise RejectedUpload("the bytes of the sums have another length than they must")
    columns = np.empty((size, width), dtype=np.uint8)
    ends = np.cumsum(lengths)
    planes = np.split(data.numpy(), ends[:-1])
    for column, plane in zip(columns.T[::-1], planes, strict=True):
        column[:] = plane if len(plane) == size else _inflated(plane, size)
    words = columns.reshape(-1).view(f"<i{width}")
    return torch.from_numpy(words.astype(f"=i{width}", copy=False)).view(dtype)


def _deflated(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Runs and a Huffman code: there are no longer repetitions to look for, and looking is slow.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    short = deflate.compress(plane.data) + deflate.flush()
    return np.frombuffer(short, dtype=np.uint8) if len(short) < WORTH * len(plane) else plane


def _inflated(plane: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(plane.tobytes(), size + 1)
    except zlib.error:
        raise RejectedUpload("the bytes of the sums are damaged") from None
    if len(found) != size or not inflate.eof or inflate.unused_data:
        raise RejectedUpload("the bytes of the sums are damaged")
    return np.frombuffer(found, dtype=np.uint8)
