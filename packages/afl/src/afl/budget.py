"""What releases have cost a row and a client, and how much they may.

A row and a client lose different amounts by one release, so the two are counted apart and never
added up. What hides a client hides each of its rows, at the cost that :mod:`afl.privacy_unit`
derives, and counts for both. What hides rows bounds nothing for a client: its count is infinite
from then on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from afl.errors import BudgetSpent
from afl.privacy_unit import Unit, moves
from lipogram.analytic.settings import one_of
from lipogram.gaussian_mechanism import LARGEST_MU, Spent, epsilon_of, mu_of

ROUNDED = 1 + 1e-12  # a budget spent to the last digit is not overdrawn


@dataclass(frozen=True)
class Account:
    """What releases of the same data have cost together, each unit for itself.

    Attributes:
        row: what a row has lost.
        client: what a client has lost; infinite once a release hid rows only.
    """

    row: Spent = field(default_factory=Spent)
    client: Spent = field(default_factory=Spent)

    def and_then(self, cost: Account) -> Account:
        """With one more release."""
        return Account(
            Spent(math.hypot(self.row.mu, cost.row.mu)),
            Spent(math.hypot(self.client.mu, cost.client.mu)),
        )

    def of(self, unit: str) -> Spent:
        """The count of one unit."""
        return self.client if one_of("unit", unit, get_args(Unit)) == "client" else self.row

    def describe(self) -> dict[str, float | None]:
        """Both μ as JSON values, ``row_mu`` and ``client_mu``; None for infinity."""
        mus = {"row_mu": self.row.mu, "client_mu": self.client.mu}
        return {name: None if mu == math.inf else mu for name, mu in mus.items()}

    @classmethod
    def composed(cls, described: Iterable[Mapping[str, Any]]) -> Account:
        """The account of releases that :meth:`describe` described, other facts among them or not.

        Raises:
            KeyError, TypeError, ValueError: no such descriptions.
        """
        total = cls()
        for each in described:
            mus = [each[f"{unit}_mu"] for unit in get_args(Unit)]
            costs = [math.inf if mu is None else float(mu) for mu in mus]
            if not all(cost >= 0 for cost in costs):
                raise ValueError(f"a release cannot cost {min(costs)}")
            total = total.and_then(cls(*map(Spent, costs)))
        return total


def cost_of(
    unit: str, epsilon: float, delta: float, *, clip: float, bound: float | None = None
) -> Account:
    """What one release with the least noise for (ε, δ) costs a row and a client.

    Args:
        unit: what it hides.
        epsilon: ε.
        delta: δ.
        clip: B.
        bound: C, where it hides clients.

    Raises:
        InvalidSetting: see :func:`lipogram.gaussian_mechanism.mu_of` and
            :func:`afl.privacy_unit.check_unit`.
    """
    moved = moves(unit, clip, bound)
    sigma = moved[unit] / mu_of(epsilon, delta)
    return Account(Spent(moved["row"] / sigma), Spent(moved["client"] / sigma))


@dataclass(frozen=True)
class Budget:
    """How much a row, or a client, may lose by all releases together.

    Attributes:
        epsilon: ε > 0.
        delta: δ in (0, 1).
        unit: whose loss is bounded. A budget for clients admits no release that hides rows only.

    Raises:
        InvalidSetting: a number outside its range, or another unit.
    """

    epsilon: float
    delta: float
    unit: Unit = "row"

    def __post_init__(self) -> None:
        mu_of(self.epsilon, self.delta)
        one_of("unit", self.unit, get_args(Unit))

    def left(self, account: Account, delta: float | None = None) -> float:
        """ε of the largest single release that is still within the budget; 0 for none.

        Args:
            account: what was spent so far.
            delta: δ of that release, the budget's by default.
        """
        whole, spent = mu_of(self.epsilon, self.delta), account.of(self.unit).mu
        if spent >= whole:
            return 0.0
        mu = min(math.sqrt(whole**2 - spent**2), LARGEST_MU)
        return epsilon_of(mu, self.delta if delta is None else delta)

    def check(self, account: Account, cost: Account, delta: float | None = None) -> None:
        """Refuse a release that would overdraw the budget.

        Args:
            account: what was spent so far.
            cost: of the release, see :func:`cost_of`.
            delta: its δ, for the message.

        Raises:
            BudgetSpent: it would; the message tells what is left.
        """
        after = account.and_then(cost).of(self.unit)
        if after.mu <= mu_of(self.epsilon, self.delta) * ROUNDED:
            return
        told = told_epsilon(after, self.delta)
        at = self.delta if delta is None else delta
        left = self.left(account, at)
        raise BudgetSpent(
            f"with this release a {self.unit} would have lost {told}, the budget is ε "
            f"{self.epsilon:g} at δ {self.delta:g}: "
            + (f"ε {_down(left)} at δ {at:g} is left" if left > 0 else "nothing is left")
        )

    def describe(self) -> dict[str, Any]:
        """The budget as JSON values."""
        return {"epsilon": self.epsilon, "delta": self.delta, "unit": self.unit}

    @classmethod
    def of(cls, described: Mapping[str, Any] | None) -> Budget | None:
        """The budget that :meth:`describe` described, or None.

        Raises:
            InvalidSetting, KeyError, TypeError: no such description.
        """
        if described is None:
            return None
        return cls(*(described[name] for name in ("epsilon", "delta", "unit")))


def told_epsilon(spent: Spent, delta: float) -> str:
    """What was spent, for a person."""
    epsilon = spent.epsilon(delta)
    return "more than any ε" if epsilon == math.inf else f"ε {epsilon:.4g} at δ {delta:g}"


def _down(value: float) -> str:
    """Four digits, rounded down: what is told to be left is never refused for its last digit."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.floor(value / unit) * unit:.4g}"
