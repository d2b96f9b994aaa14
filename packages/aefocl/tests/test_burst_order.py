import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aefocl.burst_order import burst_order, equal_segments
from lipogram.errors import InvalidLabels, InvalidSetting

labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(
    lambda values: np.array(values, dtype=int)
)


@given(labels, st.floats(1, 20), st.integers(0, 5))
def test_every_row_once_runs_of_one_class_and_each_class_in_its_order(values, burst, seed):
    order, runs = burst_order(values, burst, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(values)))
    assert np.all(np.isin(np.diff(runs), (0, 1)))
    assert all(len(set(values[order[runs == run]])) == 1 for run in set(runs.tolist()))
    for label in set(values.tolist()):
        assert np.all(np.diff(order[values[order] == label]) > 0)
    again, _ = burst_order(values, burst, np.random.default_rng(seed))
    assert np.array_equal(order, again)


def test_runs_are_as_long_as_asked_and_classes_do_not_drift():
    values = np.repeat([0, 1], [30_000, 3_000])
    order, runs = burst_order(values, 8, np.random.default_rng(0))
    assert np.bincount(runs).mean() == pytest.approx(8, rel=0.05)
    shares = [np.mean(part == 1) for part in np.split(values[order], 3)]
    assert shares == pytest.approx([1 / 11] * 3, abs=0.02)
    alone, runs = burst_order(values, 1, np.random.default_rng(0))
    assert len(set(runs.tolist())) == len(alone)


@pytest.mark.parametrize("burst", [0.5, 0, -1, float("nan")])
def test_a_run_has_at_least_one_row(burst):
    with pytest.raises(InvalidSetting, match="burst is"):
        burst_order([1], burst, np.random.default_rng(0))


def test_without_a_row_there_is_no_order():
    with pytest.raises(InvalidLabels, match="empty"):
        burst_order([], 8, np.random.default_rng(0))


@given(labels, st.data())
def test_segments_are_equal_and_keep_the_order(values, data):
    segments = data.draw(st.integers(1, len(values)))
    order = np.random.default_rng(0).permutation(len(values))
    tasks = equal_segments(order, values, segments)
    sizes = [len(task.train) for task in tasks]
    assert len(sizes) == segments
    assert max(sizes) - min(sizes) <= 1
    assert np.concatenate([task.train for task in tasks]).tolist() == order.tolist()
    assert set(tasks[-1].seen) == set(values.tolist())


@pytest.mark.parametrize("segments", [0, 4])
def test_no_more_segments_than_rows(segments):
    with pytest.raises(InvalidSetting, match="between 1 and the 3 rows"):
        equal_segments(np.arange(3), np.zeros(3, dtype=int), segments)
