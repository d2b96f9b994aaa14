import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lipogram.analytic.metrics import (
    a_auc,
    a_avg,
    a_last,
    accuracy,
    amca,
    average_incremental_accuracy,
    balanced_accuracy,
    forgetting,
    last_accuracy,
    per_class_accuracy,
    shot_accuracy,
    shot_groups,
)
from lipogram.errors import InvalidLabels, InvalidSetting

rates = st.floats(0, 1)
kinds = st.sampled_from([st.integers(-2, 5), st.sampled_from(["ant", "bee", "cow", "dog"])])
answers = kinds.flatmap(lambda kind: st.lists(st.tuples(kind, kind), min_size=1, max_size=80))


@given(answers)
def test_accuracies_match_scikit_learn(pairs):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    assert accuracy(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions of classes that are not in the test set
        theirs = balanced_accuracy_score(labels, predictions)
    assert balanced_accuracy(labels, predictions) == pytest.approx(theirs)
    by_class = per_class_accuracy(labels, predictions)
    assert list(by_class) == sorted(set(labels.tolist()))
    for label, rate in by_class.items():
        assert rate == pytest.approx(np.mean(predictions[labels == label] == label))


def test_a_prediction_of_an_absent_class_is_a_mistake_but_no_class():
    labels, predictions = ["a", "a", "b"], ["a", "z", "b"]
    assert per_class_accuracy(labels, predictions) == {"a": 0.5, "b": 1.0}
    assert balanced_accuracy(labels, predictions) == 0.75


def test_results_are_plain_python():
    assert type(accuracy(np.array([1]), np.array([1]))) is float
    ((label, rate),) = per_class_accuracy(np.array([1]), np.array([1])).items()
    assert type(label) is int
    assert type(rate) is float


@pytest.mark.parametrize("metric", [accuracy, per_class_accuracy, balanced_accuracy])
@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "empty"),
        ([1], [], "predictions are empty"),
        ([1, 2], [1], "2 labels.*1 predictions"),
        ([1], ["1"], "str.*int"),
        ([1.5], [1], "labels"),
        ([[1, 2]], [1], "one-dimensional"),
    ],
)
def test_bad_labels_are_refused(metric, labels, predictions, message):
    with pytest.raises(InvalidLabels, match=message):
        metric(labels, predictions)


@given(st.lists(rates, min_size=1, max_size=30))
def test_means_and_lasts(accuracies):
    mean = math.fsum(accuracies) / len(accuracies)
    for metric in (average_incremental_accuracy, a_auc, a_avg):
        assert metric(accuracies) == pytest.approx(mean)
        assert 0 <= metric(accuracies) <= 1
    assert last_accuracy(accuracies) == a_last(accuracies) == accuracies[-1]


@pytest.mark.parametrize(
    "metric", [average_incremental_accuracy, last_accuracy, a_auc, a_avg, a_last]
)
@pytest.mark.parametrize("accuracies", [[], [0.5, math.nan], [97.0], [-0.1], [[0.5]], 0.5])
def test_what_is_no_accuracy_is_refused(metric, accuracies):
    with pytest.raises(InvalidSetting, match="accuracies"):
        metric(accuracies)


def test_forgetting_by_hand():
    history = [
        {"a": 0.9, "b": 0.0},
        {"a": 0.7, "b": 0.8, "c": 0.0},
        {"a": 0.6, "b": 0.5, "c": 0.9},
    ]
    # a: 0.9 - 0.6; b: 0.8 - 0.5; c was never known before the end
    assert forgetting(history) == pytest.approx(0.3)
    assert forgetting(history[:2]) == pytest.approx(0.2)
    assert forgetting([{"a": 0.5}, {"a": 0.8}]) == 0.0
    assert forgetting([{"a": 0.5, "b": 0.5}, {"a": 0.8, "b": 0.1}]) == pytest.approx(0.05)
    assert forgetting([{"a": 0.0}, {"a": 0.8}]) == 0.0


@given(st.lists(st.tuples(rates, rates), min_size=2, max_size=10))
def test_forgetting_is_a_share_and_follows_its_formula(rows):
    value = forgetting([dict(zip("ab", row, strict=True)) for row in rows])
    assert 0 <= value <= 1
    table = np.array(rows)
    best, final = table[:-1].max(axis=0), table[-1]
    lost = (best - final)[best > 0]
    assert value == pytest.approx(max(0, lost.mean()) if lost.size else 0)


def test_forgetting_refuses_what_it_cannot_compare():
    with pytest.raises(InvalidSetting, match="two evaluations"):
        forgetting([{"a": 1.0}])
    with pytest.raises(InvalidLabels, match="'a'"):
        forgetting([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(InvalidSetting, match="90"):
        forgetting([{"a": 90.0}, {"a": 0.5}])


def test_amca_by_hand():
    points = [{"car": 1.0, "bus": 0.0}, {"car": 0.5, "bus": 0.3, "tram": 0.1}]
    value, absent = amca(points, classes=["car", "bus", "tram", "tricycle"])
    assert value == pytest.approx((0.5 + 0.3) / 2)
    assert absent == ("tram", "tricycle")
    assert amca(points[:1]) == (0.5, ())


@given(st.lists(answers, min_size=1, max_size=5))
def test_amca_is_the_mean_of_balanced_accuracies(points):
    split = [tuple(map(np.array, zip(*pairs, strict=True))) for pairs in points]
    result = amca([per_class_accuracy(*point) for point in split])
    assert result.value == pytest.approx(np.mean([balanced_accuracy(*point) for point in split]))


def test_amca_refuses_nothing():
    with pytest.raises(InvalidSetting, match="test point"):
        amca([])
    with pytest.raises(InvalidSetting, match="accuracies"):
        amca([{"a": 0.5}, {}])


def test_shot_groups_have_the_field_s_edges():
    counts = {"a": 101, "b": 100, "c": 20, "d": 19, "e": 0}
    assert shot_groups(counts) == {"many": ["a"], "medium": ["b", "c"], "few": ["d", "e"]}
    assert shot_groups({1: 5}, many=4, few=2) == {"many": [1], "medium": [], "few": []}
    accuracies = {"a": 1.0, "d": 0.25, "e": 0.5, "new": 0.0}
    assert shot_accuracy(accuracies, counts) == {"many": 1.0, "few": 0.25}


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ({}, {}, "one class"),
        ({"a": -1}, {}, "'a'.*-1"),
        ({"a": 1}, {"many": 5, "few": 9}, "few=9.*many=5"),
    ],
)
def test_shot_groups_refuse_nonsense(counts, settings, message):
    with pytest.raises(InvalidSetting, match=message):
        shot_groups(counts, **settings)
