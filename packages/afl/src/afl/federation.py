"""The server's side: a sum of clients' statistics, its ledger, and the head solved from it.

``W = (Σ_k G_k + γI)⁻¹ Σ_k Q_k`` is the ridge regression on everybody's rows, whatever the split
(He et al., AFL, CVPR 2025, whose aggregation law is this weighted mean in another form). The sum is
kept as integers: it does not depend on the order of clients, and one that leaves is gone exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afl.admission import as_bounded, check_admission
from afl.budget import Budget
from afl.client_stats import ROUNDING, ClientStats
from afl.errors import RevealsOneClient, TooFewClients
from afl.exact_total import ExactTotal
from afl.federation_privacy import Privacy, private_statistics, total_claim
from afl.head import LinearHead, intercept_of, solve_system
from afl.ledger import Entry, Ledger
from afl.limits import MINIMUM_COHORT, MINIMUM_ROWS
from afl.privacy_unit import Unit, bounded
from afl.row_weights import row_weights
from lipogram.analytic.blas import matmul
from lipogram.analytic.labels import Label
from lipogram.analytic.selection import gamma_grid, gcv_scores
from lipogram.analytic.settings import positive, whole
from lipogram.analytic.solve import RidgeSystem, eigen_path
from lipogram.errors import (
    IllConditioned,
    InvalidSetting,
    NotSeen,
)
from lipogram.gaussian_mechanism import Spent

LEAST_GAMMA = 1e-9


class Federation:
    """The exact sum of what clients sent, and who is in it.

    Args:
        minimum_rows: a client with fewer rows (but some) is refused, because few rows can be read
            out of their second moment; 1 for simulations. Statistics that claim to be randomised
            are exempt, which cannot be checked: it protects those who tell the truth.
        minimum_clients: no head is solved for fewer clients.
        minimum_cohort: members that a masked cohort must have, and by which any two released totals
            must differ once there is one.
        client_bound: the sums of each client are scaled down to this length as they come in, so
            that heads can hide clients (:mod:`afl.privacy_unit`); None leaves them as they are.
        budget: what private heads may cost together; heads without noise are refused then.

    Attributes:
        ledger: every change of the sum and every private release, in order.
    """

    def __init__(
        self,
        *,
        minimum_rows: int = MINIMUM_ROWS,
        minimum_clients: int = 1,
        minimum_cohort: int = MINIMUM_COHORT,
        client_bound: float | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.minimum_rows = whole("minimum_rows", minimum_rows)
        self.minimum_clients = whole("minimum_clients", minimum_clients)
        self.minimum_cohort = whole("minimum_cohort", minimum_cohort)
        self.ledger = Ledger()
        self._total: ExactTotal | None = None
        self._released: frozenset[str] | None = None
        self._rounding = "float64"
        self.privacy.agree(client_bound, budget)

    # ------------------------------------------------------------------ who is in it

    @property
    def clients(self) -> list[str]:
        """Clients in the sum, cohorts by their members, in order of arrival."""
        held = self.ledger.present.values()
        return list(dict.fromkeys(n for e in held for n in (e.members or (e.client,))))

    @property
    def classes(self) -> list[Label]:
        """Labels in the sum."""
        return [] if self._total is None else list(self._total.classes)

    @property
    def n_rows(self) -> int:
        """Rows in the sum."""
        return 0 if self._total is None else self._total.n_rows

    @property
    def digest(self) -> str:
        """SHA-256 of the exact sum: equal for equal sums, however they came about."""
        return "" if self._total is None else self._total.digest

    @property
    def nbytes(self) -> int:
        """Bytes held by the sum."""
        return 0 if self._total is None else self._total.nbytes

    @property
    def privacy(self) -> Privacy:
        """Bound on clients, budget, and what private heads have cost, from the ledger."""
        return Privacy(self.ledger)

    @property
    def spent(self) -> Spent:
        """What private heads of this sum have cost together the unit that they hide."""
        return self.privacy.spent

    # ------------------------------------------------------------------ join and leave

    def add(
        self, client: str, stats: ClientStats, *, round: int = 0, members: Sequence[str] = ()
    ) -> Entry:
        """Let a client join, late or not; a client may send further rows under a higher round.

        Args:
            client: its name; of a masked cohort, the cohort's.
            stats: its statistics, :meth:`ClientStats.verify`-ed where they came from outside.
            round: its number for them.
            members: of a masked cohort, whose sum ``stats`` is.

        Raises:
            IncompatibleFeatures: another backbone, width, clip or layout than the federation's.
            ReplayedUpload: these statistics, or this round of the client, were here before.
            TooFewClients: fewer rows than ``minimum_rows``, a cohort below ``minimum_cohort``, or
                one that claims noise of more clients than it has.
            InvalidSetting: with ``client_bound``, sums that no bound fits.
            InvalidLabels: classes of another kind.
        """
        whole("round", round, least=0)
        digest = stats.digest
        check_admission(
            self.ledger,
            client,
            stats,
            digest=digest,
            number=round,
            members=members,
            minimum_rows=self.minimum_rows,
            minimum_cohort=self.minimum_cohort,
        )
        if self._total is not None:
            self._total.like.check_same_features(stats, f"client {client!r}")
        held = as_bounded(self.ledger, client, stats, members, self.privacy.client_bound)
        total = self._total or ExactTotal(stats)
        total.add(held)
        self._total = total
        if ROUNDING[stats.rounding] > ROUNDING[self._rounding]:
            self._rounding = stats.rounding
        facts = {"client": client, "round": round, "digest": digest, "members": tuple(members)}
        return self._enter("add", stats, **facts)

    def remove(self, client: str, stats: ClientStats, *, round: int | None = None) -> Entry:
        """Let a client leave: afterwards the sum is that of never having had it.

        Args:
            client: its name.
            stats: the statistics that it had sent; the federation does not keep them.
            round: which of its contributions, where there are several.

        Raises:
            NotSeen: the client is not in the sum, or sent something else.
            RevealsOneClient: it is part of a masked cohort, and the difference would show it.
        """
        digest = stats.digest
        for (name, number), entry in list(self.ledger.present.items()):
            if client in entry.members:
                raise RevealsOneClient(
                    f"client {client!r} is in the masked cohort {entry.client!r}: taking out one "
                    "client would show its statistics; remove the whole cohort, and let the others "
                    "join again in a new one"
                )
            if name == client and round in (None, number) and entry.digest == digest:
                assert self._total is not None
                bound = self.privacy.client_bound
                self._total.subtract(stats if bound is None else bounded(stats, bound))
                facts = {"client": client, "round": number, "digest": digest}
                return self._enter("remove", stats, members=entry.members, **facts)
        raise NotSeen(
            f"client {client!r} is not in the sum with these statistics: it needs the very ones "
            "that were added"
        )

    # ------------------------------------------------------------------ what comes of it

    def total(self) -> ClientStats:
        """The sum as statistics; they claim privacy if all parts do, of one unit, see ``noise``.

        Raises:
            TooFewClients: fewer than ``minimum_clients``, or none.
            RevealsOneClient: with masked cohorts, a total that differs from the one released before
                by fewer than ``minimum_cohort`` clients.
        """
        members = frozenset(self.clients)
        if self._total is None or len(members) < self.minimum_clients:
            raise TooFewClients(
                f"{len(members)} clients are in the sum, {self.minimum_clients} are needed"
            )
        masked = any(entry.members for entry in self.ledger.entries)
        if masked and self._released is not None:
            between = len(members ^ self._released)
            if 0 < between < self.minimum_cohort:
                raise RevealsOneClient(
                    f"this total differs from the last one by {between} clients; "
                    f"wait until it is {self.minimum_cohort}"
                )
        self._released = members
        total = self._total.stats()
        total.noise = total_claim(self.ledger)
        return total

    def solve(
        self,
        gamma: float | str = 1.0,
        *,
        fit_intercept: bool = False,
        class_weight: str | Mapping[Label, float] | None = None,
    ) -> LinearHead:
        """The head of ridge regression on all rows.

        Args:
            gamma: ridge γ ≥ 0, in units of the summed squared features; 0 gives the least-norm
                solution; ``"gcv"`` chooses it by generalised cross-validation from the sums.
            fit_intercept: also fit b, unpenalised.
            class_weight: weight of a row of each class, or ``"balanced"`` for
                ``π_y = n / (k N_y)``; needs statistics with one second moment a class.

        Raises:
            TooFewClients, RevealsOneClient: see :meth:`total`.
            InvalidSetting: see there.
            BudgetSpent: there is a budget, and the sum is not private by itself.
        """
        total, system = self._system(class_weight)
        ridge = gamma if not isinstance(gamma, str) else self._gcv(gamma, system, fit_intercept)
        noisy = any(entry.claim for entry in self.ledger.present.values())
        if noisy and ridge > 0:
            # Noise may have made eigenvalues negative: the path takes them for zero.
            return self._along(total, system, [float(ridge)], fit_intercept)[0]
        weight, intercept, rank, condition = solve_system(
            system, ridge, fit_intercept=fit_intercept
        )
        return self._head(total, weight, intercept, float(ridge), rank, condition)

    def solve_private(
        self,
        *,
        epsilon: float,
        delta: float,
        classes: Sequence[Label],
        unit: Unit = "row",
        bound: float | None = None,
        seed: int | None = None,
    ) -> LinearHead:
        """A head that hides each row, or client, from whoever sees it; the server is trusted.

        γ adapts to the noise, see :mod:`afl.adassp`. Each call costs its ε again; :attr:`privacy`
        composes them. :meth:`save` before the head leaves the process, so that no cost is lost.

        Args:
            epsilon: ε > 0.
            delta: δ, far below one over the number of rows, or of clients.
            classes: labels that everybody knows.
            unit: what is hidden; a client only with ``client_bound``, a row only without.
            bound: for the unit client, ``client_bound`` again, or None.
            seed: for tests; None draws one from the system's secure source.

        Raises:
            BudgetSpent: more than the budget; nothing was drawn, and nothing changed.
            TooFewClients, RevealsOneClient: see :meth:`total`.
            InvalidSetting, IncompatibleFeatures: see :func:`afl.adassp.adassp`; a unit that this
                sum cannot hide.
        """
        noisy, gamma = private_statistics(
            self, epsilon=epsilon, delta=delta, classes=classes, unit=unit, bound=bound, seed=seed
        )
        head, *_ = self._along(noisy, noisy.reweight(), [max(gamma, LEAST_GAMMA)], False)
        return head

    def path(
        self,
        gammas: Sequence[float],
        *,
        fit_intercept: bool = False,
        class_weight: str | Mapping[Label, float] | None = None,
    ) -> list[LinearHead]:
        """One head for each γ > 0, from one eigendecomposition of the sum.

        Raises:
            InvalidSetting: a γ that is not finite and positive.
        """
        for gamma in gammas:
            positive("gamma", gamma)
        total, system = self._system(class_weight)
        return self._along(total, system, gammas, fit_intercept)

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | Path) -> Path:
        """Write the exact sum and the ledger to one safetensors file, atomically.

        Raises:
            TooFewClients: nothing is in the sum yet.
        """
        from afl.federation_state import write_federation

        return write_federation(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Federation:
        """The federation that :meth:`save` wrote; its sum is checked against its ledger.

        Raises:
            FileNotFoundError: no such file.
            CorruptState: a damaged file, or a sum or ledger that was changed.
        """
        from afl.federation_state import read_federation

        return read_federation(path)

    # ------------------------------------------------------------------ inside

    def _enter(self, action: str, stats: ClientStats, **facts: Any) -> Entry:
        return self.ledger.append(
            action=action, rows=stats.n_rows, total=self.digest, claim=stats.noise, **facts
        )

    def _system(
        self, class_weight: str | Mapping[Label, float] | None
    ) -> tuple[ClientStats, RidgeSystem]:
        self.privacy.check_exact()
        total = self.total()
        if class_weight is None:
            return total, total.reweight()
        return total, total.reweight(row_weights(total, class_weight))

    def _along(
        self,
        total: ClientStats,
        system: RidgeSystem,
        gammas: Sequence[float],
        fit_intercept: bool,
    ) -> list[LinearHead]:
        values, vectors, projected = eigen_path(system, fit_intercept=fit_intercept)
        heads = []
        for gamma in gammas:
            weight = matmul(vectors, projected / (values + gamma)[:, None])
            condition = float((values[-1] + gamma) / (values[0] + gamma))
            intercept = intercept_of(system, weight, fit_intercept)
            heads.append(self._head(total, weight, intercept, float(gamma), len(values), condition))
        return heads

    def _gcv(self, name: str, system: RidgeSystem, fit_intercept: bool) -> float:
        if name != "gcv":
            raise InvalidSetting(f'gamma is {name!r}, it must be a number or "gcv"')
        grid = gamma_grid(system)
        return float(grid[int(np.argmin(gcv_scores(system, grid, fit_intercept=fit_intercept)))])

    def _head(
        self,
        total: ClientStats,
        weight: torch.Tensor,
        intercept: torch.Tensor,
        gamma: float,
        rank: int,
        condition: float,
    ) -> LinearHead:
        lost = condition * ROUNDING[self._rounding]
        if lost > 0.1:
            warnings.warn(
                f"condition number {condition:.1e} with {self._rounding} uploads: the head may "
                "have no correct digit; raise gamma or ask for uploads in float64",
                IllConditioned,
                stacklevel=3,
            )
        return LinearHead(
            weight,
            intercept,
            tuple(total.classes),
            gamma,
            rank,
            condition,
            total.space,
            total.feature_map,
        )
