"""Affine maps of features: one matrix, or several whose product is never formed, and an offset."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lipogram.analytic.blas import matmul
from lipogram.analytic.gram import Gram, from_lower
from lipogram.errors import IncompatibleFeatures


def chain(operator: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The matrices of an operator in the order in which rows meet them, float64."""
    matrices = [operator] if isinstance(operator, Tensor) else operator
    return tuple(matrix.detach().double() for matrix in matrices)


def product(rows: Tensor, operators: Sequence[Tensor]) -> Tensor:
    """Rows (n, d) after all operators, (n, e)."""
    for operator in operators:
        rows = matmul(rows, operator)
    return rows


def shifted(gram: Gram, row_sum: Tensor, mass: float, offset: Tensor) -> Gram:
    """The second moment of the rows ``x + b``: ``A + c bᵀ + b cᵀ + m b bᵀ``, in its storage."""
    lower, crossed = gram.lower(), torch.outer(row_sum, offset)
    lower += crossed + crossed.T + mass * torch.outer(offset, offset)
    return from_lower(lower, gram.storage, gram.folder)


def common_width(
    chains: Iterable[Sequence[Tensor]], n_features: int, offset: Tensor | None = None
) -> int:
    """The width e to which all chains map.

    Raises:
        IncompatibleFeatures: a chain that does not take ``n_features``, does not fit together or is
            not finite, chains of several widths, or an offset of another one.
    """
    different = {id(each): each for each in chains}.values()
    shapes = {tuple(tuple(matrix.shape) for matrix in each) for each in different}
    widths = {_width(each, n_features) for each in shapes}
    width = next(iter(widths), 0)
    if len(widths) != 1 or not width:
        shown = "; ".join(sorted(" · ".join(map(str, each)) or "none" for each in shapes))
        raise IncompatibleFeatures(
            f"operators of shape {shown} do not all map {n_features} features to one width"
        )
    if offset is not None and tuple(offset.shape) != (width,):
        raise IncompatibleFeatures(
            f"the offset has shape {tuple(offset.shape)}, the operator maps to {width} features"
        )
    given = [matrix for each in different for matrix in each]
    given = given if offset is None else [*given, offset]
    if not all(bool(torch.isfinite(matrix).all()) for matrix in given):
        raise IncompatibleFeatures("an operator holds NaN or infinity")
    return width


def _width(shapes: Sequence[tuple[int, ...]], n_features: int) -> int:
    """Width after a chain of matrices of these shapes; 0 where they do not fit together."""
    width = n_features
    for shape in shapes:
        if len(shape) != 2 or shape[0] != width:
            return 0
        width = shape[1]
    return width if shapes else 0
