"""Choosing γ by clients that are left out, from their sums alone.

For each fold of clients the head of all others is scored on the fold:
``‖Y − ZW‖² = tr(YᵀY) − 2 tr(WᵀQ) + tr(WᵀGW)``, so no row is needed, only each client's own sums.
They are there in a federation by files, and never under masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from lipogram.analytic.labels import Label
from lipogram.analytic.selection import fold_losses, gamma_grid
from lipogram.analytic.settings import positive, whole
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import InvalidSetting

FOLDS = 10


@dataclass(frozen=True)
class ClientFolds:
    """What heads without a fold of clients lose on it.

    Attributes:
        gammas: (G,) candidates.
        losses: (F, G) squared loss of each fold, summed over its rows.
        rows: (F,) rows of each fold.
        members: clients of each fold.
        best: γ of the least loss a row over all folds.
        loss: (G,) that loss.
        standard_error: (G,) of it, over folds.
    """

    gammas: NDArray[np.float64]
    losses: NDArray[np.float64]
    rows: NDArray[np.int64]
    members: list[list[str]]

    @property
    def loss(self) -> NDArray[np.float64]:
        """Held-out squared loss a row, (G,)."""
        mean: NDArray[np.float64] = self.losses.sum(0) / self.rows.sum()
        return mean

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error of :attr:`loss` over folds, weighted by their rows, (G,)."""
        share = self.rows / self.rows.sum()
        each = self.losses / self.rows[:, None]
        folds = len(self.rows)
        spread = (share[:, None] ** 2 * (each - self.loss) ** 2).sum(0)
        error: NDArray[np.float64] = np.sqrt(spread * folds / (folds - 1))
        return error

    @property
    def best(self) -> float:
        """γ of the least loss."""
        return float(self.gammas[int(np.argmin(self.loss))])


def leave_clients_out(
    stats: Mapping[str, ClientStats],
    *,
    gammas: Sequence[float] | None = None,
    folds: int = FOLDS,
    fit_intercept: bool = False,
) -> ClientFolds:
    """Score each γ on clients that the head has not seen; one eigendecomposition a fold.

    Args:
        stats: of each client; empty ones are left aside. Folds follow a hash of the names.
        gammas: candidates γ > 0; by default 33 on a logarithmic grid around the mean eigenvalue.
        folds: most folds; a client of its own each where there are no more clients than that.
        fit_intercept: whether the heads have an intercept.

    Raises:
        TooFewClients: fewer than two clients with rows.
        InvalidSetting: statistics with noise, whose loss says nothing; a γ that is not positive.
        IncompatibleFeatures: clients of different features.
    """
    held = {name: each for name, each in stats.items() if each.n_rows}
    if len(held) < 2:
        raise TooFewClients(
            f"{len(held)} clients have rows, at least 2 are needed to leave one out"
        )
    if noisy := [name for name, each in held.items() if each.noise is not None]:
        raise InvalidSetting(f"the statistics of {noisy[0]!r} have noise: choose gamma by gcv")
    total, systems = systems_of(held)
    grid = (
        gamma_grid(total) if gammas is None else np.asarray([positive("gamma", g) for g in gammas])
    )
    order = sorted(held, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(whole("folds", folds, least=2), len(order))
    members = [sorted(order[start::count]) for start in range(count)]
    parts = [joined([systems[name] for name in fold]) for fold in members]
    losses = fold_losses(
        (without(total, part) for part in parts), parts, grid, fit_intercept=fit_intercept
    )
    return ClientFolds(grid, losses, np.array([part.rows for part in parts]), members)


def systems_of(stats: Mapping[str, ClientStats]) -> tuple[RidgeSystem, dict[str, RidgeSystem]]:
    """The sums of all clients and of each, over the same classes in the same order.

    Raises:
        IncompatibleFeatures: clients of different features.
    """
    first = next(iter(stats.values()))
    labels: dict[Label, None] = {}
    for name, each in stats.items():
        first.check_same_features(each, f"client {name!r}")
        labels |= dict.fromkeys(each.classes)
    systems = {name: _aligned(each, list(labels)) for name, each in stats.items()}
    return joined(list(systems.values())), systems


def joined(systems: Sequence[RidgeSystem]) -> RidgeSystem:
    """The sum of systems over the same classes."""
    return RidgeSystem(
        torch.stack([s.gram for s in systems]).sum(0),
        torch.stack([s.cross for s in systems]).sum(0),
        torch.stack([s.row_sum for s in systems]).sum(0),
        torch.stack([s.target_sum for s in systems]).sum(0),
        sum(s.mass for s in systems),
        sum(s.energy for s in systems),
        sum(s.rows for s in systems),
    )


def without(total: RidgeSystem, part: RidgeSystem) -> RidgeSystem:
    """The total without one part."""
    return RidgeSystem(
        total.gram - part.gram,
        total.cross - part.cross,
        total.row_sum - part.row_sum,
        total.target_sum - part.target_sum,
        total.mass - part.mass,
        total.energy - part.energy,
        total.rows - part.rows,
    )


def _aligned(stats: ClientStats, labels: list[Label]) -> RidgeSystem:
    system = stats.reweight()
    cross = torch.zeros(system.gram.shape[0], len(labels), dtype=system.cross.dtype)
    targets = torch.zeros(len(labels), dtype=system.target_sum.dtype)
    where = [labels.index(label) for label in stats.classes]
    cross[:, where], targets[where] = system.cross.cpu(), system.target_sum.cpu()
    return RidgeSystem(
        system.gram.cpu().tril(),
        cross,
        system.row_sum.cpu(),
        targets,
        system.mass,
        system.energy,
        system.rows,
    )
