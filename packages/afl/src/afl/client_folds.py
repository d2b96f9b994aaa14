"""Choosing γ by clients that are left out, from their sums alone.

For each fold of clients the head of everybody else is scored on the fold:
``‖Y − ZW‖² = tr(YᵀY) − 2 tr(WᵀQ) + tr(WᵀGW)``, so no row is needed, only what each client sent.
Where clients differ, this is the error on a client that did not take part, which no split of the
rows tells. Under masks nobody has one client's sums, so it is impossible there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.row_weights import row_weights
from lipogram.analytic.labels import Label
from lipogram.analytic.selection import fold_losses, gamma_grid
from lipogram.analytic.settings import positive, whole
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import InvalidSetting, NotSeen

FOLDS = 10


@dataclass(frozen=True)
class ClientFolds:
    """What heads without a fold of clients lose on it.

    Attributes:
        gammas: (G,) candidates.
        losses: (F, G) squared loss of each fold, summed over its rows.
        rows: (F,) rows of each fold.
        members: clients of each fold.
    """

    gammas: NDArray[np.float64]
    losses: NDArray[np.float64]
    rows: NDArray[np.int64]
    members: list[list[str]]

    @property
    def loss(self) -> NDArray[np.float64]:
        """Squared loss a row, over all folds, (G,)."""
        mean: NDArray[np.float64] = self.losses.sum(0) / self.rows.sum()
        return mean

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Of :attr:`loss` over folds of unequal size (G,): that of a ratio of sums.

        Cochran, Sampling Techniques, 1977, chapter 6.
        """
        folds = len(self.rows)
        residual = self.losses - self.loss * self.rows[:, None]
        spread = (residual**2).sum(0) * folds / (folds - 1)
        error: NDArray[np.float64] = np.sqrt(spread) / self.rows.sum()
        return error

    @property
    def best(self) -> float:
        """γ of the least loss."""
        return float(self.gammas[int(np.argmin(self.loss))])


def leave_clients_out(
    total: ClientStats,
    stats: Mapping[str, ClientStats],
    *,
    gammas: Sequence[float] | None = None,
    folds: int = FOLDS,
    fit_intercept: bool = False,
    class_weight: str | Mapping[Label, float] | None = None,
) -> ClientFolds:
    """Score each γ on clients that the head has not seen; one eigendecomposition a fold.

    Args:
        total: the sum over all clients.
        stats: of the clients to leave out in turn, parts of the sum; all of them or some. Empty
            ones are left aside. Which fold a client is in follows from a hash of its name.
        gammas: candidates γ > 0; by default 33 from 10⁻⁵ to 10³ times the mean eigenvalue of G.
        folds: most folds; a client of its own each where there are no more clients than that.
        fit_intercept: whether the heads have an intercept.
        class_weight: of the heads and of the loss, see :meth:`afl.Federation.solve`.

    Raises:
        TooFewClients: fewer than two clients with rows.
        InvalidSetting: statistics with noise, which would be taken for loss; a γ that is not
            positive; class weights without one second moment a class.
        IncompatibleFeatures: clients of other features than the sum's.
        NotSeen: clients that are not in the sum.
    """
    held = {name: each for name, each in stats.items() if each.n_rows}
    if len(held) < 2:
        raise TooFewClients(
            f"{len(held)} clients have rows, at least 2 are needed to leave one out"
        )
    if noisy := [name for name, each in held.items() if each.noise is not None]:
        raise InvalidSetting(f"the statistics of {noisy[0]!r} have noise: name gamma as a number")
    weight = None if class_weight is None else row_weights(total, class_weight)
    system = total.reweight(weight)
    tried = gamma_grid(system) if gammas is None else [positive("gamma", g) for g in gammas]
    grid = np.asarray(tried, dtype=float)
    order = sorted(held, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(whole("folds", folds, least=2), len(order))
    members = [sorted(order[start::count]) for start in range(count)]

    def parts() -> Iterator[RidgeSystem]:
        for fold in members:
            yield part_of(total, {name: held[name] for name in fold}, weight)

    kept, left_out = itertools.tee(parts())  # one fold's matrices at a time
    losses = fold_losses(
        (without(system, part) for part in kept), left_out, grid, fit_intercept=fit_intercept
    )
    rows = np.array([sum(held[name].n_rows for name in fold) for fold in members])
    return ClientFolds(grid, losses, rows, members)


def part_of(
    total: ClientStats, stats: Mapping[str, ClientStats], weight: NDArray[np.float64] | None = None
) -> RidgeSystem:
    """The sums of some clients, over the classes of the total in its order.

    Args:
        total: the sum.
        stats: of clients in it.
        weight: of a row of each class (k,), see :meth:`ClientStats.reweight`.

    Raises:
        IncompatibleFeatures: other features than the sum's.
        NotSeen: more rows of a class than the sum has.
    """
    made = total.like()
    made.noise = None
    made.declare(total.classes)
    for name, each in stats.items():
        total.check_same_features(each, f"client {name!r}")
        made.merge(each)
    if len(made.classes) > len(total.classes) or (made.counts > total.counts).any():
        raise NotSeen(f"{_named(stats)} have more rows of a class than the sum: they are not in it")
    return made.reweight(weight)


def without(total: RidgeSystem, part: RidgeSystem) -> RidgeSystem:
    """The total less one part, over the same classes."""
    return RidgeSystem(
        total.gram - part.gram,
        total.cross - part.cross,
        total.row_sum - part.row_sum,
        total.target_sum - part.target_sum,
        total.mass - part.mass,
        total.energy - part.energy,
        total.rows - part.rows,
    )


def _named(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"client {first!r} and {len(others)} more" if others else f"clients like {first!r}"
