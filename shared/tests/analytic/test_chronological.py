import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.analytic.scenarios import chronological
from lipogram.errors import InvalidLabels, InvalidSetting, InvalidTimestamps, OutOfOrder

times = st.lists(st.integers(0, 20), min_size=1, max_size=60)
cuts = st.sets(st.integers(-2, 22), max_size=5).map(sorted)


@pytest.mark.filterwarnings("ignore::lipogram.errors.OutOfOrder")
@given(times, cuts, st.data())
def test_segments_hold_every_sample_once_in_order(stamps, boundaries, data):
    keys = st.lists(st.integers(0, 3), min_size=len(stamps), max_size=len(stamps))
    video, sequence = data.draw(keys), data.draw(keys)
    tasks = chronological(stamps, boundaries, video=video, sequence=sequence)
    assert len(tasks) == len(boundaries) + 1
    stream = np.concatenate([task.train for task in tasks]).tolist()
    expected = sorted(range(len(stamps)), key=lambda i: (stamps[i], video[i], sequence[i]))
    assert stream == expected  # sorted() is stable, so ties keep their order
    edges = [-np.inf, *boundaries, np.inf]
    for task, start, stop in zip(tasks, edges[:-1], edges[1:], strict=True):
        assert all(start <= stamps[i] < stop for i in task.train)


def test_classes_are_booked_when_labels_are_given():
    tasks = chronological([1, 2, 3, 4], [3], labels=["car", "bus", "car", "tram"])
    assert [task.classes for task in tasks] == [("car", "bus"), ("tram",)]
    assert tasks[1].seen == ("car", "bus", "tram")
    assert [task.name for task in tasks] == ["segment 1", "segment 2"]
    assert [task.seen for task in chronological([1, 2], [2])] == [(), ()]


@pytest.mark.parametrize(
    ("stamps", "boundary"),
    [
        (["2019-11-11T09:00:00", "2019-11-11T21:30:00", "2019-11-17T09:00:00"], "2019-11-12"),
        (["20191111T090000", "20191111T213000", "20191117T090000"], "20191112"),
        (
            ["2019-11-11T23:00:00+08:00", "2019-11-11T20:00:00+00:00", "2019-11-12T10:00:00+08:00"],
            "2019-11-12T00:00:00+00:00",
        ),
        (
            np.array(["2019-11-11", "2019-11-11", "2019-11-12"], "datetime64[D]"),
            np.datetime64("2019-11-11T12:00:00"),
        ),
        ([0.5, 0.5, 2.5], 1),
    ],
)
def test_times_may_be_numbers_dates_or_iso_strings(stamps, boundary):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks = chronological(stamps, [boundary])
    assert [task.train.tolist() for task in tasks] == [[0, 1], [2]]


def test_rows_out_of_order_are_sorted_with_one_warning():
    with pytest.warns(OutOfOrder, match="2 of 5") as caught:
        tasks = chronological([1, 5, 3, 4, 2], [])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert tasks[0].train.tolist() == [0, 4, 2, 3, 1]


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (
            ["2019-11-11T14:59:60", "2019-11-11T15:00:00", "5018"],
            r"row 0 .*59:60.*row 2 \('5018'\)",
        ),
        (["2019-11-11", "2019-13-01"], r"row 1 \('2019-13-01'\)"),
        ([0.0, np.nan, np.inf], r"row 1 \(nan\), row 2 \(inf\)"),
        (np.array(["2019-11-11", "NaT"], "datetime64[s]"), "row 1"),
        (["2019-11-11", "2019-11-12T00:00:00+08:00"], "time zone"),
        ([], "empty"),
        ([[1, 2]], r"\(1, 2\)"),
        ([True, False], "bool"),
        (["x"] * 9, "and 4 more"),
    ],
)
def test_malformed_timestamps_are_refused_by_row(stamps, message):
    with pytest.raises(InvalidTimestamps, match=message):
        chronological(stamps, [])


def test_boundaries_must_increase_and_be_of_the_same_kind():
    with pytest.raises(InvalidSetting, match="strictly increasing"):
        chronological([1, 2], [2, 2])
    with pytest.raises(InvalidSetting, match=r"datetime64.*float64"):
        chronological([1, 2], ["2019-11-11"])
    with pytest.raises(InvalidTimestamps, match="boundaries: row 0"):
        chronological([1, 2], [np.nan])


def test_keys_of_another_length_are_refused():
    with pytest.raises(InvalidLabels, match="video has 1 rows, the timestamps have 2"):
        chronological([1, 2], [], video=[1])
    with pytest.raises(InvalidLabels, match="labels"):
        chronological([1, 2], [], labels=[1.5, 2])
