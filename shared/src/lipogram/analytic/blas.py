"""The two dense kernels that decide the speed: symmetric rank-n update and matrix product.

On a CPU they go to the BLAS that numpy and scipy carry (``dsyrk`` does half the work of a product);
on an accelerator to torch. Symmetric matrices are held as square tensors whose *lower* triangle is
valid; what stands above the diagonal is arbitrary.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import blas, lapack
from torch import Tensor

Accumulate = Literal["float64", "float32"]
FLOAT32_ROWS = 1024  # rows to a float32 product; more of them lose digits


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep TF32 out of the float32 products of the block; the caller's setting comes back."""
    setting = torch.backends.cuda.matmul
    # Since torch 2.9 reading or restoring allow_tf32 fails, or leaves torch unable to name its
    # precision, when the caller has used fp32_precision or asked for "medium".
    name, exact = (
        ("fp32_precision", "ieee") if hasattr(setting, "fp32_precision") else ("allow_tf32", False)
    )
    before = getattr(setting, name)
    setattr(setting, name, exact)
    try:
        yield
    finally:
        setattr(setting, name, before)


def on_cpu(tensor: Tensor) -> bool:
    """Whether the numpy view of a tensor shares its memory."""
    return tensor.device.type == "cpu"


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of two matrices of one dtype, on their device."""
    if on_cpu(a):
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))
    return a @ b


def add_gram(
    lower: Tensor, rows: Tensor, scale: float = 1.0, accumulate: Accumulate = "float64"
) -> None:
    """``lower += scale · rowsᵀ rows`` in place, on the lower triangle.

    Args:
        lower: (d, d) float64, row-major.
        rows: (n, d) float64.
        scale: factor of the product; negative to subtract.
        accumulate: the product is computed in this precision, the sum is always float64.
    """
    if not rows.numel():
        return
    if accumulate == "float32":
        for block in torch.split(rows, FLOAT32_ROWS):
            x, unit = _normalised(block)
            if on_cpu(lower):
                # A row-major lower triangle is a column-major upper one: the transposed view
                # fits BLAS.
                product = torch.from_numpy(blas.ssyrk(1.0, x.numpy().T).T)
            else:
                with full_precision():
                    product = x.T @ x
            lower.add_(product, alpha=scale * unit)
    elif on_cpu(lower):
        blas.dsyrk(scale, rows.numpy().T, beta=1.0, c=lower.numpy().T, overwrite_c=1)
    else:
        lower.addmm_(rows.T, rows, alpha=scale)


def add_gram_packed(
    packed: Tensor, rows: Tensor, scale: float = 1.0, accumulate: Accumulate = "float64"
) -> None:
    """``packed += scale · rowsᵀ rows`` in place, in rectangular full packed format (CPU only).

    The format (LAPACK Working Note 199) holds the triangle in d(d+1)/2 numbers and still runs at
    the speed of matrix products.

    Args:
        packed: (d(d+1)/2,) float64.
        rows: (n, d) float64.
        scale: factor of the product; negative to subtract.
        accumulate: the product is computed in this precision, the sum is always float64.
    """
    n, d = rows.shape
    if not n:
        return
    if accumulate == "float32":
        for block in torch.split(rows, FLOAT32_ROWS):
            x, unit = _normalised(block)
            product = np.zeros(packed.shape[0], dtype=np.float32)
            lapack.ssfrk(d, len(x), 1.0, x.numpy().T, 0.0, product, overwrite_c=1)
            packed.add_(torch.from_numpy(product), alpha=scale * unit)
    else:
        lapack.dsfrk(d, n, scale, rows.numpy().T, 1.0, packed.numpy(), overwrite_c=1)


def unpack(packed: Tensor, d: int) -> Tensor:
    """The (d, d) tensor, lower triangle valid, of a rectangular full packed vector."""
    full, _ = lapack.dtfttr(d, packed.numpy())
    return torch.from_numpy(full.T)


def pack(lower: Tensor) -> Tensor:
    """Rectangular full packed vector (d(d+1)/2,) of the lower triangle of a (d, d) tensor."""
    vector, _ = lapack.dtrttf(lower.numpy().T)
    return torch.from_numpy(vector)


def packed_diagonal(packed: Tensor, d: int) -> Tensor:
    """Diagonal (d,) of the matrix in a rectangular full packed vector, without unpacking it."""
    return packed[torch.from_numpy(_diagonal_positions(d))]


def _normalised(rows: Tensor) -> tuple[Tensor, float]:
    """Rows in float32 over a power of two u, all below 1, and u²: no square leaves the range."""
    largest = max(abs(float(bound)) for bound in torch.aminmax(rows))
    exponent = min(max(math.frexp(largest)[1], -500), 500) if math.isfinite(largest) else 0
    return (rows * 2.0**-exponent).float(), 4.0**exponent


def _diagonal_positions(d: int) -> NDArray[np.int64]:
    # LAPACK's layout for transr="N", uplo="U": a column-major rectangle whose columns are the
    # right half of the triangle, with the left half transposed below it.
    half = d // 2
    leading = d + 1 - d % 2  # rows of the rectangle
    k = np.arange(d)
    right = k >= half
    row = np.where(right, k, k + half + 1)
    column = np.where(right, k - half, k)
    positions: NDArray[np.int64] = row + column * leading
    return positions


def symmetric(lower: Tensor) -> Tensor:
    """Full symmetric (d, d) tensor of a lower triangle."""
    triangle = lower.tril()
    return triangle + triangle.tril(-1).T
