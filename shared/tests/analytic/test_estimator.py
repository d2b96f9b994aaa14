"""The classifier as scikit-learn's users meet it."""

import signal
import threading

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lipogram.analytic import AnalyticClassifier
from lipogram.errors import (
    InvalidFeatures,
    InvalidSetting,
)

GENERATOR = np.random.default_rng(0)
Y = GENERATOR.integers(0, 4, size=120)
X = GENERATOR.normal(size=(120, 7)) + 1.5 * GENERATOR.normal(size=(4, 7))[Y]
W = GENERATOR.uniform(0.3, 2, size=120)

SETTINGS = [
    {},
    {"buffer_size": 16},
    {"gamma": "gcv", "fit_intercept": True},
    {"gamma": "cv"},
    {"storage": "packed", "accumulate": "float32"},
]


class PerClass(AnalyticClassifier):
    """One second moment a class, as methods that weigh classes have."""

    def _pooled(self):
        return False


class Weighted(PerClass):
    def _class_weight(self):
        return 1 / np.maximum(self.statistics_.mass, 1e-9)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_contract_of_scikit_learn(monkeypatch, settings):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else one check is skipped
    # Weights and repeated rows agree to 1e-7 there, which float32 products cannot reach.
    settings = {name: value for name, value in settings.items() if name != "accumulate"}
    results = check_estimator(AnalyticClassifier(**settings), on_skip=None)
    assert len(results) > 50
    assert {result["status"] for result in results} == {"passed"}


@pytest.mark.parametrize("intercept", [False, True])
def test_weights_are_those_of_ridge_regression(intercept):
    model = AnalyticClassifier(gamma=0.7, fit_intercept=intercept).fit(X, Y, sample_weight=W)
    peer = Ridge(alpha=0.7, fit_intercept=intercept).fit(X, np.eye(4)[Y], sample_weight=W)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-9)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.decision_function(X), peer.predict(X), rtol=1e-9, atol=1e-12)


def test_clone_pipeline_and_search():
    x, y = load_digits(return_X_y=True)
    model = AnalyticClassifier(buffer_size=100)
    search = GridSearchCV(model, {"gamma": [1e-2, 1.0, 1e6]}, cv=3).fit(x[:500] / 16, y[:500])
    assert search.best_params_["gamma"] != 1e6
    assert search.best_score_ > 0.85
    pipeline = make_pipeline(StandardScaler(), clone(search.best_estimator_))
    assert cross_val_score(pipeline, x[:500], y[:500], cv=3).mean() > 0.85
    assert not hasattr(clone(search.best_estimator_), "statistics_")


def test_string_labels_and_a_late_class():
    names = np.array(["ant", "bee", "cow", "dog"])[Y]
    order = np.argsort(Y == 3, kind="stable")  # dog comes last
    model = AnalyticClassifier()
    late = np.array_split(order, 3)
    for i, batch in enumerate(late):
        model.partial_fit(X[batch], names[batch])
        assert ("dog" in model.classes_) == ("dog" in names[np.concatenate(late[: i + 1])])
    whole = AnalyticClassifier().fit(X, names)
    assert list(whole.classes_) == ["ant", "bee", "cow", "dog"]
    assert model.classes_[-1] == "dog"
    where = [list(model.classes_).index(name) for name in whole.classes_]
    np.testing.assert_allclose(model.coef_[where], whole.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), whole.predict(X))


def test_declared_classes_are_not_predicted_before_they_are_seen():
    model = AnalyticClassifier().partial_fit(X, -Y, classes=[5, -1])
    assert list(model.classes_[:2]) == [5, -1]
    assert 5 not in model.predict(-100 * X)
    assert model.class_count_[0] == 0


def test_an_empty_batch_changes_nothing():
    model = AnalyticClassifier().fit(X, Y)
    before = model.coef_
    model.partial_fit(X[:0], Y[:0])
    np.testing.assert_array_equal(model.coef_, before)
    fresh = AnalyticClassifier().partial_fit(X[:0], Y[:0])
    for ask in (fresh.predict, fresh.predict_proba, fresh.decision_function):
        with pytest.raises(NotFittedError, match="no row"):
            ask(X)
    np.testing.assert_allclose(fresh.partial_fit(X, Y).decision_function(X).shape, (120, 4))


@pytest.mark.parametrize("kind", [AnalyticClassifier, PerClass])
@pytest.mark.parametrize("settings", [*SETTINGS[:3], {"gamma": "cv", "folds": 3}], ids=str)
def test_forgetting_is_never_having_seen(kind, settings):
    model = kind(**settings).fit(X, Y, sample_weight=W)
    model.forget(X[:50], Y[:50], sample_weight=W[:50])
    never = kind(**settings).fit(X[50:], Y[50:], sample_weight=W[50:])
    np.testing.assert_array_equal(model.classes_, never.classes_)
    np.testing.assert_array_equal(model.class_count_, never.class_count_)
    assert model.gamma_ == pytest.approx(never.gamma_)
    scale = np.abs(never.coef_).max()
    np.testing.assert_allclose(model.coef_, never.coef_, rtol=1e-8, atol=1e-8 * scale)


def test_forgetting_a_whole_class_and_everything():
    model = AnalyticClassifier().fit(X, Y).forget(X[Y == 2], Y[Y == 2])
    assert list(model.classes_) == [0, 1, 3]
    model.forget(X[Y != 2], Y[Y != 2])
    assert model.n_samples_seen_ == 0
    with pytest.raises(NotFittedError):
        model.predict(X)
    np.testing.assert_array_equal(
        model.partial_fit(X, Y).coef_.shape, AnalyticClassifier().fit(X, Y).coef_.shape
    )


@pytest.mark.parametrize("settings", [{}, {"gamma": "cv"}], ids=str)
def test_dropping_classes(settings):
    model = PerClass(**settings).fit(X, Y).drop_classes([1, 3])
    kept = np.isin(Y, [0, 2])
    without = PerClass(**settings).fit(X[kept], Y[kept])
    np.testing.assert_allclose(model.coef_, without.coef_, rtol=1e-8, atol=1e-12)
    assert set(model.predict(X)) <= {0, 2}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_merging_is_having_seen_both(settings):
    names = np.array(["ant", "bee", "cow", "dog"])[Y]
    some = names != "dog"
    one = AnalyticClassifier(**settings).fit(X[some], names[some])
    two = AnalyticClassifier(**settings).fit(X[~some], names[~some])
    one.merge(two)
    whole = AnalyticClassifier(**settings).fit(X, names)
    np.testing.assert_array_equal(one.classes_, whole.classes_)
    assert two.n_samples_seen_ == (~some).sum()
    tolerance = 1e-4 if "accumulate" in settings else 1e-8
    np.testing.assert_allclose(one.coef_, whole.coef_, rtol=tolerance, atol=tolerance)


def test_batches_partitions_and_orders_agree():
    whole = AnalyticClassifier(gamma="cv", buffer_size=20).fit(X, Y)
    order = GENERATOR.permutation(120)
    model = AnalyticClassifier(gamma="cv", buffer_size=20)
    for batch in np.array_split(order, 11):
        model.partial_fit(X[batch], Y[batch], classes=range(4))
    assert model.gamma_ == pytest.approx(whole.gamma_)
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", [{}, {"buffer_size": 16}, {"gamma": "cv"}], ids=str)
@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_equals_dense(settings, form):
    rows = np.tile(np.where(np.abs(X) > 0.8, X, 0), (20, 1))  # more than one chunk
    labels = np.tile(Y, 20)
    weight = np.tile(W, 20)
    dense = AnalyticClassifier(**settings).fit(rows, labels, sample_weight=weight)
    sparse = AnalyticClassifier(**settings).fit(form(rows), labels, sample_weight=weight)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-9, atol=1e-12)
    scores = sparse.decision_function(form(rows))
    np.testing.assert_allclose(scores, dense.decision_function(rows), rtol=1e-9, atol=1e-12)
    sparse.partial_fit(form(rows[:7]), labels[:7]).forget(form(rows[:7]), labels[:7])
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_torch_tensors(dtype):
    rows = torch.from_numpy(X).to(dtype)
    model = AnalyticClassifier(buffer_size=16)
    model.fit(rows.requires_grad_(), torch.from_numpy(Y), sample_weight=torch.from_numpy(W))
    same = rows.detach().double().numpy()
    peer = AnalyticClassifier(buffer_size=16).fit(same, Y, sample_weight=W)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.decision_function(rows), peer.decision_function(same))
    assert model.n_features_in_ == 7


@pytest.mark.gpu
def test_sums_on_a_gpu():
    model = AnalyticClassifier(buffer_size=16, device="cuda").fit(X, Y)
    peer = AnalyticClassifier(buffer_size=16).fit(X, Y)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(model.predict(torch.from_numpy(X).cuda()), peer.predict(X))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_fitting_changes_no_global_generator(settings):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    AnalyticClassifier(**settings).fit(X, Y).as_module()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_a_new_gamma_or_intercept_needs_no_data():
    model = AnalyticClassifier(gamma=1e-3).fit(X, Y)
    model.predict(X)
    model.set_params(gamma=50.0, fit_intercept=True)
    expected = AnalyticClassifier(gamma=50.0, fit_intercept=True).fit(X, Y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    assert model.gamma_ == 50
    with pytest.raises(InvalidSetting, match="before the first row"):
        model.set_params(gamma="cv").predict(X)


def test_predicting_solves_once_and_changes_nothing(monkeypatch):
    from lipogram.analytic.solve import RidgeSystem

    model = AnalyticClassifier(buffer_size=16).fit(X, Y)
    sums = model.statistics_.copy().reweight().gram, model.coef_
    model._changed()
    solve, calls = RidgeSystem.solve, []
    monkeypatch.setattr(RidgeSystem, "solve", lambda *a, **k: calls.append(1) or solve(*a, **k))
    model.partial_fit(X[:0], Y[:0])
    for _ in range(3):
        model.predict(X)
        model.predict_proba(X)
        assert (model.condition_, model.gamma_) == (model.condition_, 0.1)
    assert len(calls) == 1
    assert torch.equal(model.statistics_.reweight().gram.tril(), sums[0].tril())
    np.testing.assert_array_equal(model.coef_, sums[1])
    model.partial_fit(X[:3], Y[:3])
    model.predict(X)
    assert len(calls) == 2


def test_gamma_is_chosen_between_the_extremes():
    x, y = load_digits(return_X_y=True)
    x = x / 16
    for gamma in ("gcv", "cv"):
        model = AnalyticClassifier(gamma=gamma, buffer_size=120).fit(x[:600], y[:600])
        small = AnalyticClassifier(gamma=1e-6, buffer_size=120).fit(x[:600], y[:600])
        large = AnalyticClassifier(gamma=1e5, buffer_size=120).fit(x[:600], y[:600])
        rest = x[600:], y[600:]
        assert model.score(*rest) > max(small.score(*rest), large.score(*rest))


def test_class_weights_make_the_choice_of_gamma_cautious():
    y = np.concatenate([np.repeat(0, 90), np.repeat(1, 12), np.repeat(2, 3)])
    x = GENERATOR.normal(size=(105, 20)) + 0.8 * GENERATOR.normal(size=(3, 20))[y]
    weighted = Weighted(gamma="cv").fit(x, y)
    held, weight = weighted.statistics_, weighted._class_weight()
    from lipogram.analytic.selection import gamma_grid, largest_within_one_error

    gammas = gamma_grid(held.reweight(weight))
    losses = held.gamma_losses(weight, gammas)
    assert weighted.gamma_ == gammas[largest_within_one_error(losses)]
    assert weighted.gamma_ > gammas[losses.sum(0).argmin()]
    plain = PerClass(gamma="cv").fit(x, y)
    gammas = gamma_grid(plain.statistics_.reweight())
    assert plain.gamma_ == gammas[plain.statistics_.gamma_losses(None, gammas).sum(0).argmin()]


@pytest.mark.parametrize("settings", [{}, {"gamma": "cv"}], ids=str)
def test_an_interrupt_leaves_whole_batches_and_no_stale_head(settings):
    model = AnalyticClassifier(buffer_size=80, **settings).fit(X, Y)
    batch = np.repeat(X, 50, axis=0), np.repeat(Y, 50)
    stop = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    done = []

    def stream():
        while len(done) < 10_000:
            model.predict(X[:1])
            model.partial_fit(*batch)
            done.append(1)

    stop.start()
    with pytest.raises(KeyboardInterrupt):
        stream()
    stop.join()
    added = model.n_samples_seen_ - 120
    assert added in (6000 * len(done), 6000 * (len(done) + 1))
    scores = model.decision_function(X)
    model._changed()
    np.testing.assert_array_equal(scores, model.decision_function(X))


def test_rows_of_another_width_are_refused_as_features():
    rows = np.random.default_rng(0).normal(size=(20, 4))
    head = AnalyticClassifier(gamma=1.0).fit(rows, np.arange(20) % 2)
    before = head.coef_.copy()
    for call in (head.predict, lambda x: head.partial_fit(x, np.arange(20) % 2)):
        with pytest.raises(InvalidFeatures, match=r"3 features.*4 features"):
            call(rows[:, :3])
    np.testing.assert_array_equal(head.coef_, before)
