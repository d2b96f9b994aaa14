import numpy as np
import pytest
from sklearn.linear_model import Ridge

from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.leverage import leverage_of, leverage_table
from lipogram.errors import InvalidSetting

rng = np.random.default_rng(1)


def silos(count=6, n=80, d=5):
    return {f"c{i}": (rng.standard_normal((n, d)), rng.integers(0, 3, n)) for i in range(count)}


def stats_of(rows):
    return {name: ClientStats.compute(X, y) for name, (X, y) in rows.items()}


def head(rows, gamma):
    X, y = (np.concatenate([pair[i] for pair in rows.values()]) for i in (0, 1))
    ridge = Ridge(alpha=gamma, fit_intercept=False, solver="cholesky")
    return ridge.fit(X, (y[:, None] == np.arange(3)).astype(float))


def test_figures_are_those_of_refitting_without_each_client():
    rows, gamma = silos(), 3.0
    found = {each.client: each for each in leverage_of(stats_of(rows), gamma=gamma)}
    whole = head(rows, gamma).coef_
    X = np.concatenate([pair[0] for pair in rows.values()])
    inverse = np.linalg.inv(X.T @ X + gamma * np.eye(5))
    for name, (own, y) in rows.items():
        others = head({n: pair for n, pair in rows.items() if n != name}, gamma)
        each = found[name]
        shift = np.linalg.norm(whole - others.coef_) / np.linalg.norm(whole)
        assert each.shift == pytest.approx(shift, rel=1e-9)
        loss = ((others.predict(own) - (y[:, None] == np.arange(3))) ** 2).sum() / len(y)
        assert each.loss == pytest.approx(loss, rel=1e-9)
        values = np.linalg.eigvals(inverse @ own.T @ own).real
        assert each.degrees_of_freedom == pytest.approx(values.sum(), rel=1e-9)
        assert each.steepest == pytest.approx(values.max(), rel=1e-9)
        assert each.share_of_rows == pytest.approx(1 / 6)
    together = sum(each.degrees_of_freedom for each in found.values())
    assert together == pytest.approx(np.trace(inverse @ X.T @ X), rel=1e-9)
    assert sum(each.share_of_energy for each in found.values()) == pytest.approx(1)
    assert all(not each.flags for each in found.values())


def test_a_client_of_absurd_scale_is_flagged_and_comes_first():
    rows = silos(8)
    rows["c3"] = (rows["c3"][0] * 100, rows["c3"][1])
    first, *rest = leverage_of(stats_of(rows))
    assert first.client == "c3"
    assert "scale" in first.flags
    assert all("scale" not in each.flags for each in rest)


def test_a_client_that_turns_its_labels_round_pulls():
    rows = {}
    for number in range(12):
        y = rng.integers(0, 3, 100)
        rows[f"c{number}"] = (np.eye(3)[y] * 3 + rng.standard_normal((100, 3)) * 0.1, y)
    rows["c5"] = (rows["c5"][0], (rows["c5"][1] + 1) % 3)
    first, *rest = leverage_of(stats_of(rows))
    assert first.client == "c5"
    assert first.flags == ("pull",)
    assert not any(each.flags for each in rest)
    assert leverage_table([first]).rows[0][0] == "c5"


def test_what_cannot_be_compared_is_refused():
    rows = silos(1)
    with pytest.raises(TooFewClients):
        leverage_of(stats_of(rows))
    with pytest.raises(InvalidSetting):
        leverage_of(stats_of(silos(2)), gamma=0.0)
