"""The sums a shift map is solved from, filled batch by batch, merged over workers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import Tensor

from dpcr.shift_map import Prior, ShiftMap
from dpcr.shift_ridge import RidgePath, ridge_path
from lipogram.analytic.blas import add_gram, matmul, symmetric
from lipogram.analytic.rows import as_rows, uninterrupted
from lipogram.analytic.settings import flag, one_of, positive, whole
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import (
    CorruptState,
    IllConditioned,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidSetting,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_SHAPES = {"gram": "dd", "cross": "de", "old": "d", "new": "e", "energy": "", "drift": ""}


class ShiftAccumulator:
    """Sums over pairs of rows: ``XᵀX``, ``XᵀY``, ``Σx``, ``Σy``, ``Σ‖y‖²``, ``Σ‖y − x‖²``.

    Float64 whatever the rows are; independent of their order and of the batches, to rounding.

    Args:
        old_space: identity of the old network's features (a fingerprint); "" for none.
        new_space: identity of the new network's.
        device: where the sums live.

    Attributes:
        rows: pairs seen.
    """

    def __init__(
        self, *, old_space: str = "", new_space: str = "", device: torch.device | str = "cpu"
    ) -> None:
        self.old_space, self.new_space, self.device = old_space, new_space, torch.device(device)
        self.rows = 0
        self._sums: dict[str, Tensor] = {}

    @property
    def widths(self) -> tuple[int, int] | None:
        """Widths (d, e) of the two feature spaces, None before the first pair."""
        return tuple(self._sums["cross"].shape) if self._sums else None  # type: ignore[return-value]

    def update(self, x_old: Any, x_new: Any) -> Self:
        """Add pairs of rows; all of them or, on an error, none.

        Args:
            x_old: (n, d) features under the old network; n = 0 is allowed.
            x_new: (n, e) features of the same samples under the new one.

        Raises:
            InvalidFeatures: unequal numbers of rows, other widths than before, NaN or infinity.
        """
        old, new = checked_pair(x_old, x_new, self.widths, self.device)
        if not len(old):
            return self
        with uninterrupted():
            sums = self._sums or _zeros(old.shape[1], new.shape[1], self.device)
            add_gram(sums["gram"], old)
            sums["cross"] += matmul(old.T.contiguous(), new)
            sums["old"] += old.sum(0)
            sums["new"] += new.sum(0)
            sums["energy"] += new.square().sum()
            if old.shape == new.shape:
                sums["drift"] += (new - old).square().sum()
            self._sums = sums
            self.rows += len(old)
        return self

    def merge(self, other: ShiftAccumulator) -> Self:
        """Add another worker's sums.

        Raises:
            IncompatibleFeatures: other widths, spaces or devices.
        """
        for name in ("old_space", "new_space", "device"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise IncompatibleFeatures(f"{name} here is {str(mine)!r}, there {str(theirs)!r}")
        if None not in (self.widths, other.widths) and self.widths != other.widths:
            raise IncompatibleFeatures(
                f"these pairs have widths {self.widths}, the others {other.widths}"
            )
        with uninterrupted():
            for name, value in other._sums.items():
                mine = self._sums.get(name)
                self._sums[name] = value.clone() if mine is None else mine + value
            self.rows += other.rows
        return self

    def copy(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin._sums = {name: value.clone() for name, value in self._sums.items()}
        return twin

    def solve(
        self,
        *,
        eps: float | Literal["auto"] = "auto",
        absolute: bool = False,
        prior: Prior = "zero",
        bias: bool = False,
        rank: int | None = None,
    ) -> ShiftMap:
        """The map that fits the pairs best: ``min_P ‖X_old P − X_new‖² + ε‖P − P₀‖²``.

        Args:
            eps: ε ≥ 0 in units of the mean eigenvalue of ``X_oldᵀX_old``; ``"auto"`` takes the one
                of 1e-12 … 10 that generalised cross-validation likes best. 0 is the least-squares
                fit of smallest norm. The authors' is 1e-9, absolute.
            absolute: take eps as it is.
            prior: P₀: 0, or the identity (equal widths only): what no row speaks about stays.
            bias: also fit an unpenalised offset.
            rank: follow the drift along the ``rank`` strongest directions of the old features
                only; None for all.

        Warns:
            IllConditioned: the rows do not span the old features, so a stored vector outside their
                span is mapped to 0 (or, with the identity prior, left where it is).

        Raises:
            InvalidFeatures: no pair was seen.
            InvalidSetting: a setting outside its values.
        """
        self.check_settings(eps=eps, prior=prior, bias=bias, rank=rank)
        flag("absolute", absolute)
        if not self.rows:
            raise InvalidFeatures(
                "no pair of rows was seen, so there is no drift to fit: the current task is empty"
            )
        path = ridge_path(self._system(prior), bias=bias)
        self._warn(len(path.values) + bias)
        if rank is not None:
            path = path.truncated(rank)
        chosen = path.chosen() if eps == "auto" else float(eps) * (1 if absolute else path.scale)
        return self._map(path, chosen, prior, bias)

    @staticmethod
    def check_settings(*, eps: object, prior: object, bias: object, rank: object = None) -> None:
        """Raise InvalidSetting for settings that :meth:`solve` would refuse."""
        if isinstance(eps, str) and eps != "auto":
            raise InvalidSetting(f'eps is {eps!r}, it must be "auto" or a number of at least 0')
        if not isinstance(eps, str) and not (type(eps) in (int, float) and eps == 0):
            positive("eps", eps)
        one_of("prior", prior, get_args(Prior))
        flag("bias", bias)
        if rank is not None:
            whole("rank", rank)

    def all_reduce(self, group: ProcessGroup | None = None) -> Self:
        """The sums of all ranks, the same on each; these stay as they are. Every rank must call.

        Raises:
            IncompatibleFeatures: on every rank, if they hold other widths or spaces.
        """
        from lipogram.analytic.messages import exchange, reduced

        mine = [self.widths, self.old_space, self.new_space]
        told = exchange([*mine, self.rows], group)
        widths = [tuple(each[0]) for each in told if each[0]]
        if len(set(widths)) > 1 or len({tuple(each[1:3]) for each in told}) > 1:
            raise IncompatibleFeatures(
                f"the ranks hold pairs of widths and spaces {[each[:3] for each in told]}: sums "
                "add up only when every rank has the same"
            )
        total = copy.copy(self)
        total.rows = sum(each[3] for each in told)
        if widths:
            d, e = widths[0]
            sums = self._sums or _zeros(d, e, self.device)
            summed = reduced([value.flatten() for value in sums.values()], group)
            pairs = zip(sums.items(), summed, strict=True)
            total._sums = {name: flat.reshape(value.shape) for (name, value), flat in pairs}
        return total

    def state(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (their names under ``prefix``) and JSON description."""
        tensors = {prefix + name: value for name, value in self._sums.items()}
        spaces = {"old_space": self.old_space, "new_space": self.new_space}
        return tensors, {"rows": self.rows, **spaces}

    @classmethod
    def of_state(
        cls,
        tensors: Mapping[str, Tensor],
        described: Any,
        prefix: str = "",
        *,
        device: torch.device | str = "cpu",
    ) -> Self:
        """The sums that :meth:`state` described.

        Raises:
            CorruptState: tensors that do not fit together.
        """
        spaces = {name: described[name] for name in ("old_space", "new_space")}
        pairs = cls(**spaces, device=device)
        pairs.rows = whole("rows", described["rows"], least=0)
        names = [name for name in _SHAPES if prefix + name in tensors]
        if bool(names) != bool(pairs.rows):
            raise CorruptState(f"{pairs.rows} pairs of rows with sums {names}")
        if pairs.rows:
            d, e = tensors[prefix + "cross"].shape
            for name, zero in _zeros(d, e, pairs.device).items():
                held = tensors[prefix + name].to(pairs.device)
                if held.shape != zero.shape or held.dtype != zero.dtype:
                    raise CorruptState(f"sum {name!r} is {held.dtype} {tuple(held.shape)}")
                pairs._sums[name] = held
            if bool((pairs._sums["gram"].diagonal() < 0).any()):
                raise CorruptState("the diagonal of the old features' second moment is negative")
        return pairs

    # ------------------------------------------------------------------ inside

    def _system(self, prior: Prior) -> RidgeSystem:
        sums = self._sums
        cross, target, energy = sums["cross"], sums["new"], sums["energy"]
        if prior == "identity":
            d, e = cross.shape
            if d != e:
                raise InvalidSetting(
                    f'prior is "identity", but the map goes from {d} features to {e}: use "zero"'
                )
            cross, target = cross - symmetric(sums["gram"]), target - sums["old"]
            energy = sums["drift"]
        n = float(self.rows)
        return RidgeSystem(sums["gram"], cross, sums["old"], target, n, float(energy), self.rows)

    def _map(self, path: RidgePath, eps: float, prior: Prior, bias: bool) -> ShiftMap:
        matrix = path.weight(eps)
        if prior == "identity":
            matrix.diagonal().add_(1.0)
        sums, offset = self._sums, None
        if bias:
            offset = (sums["new"] - matrix.T @ sums["old"]) / self.rows
        return ShiftMap(
            matrix,
            offset,
            eps,
            path.effective_rank(eps),
            self.rows,
            self._residual(matrix, offset),
            self.old_space,
            self.new_space,
        )

    def _residual(self, matrix: Tensor, offset: Tensor | None) -> float:
        sums = self._sums
        weight = torch.zeros_like(sums["new"]) if offset is None else offset
        linear = (matrix * sums["cross"]).sum() + weight @ sums["new"]
        mixed = weight @ (matrix.T @ sums["old"])
        moved = matmul(symmetric(sums["gram"]), matrix)
        quadratic = (matrix * moved).sum() + self.rows * weight @ weight + 2 * mixed
        left = float(sums["energy"] - 2 * linear + quadratic)
        return max(left, 0.0) / max(float(sums["energy"]), 1e-300)

    def _warn(self, found: int) -> None:
        alive = int((self._sums["gram"].diagonal() > 0).sum())
        if found < alive:
            warnings.warn(
                f"{self.rows} rows span {found} of {alive} live directions of the old features: "
                'the drift of the others is not seen; give more rows, or use prior="identity"',
                IllConditioned,
                stacklevel=3,
            )


def checked_pair(
    x_old: Any, x_new: Any, widths: tuple[int, int] | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows (n, d) and (n, e) of the same samples, float64.

    Raises:
        InvalidFeatures: unequal numbers of rows, other widths than before, NaN or infinity.
    """
    d, e = widths or (width(x_old), width(x_new))
    rows = []
    for name, given, columns in (("old", x_old, d), ("new", x_new, e)):
        try:
            rows.append(as_rows(given, columns, device=device).double())
        except InvalidFeatures as error:
            raise InvalidFeatures(f"{name} features: {error}") from None
    if len(rows[0]) != len(rows[1]):
        raise InvalidFeatures(
            f"{len(rows[0])} rows of old features, {len(rows[1])} of new ones: both must be of "
            "the same samples, in one order"
        )
    return rows[0], rows[1]


def width(rows: Any) -> int:
    """Number of columns of rows that were not checked yet.

    Raises:
        InvalidFeatures: they are no matrix with at least one column.
    """
    shape = tuple(getattr(rows, "shape", None) or torch.as_tensor(rows).shape)
    if len(shape) != 2 or not shape[1]:
        raise InvalidFeatures(f"features have shape {shape}, they must be (n, d) with d ≥ 1")
    return int(shape[1])


def _zeros(d: int, e: int, device: torch.device) -> dict[str, Tensor]:
    widths = {"d": d, "e": e}
    return {
        name: torch.zeros([widths[c] for c in shape], dtype=torch.float64, device=device)
        for name, shape in _SHAPES.items()
    }
