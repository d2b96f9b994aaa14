import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afl import federation_privacy
from afl.budget import Account, Budget, cost_of
from afl.client_stats import ClientStats
from afl.errors import BudgetSpent
from afl.federation import Federation
from afl.ledger import Ledger
from afl.noisy_stats import release
from afl.privacy_unit import sensitivity_of
from lipogram.analytic.datasets import digits
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, InvalidSetting
from lipogram.gaussian_mechanism import Spent, epsilon_of, mu_of

X, Y = digits()
STATS = ClientStats.compute(X, Y, clip=1.0)
ASKED = {"delta": 1e-5, "classes": range(10)}
MU = mu_of(1.0, 1e-5)


def of_rows(epsilon=1.0):
    return cost_of("row", epsilon, 1e-5, clip=1.0)


def of_clients(epsilon=1.0, bound=100.0):
    return cost_of("client", epsilon, 1e-5, clip=1.0, bound=bound)


def federation_with(budget, **settings):
    federation = Federation(budget=budget, **settings)
    federation.add("a", STATS)
    return federation


# ---------------------------------------------------------------------- two counts


def test_releases_compose_exactly_and_each_unit_for_itself():
    account = Account()
    for _ in range(4):
        account = account.and_then(of_clients())
    assert account.client.mu == pytest.approx(2 * MU)
    assert account.client.epsilon(1e-5) == pytest.approx(epsilon_of(2 * MU, 1e-5))
    # A row is one of many in a client: what hides the client costs a row less, and not nothing.
    assert account.row.mu == pytest.approx(2 * MU * sensitivity_of(1.0) / 100)


def test_rows_and_clients_are_never_added_up():
    account = Account().and_then(of_rows()).and_then(of_clients()).and_then(of_rows(2.0))
    of_row = [MU, MU * sensitivity_of(1.0) / 100, mu_of(2.0, 1e-5)]
    assert account.of("row").mu == pytest.approx(math.hypot(*of_row))
    assert account.of("row").mu < math.hypot(MU, MU, mu_of(2.0, 1e-5))
    assert account.of("client").mu == math.inf  # what hides rows bounds nothing for a client
    assert account.of("client").epsilon(1e-5) == math.inf
    with pytest.raises(InvalidSetting, match="unit"):
        account.of("all")


def test_a_row_of_a_bounded_client_loses_no_more_than_both_bounds_allow():
    tight = of_clients(bound=0.5)  # below the sensitivity of a row: a row moves 2C at most
    assert tight.row.mu == pytest.approx(2 * MU)
    assert of_clients(bound=1.0).row.mu == pytest.approx(sensitivity_of(1.0) * MU)


@given(st.lists(st.tuples(st.sampled_from(["row", "client"]), st.floats(0.01, 9)), max_size=6))
def test_an_account_is_what_its_description_says(releases):
    costs = [of_rows(e) if unit == "row" else of_clients(e) for unit, e in releases]
    account = Account()
    for cost in costs:
        account = account.and_then(cost)
    assert Account.composed(cost.describe() for cost in costs) == account
    for bad in ({}, {"row_mu": -1.0, "client_mu": 0.0}, {"row_mu": "x", "client_mu": 0.0}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            Account.composed([bad])


# ---------------------------------------------------------------------- a budget


@given(st.floats(0.1, 10), st.lists(st.floats(0.01, 5), max_size=5))
def test_what_is_left_can_be_spent_and_nothing_more(epsilon, before):
    budget, account = Budget(epsilon, 1e-5), Account()
    for each in before:
        account = account.and_then(of_rows(each))
    left = budget.left(account)
    if account.row.mu >= mu_of(epsilon, 1e-5):
        assert left == 0
    if left > 1e-3:
        budget.check(account, of_rows(left * (1 - 1e-9)))
        total = account.and_then(of_rows(left * (1 - 1e-9)))
        assert total.row.epsilon(1e-5) <= epsilon * (1 + 1e-9)
    with pytest.raises(BudgetSpent, match="left"):
        budget.check(account, of_rows(left * 1.001 + 1e-3))


def test_a_budget_can_be_spent_to_its_last_digit():
    Budget(1.0, 1e-5).check(Account(), of_rows(1.0))
    half = Account(Spent(math.sqrt(0.5) * MU), Spent())
    Budget(1.0, 1e-5).check(half, half)
    Budget(1.0, 1e-5, "client").check(Account(), of_clients(1.0))


def test_what_is_told_to_be_left_is_not_refused():
    budget, account = Budget(2.0, 1e-5), of_rows(1.0)
    with pytest.raises(BudgetSpent) as refused:
        budget.check(account, of_rows(3.0))
    left = float(str(refused.value).split("ε ")[-1].split()[0])
    assert left == pytest.approx(1.658, abs=1e-3)
    budget.check(account, of_rows(left))


def test_a_budget_for_clients_admits_nothing_that_hides_rows_only():
    budget = Budget(5.0, 1e-5, "client")
    with pytest.raises(BudgetSpent, match="more than any ε"):
        budget.check(Account(), of_rows(0.01))
    with pytest.raises(BudgetSpent, match="nothing is left"):
        budget.check(of_rows(0.01), of_clients(0.01))
    budget.check(of_clients(1.0), of_clients(1.0))
    Budget(1.0, 1e-5).check(of_clients(50.0, bound=1000.0), of_rows(0.5))


@pytest.mark.parametrize("bad", [(0.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, 1e-5, "all")])
def test_bad_budgets_are_refused(bad):
    with pytest.raises(InvalidSetting):
        Budget(*bad)


# ---------------------------------------------------------------------- a federation's


def test_a_budget_refuses_before_anything_is_drawn_or_changed(tmp_path, monkeypatch):
    federation = federation_with(Budget(1.5, 1e-5))
    federation.solve_private(epsilon=1.0, **ASKED)
    before = federation.save(tmp_path / "before.st").read_bytes()
    monkeypatch.setattr(federation_privacy, "adassp", None)  # whoever draws fails otherwise
    monkeypatch.setattr(Federation, "total", None)
    with pytest.raises(
        BudgetSpent, match=r"ε 1\.8.*budget is ε 1\.5.*ε 1\.0\d+ at δ 1e-05 is left"
    ):
        federation.solve_private(epsilon=1.5, **ASKED)
    assert federation.save(tmp_path / "after.st").read_bytes() == before
    monkeypatch.undo()
    federation.solve_private(epsilon=0.99, **ASKED)
    with pytest.raises(BudgetSpent):
        federation.solve_private(epsilon=0.5, **ASKED)


def test_a_head_without_noise_is_refused_under_a_budget_unless_the_sum_is_private():
    federation = federation_with(Budget(1.0, 1e-5))
    for ask in (lambda: federation.solve(1.0), lambda: federation.path([1.0])):
        with pytest.raises(BudgetSpent, match="without noise"):
            ask()
    noisy = Federation(budget=Budget(1.0, 1e-5))
    noisy.add("a", release(STATS, epsilon=1.0, **ASKED))
    assert noisy.solve(30.0).weight.isfinite().all()


def test_a_release_that_fails_costs_nothing():
    federation = federation_with(Budget(1.0, 1e-5))
    with pytest.raises(ValueError, match="class"):
        federation.solve_private(epsilon=1.0, delta=1e-5, classes=range(3))
    with pytest.raises(InvalidSetting):
        federation.solve_private(epsilon=-1.0, **ASKED)
    assert federation.spent.mu == 0
    federation.solve_private(epsilon=1.0, **ASKED)


def test_budget_and_costs_outlive_the_process_and_late_joins(tmp_path):
    half = np.arange(len(X)) < 900
    federation = Federation(budget=Budget(2.0, 1e-5))
    federation.add("a", ClientStats.compute(X[half], Y[half], clip=1.0))
    federation.solve_private(epsilon=1.0, **ASKED)
    again = Federation.load(federation.save(tmp_path / "sum.st"))
    assert again.privacy.budget == Budget(2.0, 1e-5)
    assert again.privacy.account == federation.privacy.account
    late = ClientStats.compute(X[~half], Y[~half], clip=1.0)
    again.add("late", late)
    again.remove("late", late)
    assert again.spent.mu == pytest.approx(MU)
    with pytest.raises(BudgetSpent):
        again.solve_private(epsilon=1.9, **ASKED)


def test_other_terms_are_entries_of_the_ledger():
    federation = federation_with(Budget(1.0, 1e-5))
    federation.solve_private(epsilon=1.0, **ASKED)
    federation.privacy.agree(None, Budget(1.0, 1e-5))  # the same
    federation.privacy.agree(None, Budget(3.0, 1e-5))
    assert [e.action for e in federation.ledger.entries] == ["terms", "add", "release", "terms"]
    federation.ledger.verify()
    federation.solve_private(epsilon=1.0, **ASKED)
    with pytest.raises(InvalidSetting, match="clients in the sum"):
        federation.privacy.agree(10.0, None)
    empty = Federation()
    empty.privacy.agree(10.0, None)
    assert empty.privacy.client_bound == 10.0


@pytest.mark.parametrize("what", ["budget", "cost", "forgotten", "last", "bound", "claim"])
def test_a_file_whose_costs_or_terms_were_changed_is_refused(tmp_path, what):
    federation = Federation(budget=Budget(2.0, 1e-5), minimum_rows=1)
    federation.add("a", release(STATS, epsilon=1.0, **ASKED))
    federation.solve_private(epsilon=1.0, **ASKED)
    path = federation.save(tmp_path / "sum.st")
    tensors, described = read_state(path)
    entries = described["ledger"]
    match what:
        case "budget":
            entries[0]["claim"]["budget"]["epsilon"] = 9.0
        case "cost":
            entries[2]["claim"]["row_mu"] = 0.0
        case "forgotten":
            entries.pop()
        case "last":
            described["last_entry"] = entries[-2]["hash"]
        case "bound":
            entries[0]["claim"]["client_bound"] = 5.0
        case "claim":
            entries[1]["claim"]["epsilon"] = 0.1
    write_state(path, tensors, described)
    with pytest.raises(CorruptState, match=r"sum\.st"):
        Federation.load(path)


@pytest.mark.parametrize(
    ("action", "claim"),
    [
        ("release", {"unit": "row"}),
        ("release", {"row_mu": -1.0, "client_mu": None}),
        ("terms", {"client_bound": -3.0, "budget": None}),
        ("terms", {"client_bound": None, "budget": {"epsilon": 1.0}}),
        ("terms", {}),
    ],
)
def test_a_sealed_ledger_that_no_federation_writes_is_refused(tmp_path, action, claim):
    federation = federation_with(None)
    federation.ledger.note(action, claim)
    path = federation.save(tmp_path / "sum.st")
    with pytest.raises(CorruptState):
        Federation.load(path)


def test_a_client_without_a_name_is_not_taken_for_terms_or_releases():
    federation = Federation(budget=Budget(2.0, 1e-5))
    federation.add("", STATS)
    federation.solve_private(epsilon=1.0, **ASKED)
    assert federation.clients == [""]
    federation.remove("", STATS)


def test_ledgers_without_claims_are_sealed_as_before():
    entry = federation_with(None).ledger.entries[0]
    assert entry.claim is None
    told = Ledger([entry]).describe()
    del told[0]["claim"]  # as written before there were any
    assert Ledger.restore(told).entries == [entry]


def test_clients_are_counted_for_a_sum_that_hides_them():
    federation = federation_with(Budget(1.5, 1e-5, "client"), client_bound=200.0)
    head = federation.solve_private(epsilon=1.0, unit="client", **ASKED)
    assert torch.isfinite(head.weight).all()
    assert federation.spent == federation.privacy.account.client
    assert federation.privacy.account.row.mu == pytest.approx(MU * sensitivity_of(1.0) / 200)
    with pytest.raises(BudgetSpent, match="client"):
        federation.solve_private(epsilon=1.3, unit="client", **ASKED)
