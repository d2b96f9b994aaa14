"""How much each client moves the head: to be looked at where statistics come without masks.

A client that lies consistently cannot be told from one that has unusual rows; this shows both.
Under masks nobody can look at one client, so there is no such report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from afl.client_folds import systems_of, without
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from lipogram.analytic.settings import positive
from lipogram.report import Table

FLAG = 5.0


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
        flags: ``scale`` where its share of energy is more than five times its share of rows, and
            ``pull`` where its shift for its share of rows is more than five times the median.
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


def leverage_of(stats: Mapping[str, ClientStats], *, gamma: float = 1.0) -> list[Leverage]:
    """Every client with rows, the one that moves the head most first.

    Args:
        stats: of each client.
        gamma: ridge γ > 0.

    Raises:
        TooFewClients: fewer than two clients with rows.
        InvalidSetting: γ is not positive.
        IncompatibleFeatures: clients of different features.
    """
    ridge = positive("gamma", gamma)
    held = {name: each for name, each in stats.items() if each.n_rows}
    if len(held) < 2:
        raise TooFewClients(f"{len(held)} clients have rows, at least 2 are needed to compare")
    total, systems = systems_of(held)
    identity = torch.eye(total.gram.shape[0], dtype=torch.float64)
    factor = torch.linalg.cholesky(_whole(total.gram) + ridge * identity)
    weight = torch.cholesky_solve(total.cross, factor)
    found = []
    for name, part in systems.items():
        gram = _whole(part.gram)
        half = torch.linalg.solve_triangular(factor, gram, upper=False)
        relative = torch.linalg.solve_triangular(factor, half.T, upper=False)
        others = without(total, part).solve(ridge)
        found.append(
            Leverage(
                client=name,
                rows=part.rows,
                share_of_rows=part.rows / total.rows,
                share_of_energy=float(gram.trace() / total.gram.trace()),
                degrees_of_freedom=float(relative.trace()),
                steepest=float(torch.linalg.eigvalsh(relative)[-1]),
                shift=float((weight - others.weight).norm() / weight.norm()),
                loss=part.loss(others) / part.rows,
            )
        )
    middle = float(np.median([each.shift / each.share_of_rows for each in found]))
    flagged = [Leverage(**asdict(each) | {"flags": _flags(each, middle)}) for each in found]
    return sorted(flagged, key=lambda each: -each.shift)


def leverage_table(found: list[Leverage]) -> Table:
    """The report as a table."""
    return Table(
        columns=[
            "client",
            "rows",
            "share",
            "energy",
            "d.o.f.",
            "steepest",
            "shift",
            "loss",
            "flag",
        ],
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
        caption=(
            "Share of rows and of squared features; degrees of freedom; how far the head moves "
            "without the client, and the others' squared loss a row on it."
        ),
    )


def _flags(each: Leverage, middle: float) -> tuple[str, ...]:
    raised = {
        "scale": each.share_of_energy > FLAG * each.share_of_rows,
        "pull": each.shift / each.share_of_rows > FLAG * middle,
    }
    return tuple(name for name, up in raised.items() if up)


def _whole(lower: torch.Tensor) -> torch.Tensor:
    return lower.tril() + lower.tril(-1).T
