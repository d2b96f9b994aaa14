"""How features move when a network is trained on: a linear map from old features to new ones.

Task-wise shift projection: on the rows of the current task alone, under the old network and the
new one, ``P = (X_oldᵀX_old + εI)⁻¹ X_oldᵀX_new`` (DPCR, He et al., ICML 2025, §3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from lipogram.analytic.blas import matmul
from lipogram.analytic.rows import as_rows
from lipogram.errors import CorruptState, IncompatibleFeatures

Prior = Literal["zero", "identity"]


def prior_for(widths: tuple[int, int] | None) -> Prior:
    """What to believe before a pair is seen: that features stayed, where they can have."""
    return "identity" if widths is not None and widths[0] == widths[1] else "zero"


@dataclass(frozen=True, eq=False)
class ShiftMap:
    """An affine map ``x → Pᵀx + b`` between the features of two networks.

    Attributes:
        matrix: P (d, e) float64.
        offset: b (e,), or None without bias.
        eps: the ridge ε that was used, absolute.
        rank: effective rank ``Σ λ/(λ + ε)`` of the fit, at most d.
        rows: pairs of rows it was fitted on.
        residual: share of the new features' energy that it leaves unexplained on those rows.
        old_space: identity of the old network's features; "" where nobody named it.
        new_space: identity of the new network's.
        noise: covariance Σ (e, e) of what the map misses old classes by, None where unknown.
    """

    matrix: Tensor
    offset: Tensor | None = None
    eps: float = 0.0
    rank: float = 0.0
    rows: int = 0
    residual: float = 0.0
    old_space: str = ""
    new_space: str = ""
    noise: Tensor | None = None

    @classmethod
    def identity(cls, n_features: int, *, device: torch.device | str = "cpu") -> Self:
        """The map of a network that did not change."""
        eye = torch.eye(n_features, dtype=torch.float64, device=device)
        return cls(eye, rank=float(n_features))

    @property
    def in_features(self) -> int:
        """Width d of the old features."""
        return self.matrix.shape[0]

    @property
    def out_features(self) -> int:
        """Width e of the new features."""
        return self.matrix.shape[1]

    def __call__(self, vectors: Any) -> Tensor:
        """Stored vectors (n, d) of the old network where the new one would put them, (n, e).

        Raises:
            InvalidFeatures: another width, NaN or infinity.
        """
        rows = as_rows(vectors, self.in_features, device=self.matrix.device).double()
        moved = matmul(rows, self.matrix)
        return moved if self.offset is None else moved + self.offset

    def then(self, later: ShiftMap) -> ShiftMap:
        """This map and then a later one, as one.

        Raises:
            IncompatibleFeatures: the later one starts from other features.
        """
        if later.in_features != self.out_features:
            raise IncompatibleFeatures(
                f"this map ends at {self.out_features} features, the later one starts from "
                f"{later.in_features}"
            )
        if self.new_space and later.old_space and self.new_space != later.old_space:
            raise IncompatibleFeatures(
                f"this map ends in space {self.new_space!r}, the later one starts from "
                f"{later.old_space!r}"
            )
        offset = later.offset
        if self.offset is not None:
            carried = matmul(self.offset[None], later.matrix)[0]
            offset = carried if offset is None else carried + offset
        noise = later.noise
        if self.noise is not None:
            carried = matmul(later.matrix.T.contiguous(), matmul(self.noise, later.matrix))
            noise = carried if noise is None else carried + noise
        return ShiftMap(
            matmul(self.matrix, later.matrix),
            offset,
            rank=min(self.rank, later.rank),
            rows=min(self.rows, later.rows),
            old_space=self.old_space,
            new_space=later.new_space,
            noise=noise,
        )

    def state(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (their names under ``prefix``) and JSON description."""
        tensors = {f"{prefix}matrix": self.matrix.contiguous()}
        if self.offset is not None:
            tensors[f"{prefix}offset"] = self.offset
        if self.noise is not None:
            tensors[f"{prefix}noise"] = self.noise.contiguous()
        names = ("eps", "rank", "rows", "residual", "old_space", "new_space")
        return tensors, {name: getattr(self, name) for name in names}

    @classmethod
    def of_state(cls, tensors: dict[str, Tensor], described: Any, prefix: str = "") -> Self:
        """The map that :meth:`state` described.

        Raises:
            CorruptState: tensors that make no map.
        """
        matrix, offset = tensors[f"{prefix}matrix"], tensors.get(f"{prefix}offset")
        noise = tensors.get(f"{prefix}noise")
        fits = matrix.ndim == 2 and matrix.numel() and matrix.dtype == torch.float64
        if offset is not None:
            fits = fits and offset.dtype == torch.float64 and offset.shape == matrix.shape[1:]
        if noise is not None:
            square = (matrix.shape[-1], matrix.shape[-1])
            fits = fits and noise.dtype == torch.float64 and tuple(noise.shape) == square
            fits = fits and torch.equal(noise, noise.T) and bool((noise.diagonal() >= 0).all())
        if not fits:
            raise CorruptState(f"the shift map is {matrix.dtype} {tuple(matrix.shape)}")
        return cls(matrix, offset, noise=noise, **described)


def fit_shift(
    x_old: Any,
    x_new: Any,
    *,
    eps: float | Literal["auto"] = "auto",
    absolute: bool = False,
    prior: Prior = "zero",
    bias: bool = False,
    rank: int | None = None,
) -> ShiftMap:
    """The shift map of pairs of rows: :meth:`ShiftAccumulator.solve` of one batch.

    Args:
        x_old: (n, d) features under the old network.
        x_new: (n, e) features of the same samples under the new one.
        eps: ridge ε, relative, or ``"auto"``.
        absolute: take eps as it is.
        prior: what a direction without rows does.
        bias: also fit an offset.
        rank: follow the drift along the strongest directions only.

    Raises:
        InvalidFeatures: unequal numbers of rows, none, NaN or infinity.
        InvalidSetting: see there.
    """
    from dpcr.shift_accumulator import ShiftAccumulator

    pairs = ShiftAccumulator().update(x_old, x_new)
    return pairs.solve(eps=eps, absolute=absolute, prior=prior, bias=bias, rank=rank)
