"""Fewer bytes for the same numbers: the top byte of a float says little, so it is deflated.

Sign and exponent of the sums of like features differ little, the mantissa's bits are noise. Taking
the top byte of every number out and deflating it saves about a tenth, and not a bit is lost.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from afl.errors import RejectedUpload

FAST = 1


def split_bytes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Deflated top bytes, and the other bytes of each number, both (m,) uint8.

    Args:
        values: floating-point numbers of any shape; they are written little-endian.
    """
    planes = _planes(values)
    top = zlib.compress(np.ascontiguousarray(planes[:, -1]).tobytes(), FAST)
    low = np.ascontiguousarray(planes[:, :-1]).ravel()
    return torch.frombuffer(bytearray(top), dtype=torch.uint8), torch.from_numpy(low)


def join_bytes(top: Tensor, low: Tensor, dtype: torch.dtype, size: int) -> Tensor:
    """The numbers (size,) of :func:`split_bytes`; no more is inflated than they need.

    Raises:
        RejectedUpload: parts of other lengths or types, or damaged ones.
    """
    width = dtype.itemsize
    if {top.dtype, low.dtype} != {torch.uint8} or low.shape != (size * (width - 1),):
        raise RejectedUpload("the bytes of the sums have another length than their shape needs")
    inflater = zlib.decompressobj()
    try:
        high = inflater.decompress(top.numpy().tobytes(), size + 1) if size else b""
    except zlib.error:
        raise RejectedUpload("the bytes of the sums are damaged") from None
    if len(high) != size or (size and (not inflater.eof or inflater.unused_data)):
        raise RejectedUpload("the bytes of the sums have another length than their shape needs")
    planes = np.empty((size, width), dtype=np.uint8)
    planes[:, -1] = np.frombuffer(high, dtype=np.uint8)
    planes[:, :-1] = low.numpy().reshape(size, width - 1)
    if not size:
        return torch.zeros(0, dtype=dtype)
    return torch.frombuffer(bytearray(planes.tobytes()), dtype=dtype)


def _planes(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    flat = values.contiguous().reshape(-1)
    if not len(flat):
        return np.empty((0, values.element_size()), dtype=np.uint8)
    return flat.view(torch.uint8).numpy().reshape(-1, values.element_size())
