import numpy as np
import pytest
from sklearn.linear_model import Ridge

from afl import client_folds
from afl.client_folds import ClientFolds, leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from lipogram.errors import IncompatibleFeatures, InvalidSetting, NotSeen

rng = np.random.default_rng(0)
GAMMAS = [0.01, 1.0, 100.0]
CLASSES = np.arange(4)


def silos(count=5, width=6):
    """Rows of clients that see some classes only; class 3 is with one client alone."""
    rows = {}
    for number in range(count):
        n = 30 + 7 * number
        y = rng.choice([number % 3, 3 if number == 1 else (number + 1) % 3], n)
        rows[f"c{number}"] = (rng.standard_normal((n, width)) + y[:, None], y)
    return rows


def stats_of(rows, **settings):
    return {name: ClientStats.compute(X, y, **settings) for name, (X, y) in rows.items()}


def total_of(stats):
    first, *others = stats.values()
    total = first.copy()
    for each in others:
        total.merge(each)
    return total


def found_by(rows, stats=None, **settings):
    stats = stats or stats_of(rows)
    return leave_clients_out(total_of(stats), stats, **settings)


def stacked(rows, names):
    return (np.concatenate([rows[name][i] for name in names]) for i in (0, 1))


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("folds", [10, 2])
def test_losses_are_those_of_refitting_without_each_fold(fit_intercept, folds):
    rows = silos()
    found = found_by(rows, gammas=GAMMAS, folds=folds, fit_intercept=fit_intercept)
    assert len(found.members) == min(folds, 5)
    assert sorted(name for fold in found.members for name in fold) == sorted(rows)
    for fold, members in enumerate(found.members):
        X, y = stacked(rows, [name for name in rows if name not in members])
        out, out_y = stacked(rows, members)
        assert found.rows[fold] == len(out)
        for at, gamma in enumerate(GAMMAS):
            fitted = Ridge(alpha=gamma, fit_intercept=fit_intercept, solver="svd")
            fitted.fit(X, (y[:, None] == CLASSES).astype(float))
            loss = ((fitted.predict(out) - (out_y[:, None] == CLASSES)) ** 2).sum()
            assert found.losses[fold, at] == pytest.approx(loss, rel=1e-9)
    assert found.best == GAMMAS[int(np.argmin(found.losses.sum(0)))]


def test_class_weights_are_those_of_the_head():
    rows = silos()
    stats = stats_of(rows, per_class=True)
    found = found_by(rows, stats, gammas=GAMMAS, class_weight="balanced")
    counts = np.bincount(np.concatenate([y for _, y in rows.values()]))
    weight = counts.sum() / (len(counts) * counts)
    for fold, (name,) in enumerate(found.members):
        X, y = stacked(rows, [other for other in rows if other != name])
        out, out_y = rows[name]
        fitted = Ridge(alpha=1.0, fit_intercept=False, solver="svd")
        fitted.fit(X, (y[:, None] == CLASSES).astype(float), sample_weight=weight[y])
        squares = ((fitted.predict(out) - (out_y[:, None] == CLASSES)) ** 2).sum(1)
        assert found.losses[fold, 1] == pytest.approx((weight[out_y] * squares).sum(), rel=1e-9)
    with pytest.raises(InvalidSetting, match="per_class"):
        found_by(rows, class_weight="balanced")


def test_clients_may_stay_in_the_training_sum_for_good():
    """With some clients' statistics only, the others are trained on in every fold."""
    rows = silos()
    stats = stats_of(rows)
    some = {name: stats[name] for name in ("c0", "c3")}
    found = leave_clients_out(total_of(stats), some, gammas=GAMMAS)
    assert sorted(found.members) == [["c0"], ["c3"]]
    X, y = stacked(rows, [name for name in rows if name != "c3"])
    out, out_y = rows["c3"]
    fitted = Ridge(alpha=1.0, fit_intercept=False).fit(X, (y[:, None] == CLASSES).astype(float))
    loss = ((fitted.predict(out) - (out_y[:, None] == CLASSES)) ** 2).sum()
    fold = found.members.index(["c3"])
    assert found.losses[fold, 1] == pytest.approx(loss, rel=1e-9)


def test_the_standard_error_is_that_of_a_mean_where_folds_are_equal():
    losses = rng.random((7, 3)) * 100
    found = ClientFolds(np.array(GAMMAS), losses, np.full(7, 20), [])
    each = losses / 20
    assert found.loss == pytest.approx(each.mean(0))
    assert found.standard_error == pytest.approx(each.std(0, ddof=1) / np.sqrt(7))


def test_the_standard_error_covers_how_the_loss_varies_over_federations():
    """Redrawn from clients of unequal size, the loss varies as the formula says."""
    draws = []
    for _ in range(2000):
        rows = rng.integers(10, 200, 12)
        per_row = 1 + 0.3 * rng.standard_normal(12)
        draws.append(ClientFolds(np.ones(1), (per_row * rows)[:, None], rows, []))
    spread = np.std([draw.loss[0] for draw in draws])
    told = np.sqrt(np.mean([draw.standard_error[0] ** 2 for draw in draws]))
    assert told == pytest.approx(spread, rel=0.1)


def test_the_grid_covers_the_best_and_neither_order_nor_empty_clients_matter():
    stats = stats_of(silos())
    stats["empty"] = ClientStats.compute(np.zeros((0, 6)), np.zeros(0, dtype=int))
    total = total_of(stats)
    found = leave_clients_out(total, stats)
    assert not any("empty" in fold for fold in found.members)
    assert len(found.gammas) == 33
    assert found.gammas[0] < found.best < found.gammas[-1]
    same = leave_clients_out(total, dict(reversed(stats.items())))
    assert same.members == found.members
    assert same.best == found.best


def test_one_eigendecomposition_a_fold_serves_the_whole_path(monkeypatch):
    from lipogram.analytic import selection

    calls, once = [], selection.eigen_path
    monkeypatch.setattr(
        selection, "eigen_path", lambda *a, **k: (calls.append(1), once(*a, **k))[1]
    )
    found_by(silos(), gammas=np.logspace(-3, 3, 50))
    assert len(calls) == 5


def test_matrices_of_one_fold_are_held_at_a_time(monkeypatch):
    made, used, part_of = [], [], client_folds.part_of
    monkeypatch.setattr(client_folds, "part_of", lambda *a: (made.append(1), part_of(*a))[1])
    without = client_folds.without
    monkeypatch.setattr(
        client_folds, "without", lambda *a: (used.append(len(made)), without(*a))[1]
    )
    found_by(silos(), gammas=GAMMAS)
    assert used == [1, 2, 3, 4, 5]


def test_what_cannot_be_left_out_is_refused():
    rows = silos(3)
    stats = stats_of(rows)
    total = total_of(stats)
    with pytest.raises(TooFewClients, match="1 clients have rows"):
        leave_clients_out(total, {"c0": stats["c0"]})
    with pytest.raises(InvalidSetting, match="gamma"):
        leave_clients_out(total, stats, gammas=[1.0, -1.0])
    with pytest.raises(InvalidSetting, match="folds"):
        leave_clients_out(total, stats, folds=1)
    other = ClientStats.compute(np.ones((30, 7)), np.zeros(30, dtype=int))
    with pytest.raises(IncompatibleFeatures, match="'other'"):
        leave_clients_out(total, stats | {"other": other})
    with pytest.raises(NotSeen, match="not in it"):
        leave_clients_out(stats["c0"], stats)
    few = ClientStats.compute(rows["c0"][0][::2], rows["c0"][1][::2])
    with pytest.raises(NotSeen, match="not in it"):
        leave_clients_out(few.merge(stats["c1"]), {"c0": stats["c0"], "c1": stats["c1"]})
    unseen = ClientStats.compute(np.ones((30, 6)), np.full(30, 9))
    with pytest.raises(NotSeen, match="not in it"):
        leave_clients_out(total, stats | {"odd": unseen})
    stats["c1"].noise = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}
    with pytest.raises(InvalidSetting, match="'c1' have noise"):
        leave_clients_out(total, stats)
