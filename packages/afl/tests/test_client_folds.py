import numpy as np
import pytest
from sklearn.linear_model import Ridge

from afl.client_folds import leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from lipogram.errors import IncompatibleFeatures, InvalidSetting

rng = np.random.default_rng(0)
GAMMAS = [0.01, 1.0, 100.0]


def silos(count=5, classes=4):
    """Rows of clients that see some classes only, and their statistics."""
    rows = {}
    for number in range(count):
        n = 30 + 7 * number
        y = rng.choice([number % classes, (number + 1) % classes], n)
        rows[f"c{number}"] = (rng.standard_normal((n, 6)) + y[:, None], y)
    return rows, {name: ClientStats.compute(X, y) for name, (X, y) in rows.items()}


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("folds", [10, 2])
def test_losses_are_those_of_refitting_without_each_fold(fit_intercept, folds):
    rows, stats = silos()
    found = leave_clients_out(stats, gammas=GAMMAS, folds=folds, fit_intercept=fit_intercept)
    assert len(found.members) == min(folds, 5)
    assert sorted(name for fold in found.members for name in fold) == sorted(rows)
    classes = np.arange(4)
    for fold, members in enumerate(found.members):
        X, y = (np.concatenate([rows[n][i] for n in rows if n not in members]) for i in (0, 1))
        out, out_y = (np.concatenate([rows[n][i] for n in members]) for i in (0, 1))
        assert found.rows[fold] == len(out)
        for at, gamma in enumerate(GAMMAS):
            fitted = Ridge(alpha=gamma, fit_intercept=fit_intercept, solver="cholesky")
            fitted.fit(X, (y[:, None] == classes).astype(float))
            loss = ((fitted.predict(out) - (out_y[:, None] == classes)) ** 2).sum()
            assert found.losses[fold, at] == pytest.approx(loss, rel=1e-9)
    assert found.best == GAMMAS[int(np.argmin(found.losses.sum(0)))]
    assert (found.standard_error > 0).all()


def test_the_grid_covers_the_best_and_empty_clients_do_not_count():
    _, stats = silos()
    stats["empty"] = ClientStats.compute(np.zeros((0, 6)), np.zeros(0, dtype=int))
    found = leave_clients_out(stats)
    assert not any("empty" in fold for fold in found.members)
    assert found.gammas[0] < found.best < found.gammas[-1]
    same = leave_clients_out(dict(reversed(stats.items())))
    assert same.members == found.members


def test_what_cannot_be_left_out_is_refused():
    _, stats = silos(2)
    with pytest.raises(TooFewClients, match="1 clients have rows"):
        leave_clients_out({"c0": stats["c0"]})
    with pytest.raises(InvalidSetting, match="gamma"):
        leave_clients_out(stats, gammas=[1.0, -1.0])
    other = ClientStats.compute(np.ones((30, 7)), np.zeros(30, dtype=int))
    with pytest.raises(IncompatibleFeatures):
        leave_clients_out(stats | {"other": other})
    stats["c1"].noise = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}
    with pytest.raises(InvalidSetting, match="'c1' have noise"):
        leave_clients_out(stats)
