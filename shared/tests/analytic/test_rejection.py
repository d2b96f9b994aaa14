"""What the classifier refuses, and that a refusal changes nothing."""

import numpy as np
import pytest
import scipy.sparse
import torch

from lipogram.analytic import AnalyticClassifier
from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
    OverBudget,
    UnknownClass,
)

GENERATOR = np.random.default_rng(0)
Y = GENERATOR.integers(0, 4, size=120)
X = GENERATOR.normal(size=(120, 7)) + 1.5 * GENERATOR.normal(size=(4, 7))[Y]
W = GENERATOR.uniform(0.3, 2, size=120)


class PerClass(AnalyticClassifier):
    """One second moment a class, as methods that weigh classes have."""

    def _pooled(self):
        return False


def fingerprint(model):
    """Everything that a model knows, to the bit."""
    held = model.statistics_
    known = []
    for part in held.parts if isinstance(held, SplitStatistics) else [held]:
        part.flush()
        known.append(
            (
                part.classes,
                part.counts.tolist(),
                part._mass.tolist(),
                part._sums.tolist(),
                {slot: gram.full().tolist() for slot, gram in part.store.grams.items()},
                part._pool.row_sum.tolist(),
                part._pool.mass,
            )
        )
    noted = {n: v for n, v in vars(model).items() if n not in ("statistics_", "_solved")}
    return known, {name: str(value) for name, value in noted.items()}, model.coef_.tolist()


BAD_ROW = X.copy()
BAD_ROW[77, 3] = np.nan
HUGE = X.copy()
HUGE[5, 0] = 1e200
MORE = np.concatenate([X, X])
BAD_BATCHES = {
    "NaN": ((BAD_ROW, Y), InvalidFeatures, "NaN in row 77"),
    "NaN, torch": ((torch.from_numpy(BAD_ROW), Y), InvalidFeatures, "NaN in row 77"),
    "NaN, sparse": ((scipy.sparse.csr_array(BAD_ROW), Y), InvalidFeatures, "nan in row 77"),
    "infinity": ((np.where(X == X[3, 2], -np.inf, X), Y), InvalidFeatures, "infinity in row 3"),
    "overflow": ((HUGE, Y), InvalidFeatures, "row 5"),
    "overflow, sparse": ((scipy.sparse.csr_array(HUGE), Y), InvalidFeatures, "row 5"),
    "labels missing": ((X, Y[:-1]), ValueError, "11[90]"),
    "labels not given": ((X, None), InvalidLabels, "y"),
    "labels fractional": ((X, Y + 0.5), InvalidLabels, "label"),
    "labels of two kinds": ((X, np.where(Y == 1, "a", Y.astype(object))), InvalidLabels, "label"),
    "labels NaN": ((X, np.where(Y == 1, np.nan, Y)), ValueError, "NaN|nan"),
    "labels two-dimensional": ((X, np.eye(4)[Y]), ValueError, "1d|one-dim"),
    "weights negative": ((X, Y, -W), InvalidSetting, "row 0"),
    "weights missing": ((X, Y, W[1:]), InvalidSetting, "119"),
    "weights NaN": ((X, Y, W * np.nan), InvalidSetting, "nan in row 0"),
    "three axes": ((X[None], Y), ValueError, "dim|shape"),
    "text": ((X.astype(str).astype(object) + "x", Y), ValueError, "convert|number"),
    "complex": ((X + 1j, Y), ValueError, "[Cc]omplex"),
}
WIDTHS = {
    "width": ((X[:, :4], Y), ValueError, "4"),
    "width, torch": ((torch.from_numpy(X[:, :4]), Y), InvalidFeatures, "4.*7"),
    "width, sparse": ((scipy.sparse.csr_array(X[:, :4]), Y), ValueError, "4"),
    "other kind of labels": ((X, Y.astype(str)), InvalidLabels, "kind"),
}


def call(method, batch):
    *rows, weight = batch if len(batch) == 3 else (*batch, None)
    return method(*rows, sample_weight=weight)


@pytest.mark.parametrize("settings", [{}, {"gamma": "cv", "folds": 2}], ids=str)
@pytest.mark.parametrize(
    ("name", "verb"),
    [(name, verb) for name in BAD_BATCHES for verb in ("fit", "partial_fit", "forget")]
    + [(name, verb) for name in WIDTHS for verb in ("partial_fit", "forget")],
)
def test_a_rejected_batch_leaves_the_model_bit_identical(name, verb, settings):
    batch, error, message = (BAD_BATCHES | WIDTHS)[name]
    if verb == "forget" and name == "other kind of labels":
        error, message = UnknownClass, "never seen"
    model = AnalyticClassifier(buffer_size=9, **settings).fit(X, Y)
    before = fingerprint(model)
    with pytest.raises(error, match=message):
        call(getattr(model, verb), batch)
    assert fingerprint(model) == before


@pytest.mark.parametrize("name", [*BAD_BATCHES])
@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_a_rejected_first_batch_leaves_nothing(name, verb):
    batch, error, message = BAD_BATCHES[name]
    model = AnalyticClassifier()
    before = vars(model).copy()
    with pytest.raises(error, match=message):
        call(getattr(model, verb), batch)
    assert vars(model) == before


def test_feature_names_survive_a_rejection():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdefg"))
    model = AnalyticClassifier().fit(frame, Y)
    with pytest.raises(InvalidFeatures):
        model.fit(BAD_ROW, Y)
    assert list(model.feature_names_in_) == list("abcdefg")
    model.fit(torch.from_numpy(X), Y)
    assert not hasattr(model, "feature_names_in_")


def test_classes_of_a_rejected_batch_are_not_kept():
    model = AnalyticClassifier().fit(X, Y)
    before = fingerprint(model)
    with pytest.raises(InvalidFeatures):
        model.partial_fit(BAD_ROW, Y, classes=[2, 17])
    with pytest.raises(InvalidLabels):
        model.partial_fit(X, Y, classes=["a"])
    assert fingerprint(model) == before
    fresh = AnalyticClassifier()
    with pytest.raises(InvalidLabels):
        fresh.partial_fit(X, Y, classes=[1.5])
    assert not hasattr(fresh, "n_features_in_")


@pytest.mark.parametrize("settings", [{}, {"gamma": "cv", "folds": 2}], ids=str)
def test_what_cannot_be_taken_away(settings):
    model = AnalyticClassifier(**settings).fit(X, Y)
    before = fingerprint(model)
    refused = [
        (lambda: model.forget(MORE, np.tile(Y, 2)), NotSeen),
        (lambda: model.forget(X[:2], [77, 0]), UnknownClass),
        (lambda: model.drop_classes([0]), ClosedClass),
        (lambda: model.drop_classes(["x"]), UnknownClass),
    ]
    for attempt, error in refused:
        with pytest.raises(error):
            attempt()
        assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"buffer_size": 8}, {"buffer_size": 9}),
        ({"buffer_size": 8}, {"buffer_size": 8, "seed": 1}),
        ({"buffer_size": 8}, {"buffer_size": 8, "activation": "tanh"}),
        ({"buffer_size": 7}, {}),
        ({"space": "resnet"}, {"space": "vit"}),
        ({"gamma": "cv"}, {}),
        ({"gamma": "cv"}, {"gamma": "cv", "folds": 4}),
    ],
    ids=str,
)
def test_states_that_do_not_merge(mine, theirs):
    one = AnalyticClassifier(**mine).fit(X, Y)
    two = AnalyticClassifier(**theirs).fit(X, Y)
    before = fingerprint(one)
    with pytest.raises(IncompatibleFeatures):
        one.merge(two)
    assert fingerprint(one) == before


def test_dropping_is_all_or_none():
    model = PerClass().fit(X, Y)
    before = fingerprint(model)
    with pytest.raises(UnknownClass):
        model.drop_classes([0, 99])
    assert fingerprint(model) == before


@pytest.mark.parametrize("settings", [{}, {"gamma": "cv", "folds": 2}], ids=str)
def test_over_budget(settings):
    model = PerClass(memory_budget=1000, storage="dense", **settings).partial_fit(X[:1], Y[:1])
    before = fingerprint(model)
    for attempt in (model.partial_fit, model.fit):
        with pytest.raises(OverBudget, match="budget"):
            attempt(X, Y)
        assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 0),
        ("gamma", -1.0),
        ("gamma", float("nan")),
        ("gamma", "loo"),
        ("gamma", True),
        ("gamma", None),
        ("buffer_size", 0),
        ("buffer_size", 2.5),
        ("buffer_size", True),
        ("buffer_init", "xavier"),
        ("activation", "selu"),
        ("buffer_scale", 0.0),
        ("fit_intercept", 1),
        ("storage", "sparse"),
        ("accumulate", "float16"),
        ("memory_budget", -1),
        ("memory_budget", "1GB"),
        ("folds", 1),
        ("folds", 10**9),
        ("seed", -1),
        ("space", None),
    ],
)
def test_settings_that_cannot_work(name, value):
    model = AnalyticClassifier(**{name: value})
    before = vars(model).copy()
    for attempt in (model.fit, model.partial_fit):
        with pytest.raises(InvalidSetting, match=name):
            attempt(X, Y)
    assert vars(model).keys() == before.keys()
