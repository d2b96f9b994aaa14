import numpy as np
import pytest
from sklearn.linear_model import Ridge

from afl import leverage as module
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.leverage import leverage_of, leverage_table
from afl.partitions import dirichlet_partition
from lipogram.analytic.datasets import digits
from lipogram.errors import IncompatibleFeatures, InvalidSetting, NotSeen

rng = np.random.default_rng(1)


def silos(count=6, n=80, d=5):
    return {f"c{i}": (rng.standard_normal((n, d)), rng.integers(0, 3, n)) for i in range(count)}


def stats_of(rows):
    return {name: ClientStats.compute(X, y) for name, (X, y) in rows.items()}


def total_of(stats):
    first, *others = stats.values()
    total = first.copy()
    for each in others:
        total.merge(each)
    return total


def report(rows, **settings):
    stats = stats_of(rows)
    return leverage_of(total_of(stats), stats, **settings)


def head(rows, gamma):
    X, y = (np.concatenate([pair[i] for pair in rows.values()]) for i in (0, 1))
    ridge = Ridge(alpha=gamma, fit_intercept=False, solver="svd")
    return ridge.fit(X, (y[:, None] == np.arange(3)).astype(float))


@pytest.mark.parametrize("n", [80, 3])  # more and fewer rows than features
@pytest.mark.parametrize("gamma", [3.0, 1e-3])
def test_figures_are_those_of_refitting_without_each_client(n, gamma):
    rows = silos(n=n) | {"large": (rng.standard_normal((200, 5)) * 2, rng.integers(0, 3, 200))}
    found = {each.client: each for each in report(rows, gamma=gamma)}
    whole = head(rows, gamma).coef_
    X = np.concatenate([pair[0] for pair in rows.values()])
    inverse = np.linalg.inv(X.T @ X + gamma * np.eye(5))
    for name, (own, y) in rows.items():
        others = head({n: pair for n, pair in rows.items() if n != name}, gamma)
        each = found[name]
        shift = np.linalg.norm(whole - others.coef_) / np.linalg.norm(whole)
        assert each.shift == pytest.approx(shift, rel=1e-8)
        loss = ((others.predict(own) - (y[:, None] == np.arange(3))) ** 2).sum() / len(y)
        assert each.loss == pytest.approx(loss, rel=1e-8)
        values = np.linalg.eigvals(inverse @ own.T @ own).real
        assert each.degrees_of_freedom == pytest.approx(values.sum(), rel=1e-8)
        assert each.steepest == pytest.approx(values.max(), rel=1e-8)
        assert each.share_of_rows == pytest.approx(len(y) / len(X))
        assert each.share_of_energy == pytest.approx((own**2).sum() / (X**2).sum())
    together = sum(each.degrees_of_freedom for each in found.values())
    assert together == pytest.approx(np.trace(inverse @ X.T @ X), rel=1e-9)
    assert sum(each.share_of_energy for each in found.values()) == pytest.approx(1)
    shifts = [each.shift for each in report(rows, gamma=gamma)]
    assert shifts == sorted(shifts, reverse=True)


def test_some_clients_are_weighed_in_the_sum_of_all():
    stats = stats_of(silos())
    total = total_of(stats)
    alone = leverage_of(total, {"c2": stats["c2"]})
    assert alone[0] == next(each for each in leverage_of(total, stats) if each.client == "c2")


def test_the_sum_is_factored_once(monkeypatch):
    calls, once = [], module.cholesky
    monkeypatch.setattr(module, "cholesky", lambda *a: (calls.append(a[1]), once(*a))[1])
    report(silos(), gamma=7.0)
    assert calls == [7.0, *[0.0] * 6]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [1e5, 0.1])
def test_honest_clients_are_not_flagged_however_skewed(alpha, seed):
    X, y = digits()
    parts = dirichlet_partition(y, 20, alpha, seed=seed, min_size=20)
    found = report({f"c{n:02d}": (X[part], y[part]) for n, part in enumerate(parts)})
    assert [each.client for each in found if each.flags] == []


def test_large_and_small_clients_are_weighed_by_their_rows():
    X, y = digits()
    cuts = np.cumsum([5, 900, *[99] * 9])[:-1]
    order = np.random.default_rng(0).permutation(len(y))
    found = report({f"c{n}": (X[p], y[p]) for n, p in enumerate(np.split(order, cuts))})
    assert [each.client for each in found if each.flags] == []


@pytest.mark.parametrize(
    ("spoil", "flags"),
    [
        (lambda X, y: (X * 3, y), {"scale", "directions", "pull", "loss"}),
        (lambda X, y: (X, (y + 1) % 10), {"loss"}),
        (lambda X, y: (X[:, ::-1], y), {"pull", "loss"}),
        (lambda X, y: (rng.standard_normal(X.shape) * 0.4, y), {"directions"}),
    ],
)
def test_one_client_among_twenty_that_is_off_is_flagged_alone(spoil, flags):
    X, y = digits()
    rows = {f"c{n:02d}": (X[p], y[p]) for n, p in enumerate(np.array_split(np.arange(1797), 20))}
    rows["c07"] = tuple(np.ascontiguousarray(part) for part in spoil(*rows["c07"]))
    flagged = [each for each in report(rows) if each.flags]
    assert [each.client for each in flagged] == ["c07"]
    assert flags <= set(flagged[0].flags)
    table = leverage_table(report(rows))
    marked = [row[0] for number, row in enumerate(table.rows) if number in table.highlight]
    assert marked == ["c07"]


def test_what_cannot_be_compared_is_refused():
    stats = stats_of(silos(3))
    total = total_of(stats)
    empty = ClientStats.compute(np.zeros((0, 5)), np.zeros(0, dtype=int))
    assert len(leverage_of(total, stats | {"empty": empty})) == 3
    with pytest.raises(TooFewClients):
        leverage_of(total, {"empty": empty})
    with pytest.raises(InvalidSetting, match="gamma"):
        leverage_of(total, stats, gamma=0.0)
    with pytest.raises(NotSeen):
        leverage_of(stats["c0"], stats)
    other = ClientStats.compute(np.ones((30, 7)), np.zeros(30, dtype=int))
    with pytest.raises(IncompatibleFeatures, match="'other'"):
        leverage_of(total, {"other": other})
    stats["c1"].noise = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}
    with pytest.raises(InvalidSetting, match="'c1' have noise"):
        leverage_of(total, stats)
