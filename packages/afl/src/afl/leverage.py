"""How far each client moves the head, from its sums alone.

With the Cholesky factor ``G + γI = LLᵀ`` of the whole sum and ``M_k = L⁻¹ G_k L⁻ᵀ``, the head
without client k is ``W₋ₖ = L⁻ᵀ (I − M_k)⁻¹ L⁻¹ (Q − Q_k)``: one factor serves all clients. A client
that weighs far more than its rows may be broken, poisoned, or the only one to have what it has.
Under masks nobody can look at one client, so there is no such report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import eigh, lapack
from torch import Tensor

from afl.client_folds import part_of
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from lipogram.analytic.settings import positive
from lipogram.analytic.solve import RidgeSolution, RidgeSystem, cholesky, cholesky_solve
from lipogram.errors import InvalidSetting
from lipogram.report import Table

FACTOR = 3.0


@dataclass(frozen=True)
class Leverage:
    """One client's weight in the sum.

    Attributes:
        client: its name.
        rows: its rows n_k.
        share_of_rows: n_k / n.
        share_of_energy: tr(G_k) / tr(G), its part of the summed squared features.
        degrees_of_freedom: tr((G + γI)⁻¹ G_k); over all clients they sum to those of the head.
        steepest: largest eigenvalue of (G + γI)⁻¹ G_k, 0 to 1: near 1, some direction of the
            features is this client's alone.
        shift: ‖W − W₋ₖ‖ / ‖W‖ (Frobenius), how far the head moves without it.
        loss: squared loss a row of W₋ₖ on the client's own rows.
        flags: which figures are more than three times their median over clients: ``scale``, energy
            for its rows; ``directions``, degrees of freedom for its rows; ``pull``, shift for the
            root of its rows, as the shift by alike rows grows; ``loss``.
    """

    client: str
    rows: int
    share_of_rows: float
    share_of_energy: float
    degrees_of_freedom: float
    steepest: float
    shift: float
    loss: float
    flags: tuple[str, ...] = ()


def leverage_of(
    total: ClientStats, stats: Mapping[str, ClientStats], *, gamma: float = 1.0
) -> list[Leverage]:
    """Every client with rows, the one that moves the head most first.

    Args:
        total: the sum over all clients.
        stats: of clients in it, all or some; medians are taken over these.
        gamma: ridge γ > 0.

    Raises:
        TooFewClients: no client with rows.
        InvalidSetting: γ is not positive, or statistics with noise, which would be taken for rows.
        IncompatibleFeatures: clients of other features than the sum's.
        NotSeen: clients that are not in the sum.
        SingularSystem: γ is too small for the sum.
    """
    ridge = positive("gamma", gamma)
    held = {name: each for name, each in stats.items() if each.n_rows}
    if not held:
        raise TooFewClients("no client has rows: there is nothing to compare")
    if noisy := [name for name, each in held.items() if each.noise is not None]:
        raise InvalidSetting(f"the statistics of {noisy[0]!r} have noise, which looks like rows")
    system = total.reweight()
    factor, _ = cholesky(system.gram, ridge)
    weight = cholesky_solve(factor, system.cross)
    found = [
        _of_client(name, part_of(total, {name: each}), system, factor, weight)
        for name, each in held.items()
    ]
    return sorted(_flagged(found), key=lambda each: (-each.shift, each.client))


def leverage_table(found: Sequence[Leverage]) -> Table:
    """The report as a table."""
    columns = "client rows share energy d.o.f. steepest shift loss flags".split()
    return Table(
        columns=columns,
        rows=[
            [
                each.client,
                each.rows,
                each.share_of_rows,
                each.share_of_energy,
                each.degrees_of_freedom,
                each.steepest,
                each.shift,
                each.loss,
                ", ".join(each.flags),
            ]
            for each in found
        ],
        highlight=[number for number, each in enumerate(found) if each.flags],
        caption=(
            "share of rows and of squared features, degrees of freedom, largest eigenvalue; how "
            "far the head moves without the client, and the loss a row of that head on it. Flags: "
            "energy (scale) or degrees of freedom (directions) a row, shift by the root of the "
            f"rows (pull), or loss, is more than {FACTOR:g} times its median"
        ),
    )


def _of_client(
    name: str, part: RidgeSystem, system: RidgeSystem, factor: Tensor, weight: Tensor
) -> Leverage:
    # Row-major lower triangles are column-major upper ones: dsygst turns Uᵀ\G_k/U into M_k.
    reduced, _ = lapack.dsygst(part.gram.numpy().T, factor.numpy().T, itype=1, lower=0)
    size = len(reduced)
    top = eigh(reduced, lower=False, eigvals_only=True, subset_by_index=[size - 1, size - 1])
    rest = torch.from_numpy(-reduced.T)
    degrees = -float(rest.diagonal().sum())
    rest.diagonal().add_(1.0)
    own, _ = cholesky(rest, 0.0)
    right = torch.linalg.solve_triangular(factor, system.cross - part.cross, upper=False)
    inner = cholesky_solve(own, right.contiguous())
    others = torch.linalg.solve_triangular(factor.T, inner, upper=True).contiguous()
    head = RidgeSolution(others, torch.zeros_like(system.target_sum), math.nan, 0.0)
    return Leverage(
        client=name,
        rows=part.rows,
        share_of_rows=part.rows / system.rows,
        share_of_energy=float(part.gram.diagonal().sum() / system.gram.diagonal().sum()),
        degrees_of_freedom=degrees,
        steepest=float(top[0]),
        shift=float((weight - others).norm() / weight.norm()),
        loss=part.loss(head) / part.mass,
    )


def _flagged(found: Sequence[Leverage]) -> list[Leverage]:
    rows = np.array([each.share_of_rows for each in found])
    figures = {
        "scale": np.array([each.share_of_energy for each in found]) / rows,
        "directions": np.array([each.degrees_of_freedom for each in found]) / rows,
        "pull": np.array([each.shift for each in found]) / np.sqrt(rows),
        "loss": np.array([each.loss for each in found]),
    }
    high = {name: values > FACTOR * np.median(values) for name, values in figures.items()}
    return [
        replace(each, flags=tuple(name for name, above in high.items() if above[number]))
        for number, each in enumerate(found)
    ]
