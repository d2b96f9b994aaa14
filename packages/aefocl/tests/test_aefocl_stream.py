"""What a stream is, its batches, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aefocl.stream import Stream
from lipogram.analytic.scenarios import chronological
from lipogram.analytic.sources import Features
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting

ROWS = np.arange(24, dtype=float).reshape(12, 2)
LABELS = np.array([0, 1, 0, 1, 2, 2, 0, 0, 1, 1, 2, 0])
DATA = Features(ROWS, LABELS, ROWS[:3], LABELS[:3], ("a", "b", "c"), "toy", "s")
TASKS = tuple(chronological(np.arange(12), [4, 4.5, 4.6, 9], labels=LABELS))


def test_batches_bring_every_row_once_and_stop_at_each_segment():
    sizes = [len(task.train) for task in TASKS]
    assert sizes == [4, 1, 0, 4, 3]
    for size in (1, 2, 3, 10):
        batches = list(Stream(DATA, TASKS).batches(size))
        assert np.concatenate([rows for _, rows, _ in batches]).tolist() == list(range(12))
        assert all(len(rows) <= size for _, rows, _ in batches)
        ends = [segment for segment, _, last in batches if last]
        assert ends == [0, 1, 2, 3, 4]
        for segment, rows, _ in batches:
            assert set(rows) <= set(TASKS[segment].train)
    with pytest.raises(InvalidSetting, match="batch of 0"):
        next(Stream(DATA, TASKS).batches(0))


@given(st.lists(st.integers(0, 11), unique=True, min_size=1), st.integers(1, 5))
def test_counts_are_those_of_what_arrives(kept, size):
    part = Stream(DATA, (replace(TASKS[0], train=np.array(kept)),))
    assert part.class_counts.tolist() == [int((LABELS[kept] == k).sum()) for k in range(3)]
    assert part.order.tolist() == kept
    assert sum(len(rows) for _, rows, _ in part.batches(size)) == len(kept)


def test_tests_are_one_for_all_or_one_a_segment():
    assert Stream(DATA, TASKS).test_rows(3).tolist() == [0, 1, 2]
    tests = tuple(np.array([i % 3]) for i in range(5))
    assert Stream(DATA, TASKS, tests).test_rows(3).tolist() == [0]


def test_duplicate_rows_are_allowed_and_counted():
    assert Stream(DATA, TASKS).duplicates == 0
    again = replace(DATA, train=ROWS[[0, 1, 2, 3, 0, 0, 6, 7, 8, 9, 10, 1]])
    assert Stream(again, TASKS).duplicates == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": ROWS[:, 0]}, InvalidFeatures, "train rows"),
        ({"train": ROWS[:0]}, InvalidFeatures, "train rows"),
        ({"train": ROWS.astype(str)}, InvalidFeatures, "train rows"),
        ({"test": ROWS[:3, :1]}, InvalidFeatures, "2 features.*1"),
        ({"train": np.where(ROWS == 7, np.nan, ROWS)}, InvalidFeatures, "train row 3"),
        ({"test": np.where(ROWS == 2, np.inf, ROWS)[:3]}, InvalidFeatures, "test row 1"),
        ({"train_labels": LABELS[:5]}, InvalidLabels, "12 train rows"),
        ({"train_labels": LABELS.astype(float)}, InvalidLabels, "float64"),
        ({"train_labels": LABELS + 1}, InvalidLabels, "1 to 3.*3 class names"),
        ({"train_labels": LABELS - 1}, InvalidLabels, "-1 to 1"),
        ({"test_labels": np.array([0, 1, 3])}, InvalidLabels, "test labels"),
    ],
)
def test_data_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        Stream(replace(DATA, **changes), TASKS)


@pytest.mark.parametrize(
    ("segments", "tests", "message"),
    [
        ((), (), "at least one segment"),
        ((replace(TASKS[0], train=np.array([12])),), (), "12.*12 rows"),
        ((replace(TASKS[0], train=np.array([-1])),), (), "-1"),
        ((TASKS[0], TASKS[0]), (), "twice"),
        (TASKS, (np.array([0]),), "1 tests for 5 segments"),
        (TASKS[:1], (np.array([3]),), "a test"),
    ],
)
def test_positions_that_do_not_fit_are_refused(segments, tests, message):
    with pytest.raises(InvalidSetting, match=message):
        Stream(DATA, segments, tests)
