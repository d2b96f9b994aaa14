"""Accuracy matrices and what is read off them, by hand and by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from dpcr.incremental_metrics import (
    accuracy_matrix,
    backward_transfer,
    forgetting,
    grouped_accuracy,
    old_new_accuracy,
    top_k_accuracy,
)
from lipogram.errors import InvalidLabels, InvalidSetting

HAND = [[0.9], [0.6, 0.8], [0.7, 0.2, 1.0]]


def test_forgetting_and_transfer_of_a_matrix_made_by_hand():
    matrix = accuracy_matrix(HAND)
    assert np.isnan(matrix[0, 1])
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.2)) / 2)
    assert backward_transfer(matrix) == pytest.approx(((0.7 - 0.9) + (0.2 - 0.8)) / 2)


def test_a_task_that_got_better_forgets_a_negative_amount():
    matrix = accuracy_matrix([[0.5], [0.75, 1.0]])
    assert forgetting(matrix) == pytest.approx(-0.25)
    assert backward_transfer(matrix) == pytest.approx(0.25)


def test_forgetting_looks_for_the_best_time_between_transfer_at_the_first():
    matrix = accuracy_matrix([[0.5], [0.9, 1.0], [0.6, 0.5, 1.0]])
    assert forgetting(matrix) == pytest.approx((0.3 + 0.5) / 2)
    assert backward_transfer(matrix) == pytest.approx((0.1 - 0.5) / 2)


def test_one_task_has_nothing_to_forget():
    assert forgetting(accuracy_matrix([[1.0]])) is None
    assert backward_transfer(accuracy_matrix([[1.0]])) is None


def test_an_unmeasured_task_is_left_out():
    matrix = accuracy_matrix([[0.5], [0.4, None], [0.3, None, 1.0]])
    assert forgetting(matrix) == pytest.approx(0.2)
    assert backward_transfer(matrix) == pytest.approx(-0.2)


def test_groups_are_the_tasks_even_when_the_first_is_larger():
    labels = [0, 1, 2, 3, 3, 4]
    predictions = [0, 1, 0, 3, 4, 4]
    groups = [(0, 1, 2), (3,), (4,)]
    assert grouped_accuracy(labels, predictions, groups).tolist() == [2 / 3, 0.5, 1.0]


def test_groups_of_strings_and_a_group_without_samples():
    row = grouped_accuracy(["a", "b"], ["a", "a"], [("b",), ("c",), (), ("a",)])
    assert row[[0, 3]].tolist() == [0.0, 1.0]
    assert np.isnan(row[1:3]).all()


def test_old_and_new_classes_apart():
    assert old_new_accuracy([0, 0, 1, 2], [0, 1, 1, 2], new=(1, 2)) == (0.5, 1.0)
    assert old_new_accuracy([0, 0], [0, 1], new=(0,)) == (None, 0.5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 5))
def test_top_k_agrees_with_scikit_learn(seed, k):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(20, 6))
    labels = rng.integers(0, 6, 20)
    names = np.array([7, 3, 9, 1, 5, 0])  # columns in order of exposure, not sorted
    theirs = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(6))
    assert top_k_accuracy(names[labels], scores, names.tolist(), k) == pytest.approx(theirs)


def test_top_k_of_few_classes_says_nothing_and_ties_are_no_hits():
    assert top_k_accuracy([0], [[1.0, 0.0]], [0, 1], k=5) is None
    assert top_k_accuracy([0, 1], np.zeros((2, 2)), [0, 1], k=1) == 0.0
    assert top_k_accuracy([5], [[1.0, 0.0]], [0, 1], k=2) == 0.0  # a class not learned yet


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: accuracy_matrix([]), InvalidSetting, "at least one row"),
        (lambda: accuracy_matrix([[0.1], [0.2]]), InvalidSetting, "row 1 has 1.*must have 2"),
        (lambda: accuracy_matrix([[1.5]]), InvalidSetting, r"R\[0, 0\] is 1.5"),
        (lambda: forgetting(np.zeros((2, 3))), InvalidSetting, r"\(2, 3\)"),
        (lambda: backward_transfer([]), InvalidSetting, r"\(T, T\)"),
        (lambda: grouped_accuracy([0], [0, 1], [(0,)]), InvalidLabels, "1 labels.*2 predictions"),
        (lambda: grouped_accuracy([0], [0], [(0, 1), (1,)]), InvalidLabels, "class 1 is in two"),
        (lambda: top_k_accuracy([0], [[1.0]], [0, 1]), InvalidSetting, r"\(1, 1\).*2 classes"),
        (lambda: top_k_accuracy([0], [[np.nan]], [0]), InvalidSetting, "one number"),
        (lambda: top_k_accuracy([0, 1], [[1.0]], [0]), InvalidLabels, "2 labels.*1 rows"),
        (lambda: top_k_accuracy([0], [[1.0]], [0], k=0), InvalidSetting, "k is 0"),
    ],
)
def test_what_cannot_be_counted_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
