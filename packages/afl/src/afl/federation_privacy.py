"""What a federation promises about privacy, all of it read from its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afl.adassp import adassp
from afl.budget import Account, Budget, cost_of
from afl.claims import Claim, composed_claim, joint_claim
from afl.client_stats import ClientStats
from afl.errors import BudgetSpent
from afl.ledger import Ledger
from afl.privacy_unit import Unit, check_unit
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import positive
from lipogram.errors import CorruptState, InvalidSetting
from lipogram.gaussian_mechanism import Spent

if TYPE_CHECKING:
    from afl.federation import Federation


class Privacy:
    """The terms and the costs of a federation, as its ledger tells them.

    Args:
        ledger: of the federation; new terms go there.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def client_bound(self) -> float | None:
        """Length that each client's sums are scaled down to, or None."""
        return self._terms()[0]

    @property
    def budget(self) -> Budget | None:
        """What private heads may cost together, or None."""
        return self._terms()[1]

    @property
    def account(self) -> Account:
        """What private heads have cost a row, and a client, together.

        Raises:
            CorruptState: a release without its cost.
        """
        try:
            return Account.composed(self._ledger.claims("release"))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptState(f"a release of the ledger has no cost: {error}") from None

    @property
    def spent(self) -> Spent:
        """What they have cost the unit that they hide."""
        return self.account.of("row" if self.client_bound is None else "client")

    def agree(self, client_bound: float | None, budget: Budget | None) -> None:
        """Write down other terms, or nothing where they are the same.

        Raises:
            InvalidSetting: a bound that is no positive number, or another one than that of the
                clients who are in the sum.
        """
        if client_bound is not None:
            positive("client_bound", client_bound)
        if client_bound != self.client_bound and self._ledger.present:
            raise InvalidSetting(
                f"client_bound is {client_bound}, the clients in the sum have {self.client_bound}"
            )
        if (client_bound, budget) != self._terms():
            told = None if budget is None else budget.describe()
            self._ledger.note("terms", {"client_bound": client_bound, "budget": told})

    def check_exact(self) -> None:
        """Refuse a head without noise where there is a budget, unless the sum is private already.

        Raises:
            BudgetSpent: rows or clients would show, which no budget allows.
        """
        budget = self.budget
        if budget is not None and total_claim(self._ledger) is None:
            raise BudgetSpent(
                f"a head without noise costs a {budget.unit} more than any budget: ask for a "
                "private one"
            )

    def _terms(self) -> tuple[float | None, Budget | None]:
        told = self._ledger.claims("terms")
        if not told:
            return None, None
        try:
            bound = told[-1]["client_bound"]
            bound = None if bound is None else positive("client_bound", bound)
            return bound, Budget.of(told[-1]["budget"])
        except (KeyError, TypeError) as error:
            raise CorruptState(f"the terms of the ledger do not fit together: {error}") from None


def total_claim(ledger: Ledger) -> Claim | None:
    """What the sum of everything present claims: the weakest of its parts, if all claim one unit.

    Rows lie in one part each. A client that is in several pays for all of them together.
    """
    present = list(ledger.present.values())
    claims = [None if e.claim is None else dict(e.claim) for e in present]
    joint = joint_claim(claims)
    if joint is None or joint["unit"] == "row":
        return joint
    of_client: dict[str, list[Claim]] = {}
    for entry, claim in zip(present, claims, strict=True):
        for name in entry.members or (entry.client,):
            of_client.setdefault(name, []).append(claim or {})
    worst = joint_claim(composed_claim(parts) for parts in of_client.values())
    return worst and joint | {"epsilon": worst["epsilon"]}


def private_statistics(
    held: Federation,
    *,
    epsilon: float,
    delta: float,
    classes: Sequence[Label],
    unit: Unit,
    bound: float | None,
    seed: int | None,
) -> tuple[ClientStats, float]:
    """Noisy statistics of a federation's total and their γ; the cost goes to its ledger.

    The budget is asked before the total is touched or noise is drawn.

    Raises:
        BudgetSpent, InvalidSetting, TooFewClients: see :meth:`Federation.solve_private`.
    """
    client_bound, budget = held.privacy.client_bound, held.privacy.budget
    if unit == "client" and bound is None:
        bound = client_bound
    if unit == "client" and (client_bound is None or bound != client_bound):
        raise InvalidSetting(
            "a client is hidden only where each was bounded as it came in: this federation has "
            f"client_bound {client_bound}, asked for was {bound}"
        )
    if unit == "row" and client_bound is not None:
        raise InvalidSetting(
            "this federation bounds clients: ask for the unit client, which hides rows too"
        )
    check_unit(unit, bound)
    clip = None if held._total is None else held._total.like.clip
    if clip is None:
        raise InvalidSetting("noise hides rows of a known size: make the statistics with a clip")
    cost = cost_of(unit, epsilon, delta, clip=clip, bound=bound)
    if budget is not None:
        budget.check(held.privacy.account, cost, delta)
    total = held.total()
    total.noise = None  # what it has already is no reason against more
    made = adassp(
        total, epsilon=epsilon, delta=delta, classes=classes, unit=unit, bound=bound, seed=seed
    )
    told = {"unit": unit, "epsilon": epsilon, "delta": delta, **cost.describe()}
    held.ledger.note("release", told)
    return made
