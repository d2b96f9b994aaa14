import numpy as np
import pytest

from aefocl.road_stream import road_stream
from lipogram.errors import InvalidSetting


def test_sizes_are_a_hundred_to_one_and_every_segment_has_its_share():
    stream = road_stream()
    assert stream.class_counts.tolist() == [1500, 597, 237, 94, 37, 15]
    assert [len(task.train) for task in stream.segments] == [413, 414, 413, 413, 414, 413]
    assert np.bincount(stream.data.test_labels).tolist() == [60] * 6


def test_the_seed_decides_everything():
    a, b, c = road_stream(seed=1), road_stream(seed=1), road_stream(seed=2)
    assert np.array_equal(a.data.train, b.data.train)
    assert np.array_equal(a.data.test, b.data.test)
    assert a.data.space == b.data.space != c.data.space
    assert not np.array_equal(a.data.train[:10], c.data.train[:10])


def test_day_and_night_differ_and_days_are_alike():
    stream = road_stream(n_largest=6000, burst=1)
    day, night, next_day = (
        stream.data.train[task.train][stream.data.train_labels[task.train] == 0].mean(axis=0)
        for task in stream.segments[:3]
    )
    assert np.linalg.norm(day - next_day) < 0.2 * np.linalg.norm(day - night)
    tested = stream.data.test[stream.data.test_labels == 0]
    # The test has both lights: every second row is a night.
    assert np.linalg.norm(tested[::2].mean(axis=0) - day) < np.linalg.norm(
        tested[::2].mean(axis=0) - night
    )
    assert np.linalg.norm(tested[1::2].mean(axis=0) - night) < np.linalg.norm(
        tested[1::2].mean(axis=0) - day
    )


def test_neighbours_in_time_are_alike():
    stream = road_stream(n_largest=400)
    rows, labels = stream.data.train[stream.order], stream.data.train_labels[stream.order]
    same = labels[1:] == labels[:-1]
    near = np.linalg.norm(rows[1:] - rows[:-1], axis=1)[same].mean()
    car = rows[labels == 0]
    far = np.linalg.norm(car[: len(car) // 2] - car[-(len(car) // 2) :], axis=1).mean()
    assert near < 0.8 * far


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 0},
        {"n_test": 1},
        {"n_largest": 0},
        {"rho": 0.5},
        {"segments": 0},
        {"segments": 10_000},
        {"burst": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidSetting):
        road_stream(**settings)
