"""How well a shift map carries classes that it was not fitted on, from sums alone.

A map fitted on the new classes is applied to old ones, whose images are gone. What that costs
cannot be seen on the rows of the fit, nor by leaving out rows, since the other rows of a class say
where it went. So whole classes are left out, and the map of the others is applied to them. Old
classes are farther off than those: with the identity as prior, of all ε that leave the error at or
below the geometric mean of the least one and of that without any map, the largest is taken. It
stays close to the identity where a map gains little and follows the data where it gains all. The
covariance Σ of what is missed stays with the map, for the calibrated statistics lack it:
``E[x_new x_newᵀ] = PᵀE[x xᵀ]P + Σ``. This goes beyond the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from dpcr.bank_state import check_moments
from dpcr.shift_accumulator import checked_pair
from dpcr.shift_map import Prior, ShiftMap, prior_for
from dpcr.shift_ridge import EPS, RidgePath, ridge_path
from lipogram.analytic.blas import matmul, symmetric
from lipogram.analytic.settings import whole
from lipogram.analytic.solve import RidgeSystem
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import CorruptState, IncompatibleFeatures, InvalidFeatures, InvalidSetting

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

RELATIVE_GRID = np.logspace(-12, 4, 33)  # candidates for ε over tr(A)/d


class HeldOutClasses:
    """Pairs of rows by class, and the shift map that carries left-out classes best.

    The pair ``(x_old, x_new)`` is one row of ``d + e`` features; its class statistics hold
    ``X_oldᵀX_old``, ``X_oldᵀX_new`` and ``X_newᵀX_new`` of each class. They are needed only while
    a task's map is fitted.

    Args:
        folds: classes are left out in at most so many groups, at least 2.
        old_space: identity of the old network's features; "" for none.
        new_space: identity of the new network's.
        device: where the sums live.

    Attributes:
        joined: class statistics of the joined rows, None before the first pair.
    """

    def __init__(
        self,
        *,
        folds: int = 5,
        old_space: str = "",
        new_space: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        whole("folds", folds, least=2)
        self.folds, self.old_space, self.new_space = folds, old_space, new_space
        self.device = torch.device(device)
        self.joined: ClassStatistics | None = None
        self._d = 0

    @property
    def rows(self) -> int:
        """Pairs seen."""
        return self.joined.n_rows if self.joined is not None else 0

    @property
    def widths(self) -> tuple[int, int] | None:
        """Widths (d, e) of the two feature spaces, None before the first pair."""
        return None if self.joined is None else (self._d, self.joined.n_features - self._d)

    def update(self, x_old: Any, x_new: Any, labels: Any) -> Self:
        """Add pairs of rows; all of them or, on an error, none.

        Args:
            x_old: (n, d) features under the old network; n = 0 is allowed.
            x_new: (n, e) features of the same samples under the new one.
            labels: (n,) their classes.

        Raises:
            InvalidFeatures: unequal numbers of rows, other widths than before, NaN or infinity.
            InvalidLabels: labels that are no integers, strings or booleans.
        """
        old, new = checked_pair(x_old, x_new, self.widths, self.device)
        joined, d = self.joined, old.shape[1]
        if joined is None:
            joined = ClassStatistics(d + new.shape[1], device=self.device, space=self._space())
        joined.update(torch.cat([old, new], 1), labels)
        self.joined, self._d = joined, d
        return self

    def merge(self, other: HeldOutClasses) -> Self:
        """Add another worker's sums.

        Raises:
            IncompatibleFeatures: other widths, spaces or devices.
        """
        if other.joined is None:
            return self
        if None not in (self.widths, other.widths) and self.widths != other.widths:
            raise IncompatibleFeatures(
                f"these pairs have widths {self.widths}, the others {other.widths}"
            )
        self.joined = other.joined.like() if self.joined is None else self.joined
        self.joined.merge(other.joined)
        self._d = other._d
        return self

    def copy(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin.joined = None if self.joined is None else self.joined.copy()
        return twin

    def all_reduce(self, group: ProcessGroup | None = None) -> Self:
        """The sums of all ranks, the same on each; these stay as they are. Every rank must call.

        Raises:
            IncompatibleFeatures: on every rank, if they hold other widths or spaces.
        """
        from lipogram.analytic.distributed import all_reduce_statistics
        from lipogram.analytic.messages import exchange

        told = [tuple(each) for each in exchange(self.widths, group) if each]
        if len(set(told)) > 1:
            raise IncompatibleFeatures(f"the ranks hold pairs of widths {sorted(set(told))}")
        total = copy.copy(self)
        if told:
            mine = self.joined
            if mine is None:
                mine = ClassStatistics(sum(told[0]), device=self.device, space=self._space())
            total.joined, total._d = all_reduce_statistics(mine, group), told[0][0]
        return total

    def state(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (their names under ``prefix``) and JSON description."""
        described: dict[str, Any] = {
            "folds": self.folds,
            "old_space": self.old_space,
            "new_space": self.new_space,
            "d": self._d,
            "joined": None,
        }
        if self.joined is None:
            return {}, described
        tensors, described["joined"] = describe(self.joined, prefix)
        return tensors, described

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
        names = ("folds", "old_space", "new_space")
        pairs = cls(**{name: described[name] for name in names}, device=device)
        if described["joined"] is not None:
            pairs.joined = restore(dict(tensors), described["joined"], prefix, device=device)
            check_moments(pairs.joined)
            pairs._d = whole("d", described["d"])
            if pairs._d >= pairs.joined.n_features or pairs.joined.pooled:
                raise CorruptState(f"{pairs._d} of {pairs.joined.n_features} features are old")
        return pairs

    def solve(self, *, prior: Prior | Literal["auto"] = "auto") -> ShiftMap:
        """The map of all pairs, with the ε and the residual covariance that left-out classes ask.

        ``min_P ‖X_old P − X_new‖² + ε‖P − P₀‖²``. With one class there is none to leave out: ε is
        then chosen by generalised cross-validation over rows.

        Args:
            prior: P₀: 0, or the identity (equal widths only): what no row speaks about stays.
                ``"auto"`` takes the identity where the widths are equal.

        Raises:
            InvalidFeatures: no pair was seen.
            InvalidSetting: the identity between unequal widths.
        """
        if self.joined is None or not self.joined.n_rows:
            raise InvalidFeatures(
                "no pair of rows was seen, so there is no drift to fit: the current task is empty"
            )
        if prior == "auto":
            prior = prior_for(self.widths)
        whole_task = self._moments(np.ones(len(self.joined.classes)))
        path = ridge_path(whole_task.system(prior))
        groups = self._groups()
        if len(groups) > 1:
            relative, residual = self._left_out(groups, prior)
            eps = relative * path.scale
        else:
            eps = path.chosen()
            free = max(whole_task.rows - path.effective_rank(eps), 1.0)
            inflation = (whole_task.rows / free) ** 2 / whole_task.rows
            residual = whole_task.residual(path.weight(eps), prior) * inflation
        matrix = path.weight(eps)
        left = float(whole_task.residual(matrix, prior).diagonal().sum())
        if prior == "identity":
            matrix.diagonal().add_(1.0)
        return ShiftMap(
            matrix,
            eps=eps,
            rank=path.effective_rank(eps),
            rows=whole_task.rows,
            residual=max(left, 0.0) / max(float(whole_task.new.diagonal().sum()), 1e-300),
            old_space=self.old_space,
            new_space=self.new_space,
            noise=_semidefinite(residual),
        )

    # ------------------------------------------------------------------ inside

    def _left_out(self, groups: list[np.ndarray], prior: Prior) -> tuple[float, Tensor]:
        """The relative ε that left-out classes ask for, and the covariance of their error."""
        held, paths, energy, unmoved = [], [], 0.0, 0.0
        errors = torch.zeros(len(RELATIVE_GRID), dtype=torch.float64, device=self.device)
        for group in groups:
            fitted = ridge_path(self._moments(1.0 - group).system(prior))
            out = self._moments(group)
            errors += out.errors(fitted, prior)
            energy += float(out.new.diagonal().sum())
            unmoved += float(out.drift(prior)[1].diagonal().sum())
            held.append(out)
            paths.append(fitted)
        least, rounding = float(errors.min()), 8 * self._d * EPS * energy
        if least <= rounding:  # errors below rounding are all the same: the smallest ε fits best
            best = float(RELATIVE_GRID[int(torch.nonzero(errors <= rounding)[0])])
        else:
            bound = max(least, (least * unmoved) ** 0.5) if prior == "identity" else least
            best = float(RELATIVE_GRID[int(torch.nonzero(errors <= bound)[-1])])
        covariance = torch.stack(
            [
                out.residual(path.weight(best * path.scale), prior)
                for out, path in zip(held, paths, strict=True)
            ]
        ).sum(0)
        return best, covariance / sum(out.rows for out in held)

    def _groups(self) -> list[np.ndarray]:
        """Weights (k,) that are 1 for the classes of a fold; classes are dealt in sorted order."""
        assert self.joined is not None
        present = np.flatnonzero(self.joined.counts)
        names = [str(self.joined.classes[slot]) for slot in present]
        ordered = present[np.argsort(names, kind="stable")]
        groups = []
        for fold in range(min(self.folds, len(ordered))):
            weight = np.zeros(len(self.joined.classes))
            weight[ordered[fold :: self.folds]] = 1.0
            groups.append(weight)
        return groups

    def _moments(self, class_weight: np.ndarray) -> _Moments:
        assert self.joined is not None
        system = self.joined.reweight(class_weight)
        gram, d = symmetric(system.gram), self._d
        rows = int(class_weight @ self.joined.counts)
        return _Moments(gram[:d, :d], gram[:d, d:], gram[d:, d:], rows, system)

    def _space(self) -> str:
        return f"{self.old_space} {self.new_space}".strip()


@dataclass(frozen=True)
class _Moments:
    """Second moments of pairs: ``XᵀX`` (d, d), ``XᵀY`` (d, e), ``YᵀY`` (e, e), n, joined sums."""

    old: Tensor
    cross: Tensor
    new: Tensor
    rows: int
    joined: RidgeSystem

    def drift(self, prior: Prior) -> tuple[Tensor, Tensor]:
        """``XᵀR`` and ``RᵀR`` of what the prior leaves, ``R = Y − X P₀``."""
        if prior == "zero":
            return self.cross, self.new
        return self.cross - self.old, self.new - self.cross - self.cross.T + self.old

    def system(self, prior: Prior) -> RidgeSystem:
        """Regression of ``Y − X P₀`` on X."""
        d, e = self.cross.shape
        if prior == "identity" and d != e:
            raise InvalidSetting(
                f'prior is "identity", but the map goes from {d} features to {e}: use "zero"'
            )
        cross, moment = self.drift(prior)
        old, new = self.joined.row_sum[:d], self.joined.row_sum[d:]
        target = new - old if prior == "identity" else new
        energy = float(moment.diagonal().sum())
        return RidgeSystem(self.old, cross, old, target, float(self.rows), energy, self.rows)

    def errors(self, path: RidgePath, prior: Prior) -> Tensor:
        """``‖R − X V (Λ + ε)⁻¹ Z‖²`` of a path fitted elsewhere, for each ε of the grid (g,)."""
        cross, moment = self.drift(prior)
        vectors = path.vectors.T.contiguous()
        linear = (matmul(vectors, cross) * path.projected).sum(1)
        moved = matmul(vectors, matmul(self.old, path.vectors))
        quadratic = moved * matmul(path.projected, path.projected.T.contiguous())
        grid = torch.from_numpy(RELATIVE_GRID).to(self.old.device) * path.scale
        shrunk = 1.0 / (path.values + grid[:, None])
        return (
            moment.diagonal().sum()
            - 2 * matmul(shrunk, linear[:, None])[:, 0]
            + (matmul(shrunk, quadratic) * shrunk).sum(1)
        )

    def residual(self, weight: Tensor, prior: Prior) -> Tensor:
        """``EᵀE`` (e, e) of the errors ``E = R − X W``."""
        cross, moment = self.drift(prior)
        mixed = matmul(cross.T.contiguous(), weight)
        fitted = matmul(weight.T.contiguous(), matmul(self.old, weight))
        return moment - mixed - mixed.T + fitted


def _semidefinite(matrix: Tensor) -> Tensor:
    """The matrix made exactly symmetric, on a diagonal that rounding did not make negative."""
    whole_matrix = (matrix + matrix.T) / 2
    whole_matrix.diagonal().clamp_(min=0)
    return whole_matrix
