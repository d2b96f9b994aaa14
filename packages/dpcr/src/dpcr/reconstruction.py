"""The head of all classes from second moments: ridge regression solved anew after each task.

``Ŵ = (Σ_c Φ_c + γI)⁻¹ [n_c μ_cᵀ]`` (DPCR, He et al., ICML 2025, §3.3) with the true counts, and
each column over its norm (category normalisation). γ is added once, not once a task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from dpcr.analytic_head import AnalyticHead, all_labels, unit_rows
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import one_of
from lipogram.analytic.solve import RidgeSystem
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidSetting, NotSeen, SingularSystem

Normalize = Literal["category"] | None


def reconstruct(
    bank: ClassStatistics,
    *,
    current: ClassStatistics | None = None,
    gamma: float = 200.0,
    normalize: Normalize = "category",
) -> AnalyticHead:
    """The head of the classes of a bank and, where given, of the task at hand.

    Args:
        bank: statistics of the classes so far, in the present feature space.
        current: statistics of the present task's rows, which are added to the bank's without
            being stored there; a class may be in both.
        gamma: ridge γ > 0, in units of summed squared features; 0 is taken where the sum of second
            moments is regular.
        normalize: ``"category"`` divides each class's weights by their norm, so that its number of
            rows cancels; None leaves them.

    Returns:
        A head over every class that has a row, in order of appearance.

    Raises:
        InvalidSetting: γ negative or not finite, or an unknown normalisation.
        IncompatibleFeatures: bank and current task of different widths, spaces or devices.
        NotSeen: no class has a row.
        SingularSystem: γ is 0 and the sum of second moments is singular.
    """
    check_reconstruction(gamma, normalize)
    parts = [bank] if current is None else [bank, current]
    if current is not None:
        _check_same_space(bank, current)
    labels, places = all_labels(*(part.classes for part in parts))
    counts = np.zeros(len(labels), dtype=np.int64)
    for part, place in zip(parts, places, strict=True):
        counts[place] += part.counts
    if not counts.any():
        raise NotSeen("no class has a row yet: there is nothing to solve for")
    system = joined(parts, labels, places)
    weight = head_weights(system, gamma, normalize)
    seen = np.flatnonzero(counts)
    where = torch.from_numpy(seen).to(weight.device)
    return AnalyticHead(weight[where], [labels[slot] for slot in seen])


def head_weights(
    system: RidgeSystem, gamma: float, normalize: Normalize = "category"
) -> torch.Tensor:
    """Weights (k, d) of a system, normalised by category or not.

    Raises:
        SingularSystem: γ is 0 and the matrix is singular; its smallest eigenvalue is named.
    """
    if gamma == 0:
        values = torch.linalg.eigvalsh(system.gram)
        if values[0] <= values[-1] * len(values) * torch.finfo(torch.float64).eps:
            raise SingularSystem(
                f"gamma is 0 and the smallest eigenvalue of the summed second moments is "
                f"{float(values[0]):.3g} (largest {float(values[-1]):.3g}): raise gamma"
            )
    weight = system.solve(gamma, allow_singular=True).weight.T.contiguous()
    return unit_rows(weight) if normalize == "category" else weight


def joined(
    parts: list[ClassStatistics], labels: list[Label], places: list[np.ndarray]
) -> RidgeSystem:
    """The ridge system of the rows of all parts, one column a label."""
    total = None
    for part, place in zip(parts, places, strict=True):
        system = part.reweight()
        where = torch.from_numpy(place).to(system.cross.device)
        cross = system.cross.new_zeros(system.cross.shape[0], len(labels))
        target = system.target_sum.new_zeros(len(labels))
        cross.index_add_(1, where, system.cross)
        target.index_add_(0, where, system.target_sum)
        system = replace(system, cross=cross, target_sum=target)
        total = system if total is None else _sum(total, system)
    assert total is not None
    return total


def check_reconstruction(gamma: object, normalize: object) -> None:
    """Raise InvalidSetting for settings that :func:`reconstruct` would refuse."""
    number = isinstance(gamma, (int, float, np.integer, np.floating))
    if not number or isinstance(gamma, bool) or not 0 <= float(gamma) < float("inf"):  # type: ignore[arg-type]
        raise InvalidSetting(f"gamma is {gamma!r}, it must be a finite number of at least 0")
    if normalize is not None:
        one_of("normalize", normalize, ("category",))


def _sum(a: RidgeSystem, b: RidgeSystem) -> RidgeSystem:
    return RidgeSystem(
        a.gram + b.gram,
        a.cross + b.cross,
        a.row_sum + b.row_sum,
        a.target_sum + b.target_sum,
        a.mass + b.mass,
        a.energy + b.energy,
        a.rows + b.rows,
        a.accumulate,
    )


def _check_same_space(bank: ClassStatistics, current: ClassStatistics) -> None:
    for name in ("n_features", "device"):
        mine, theirs = getattr(bank, name), getattr(current, name)
        if mine != theirs:
            raise IncompatibleFeatures(
                f"{name} of the bank is {mine}, of the current task {theirs}"
            )
    if bank.space and current.space and bank.space != current.space:
        raise IncompatibleFeatures(
            f"the bank is of space {bank.space!r}, the current task of {current.space!r}: "
            "calibrate the bank first"
        )
