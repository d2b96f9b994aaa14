import numpy as np
import pytest

from afl.partitions import dirichlet_partition
from afl.pictures import timeline_figure
from afl.timeline import timeline
from lipogram.analytic.sources import features_of


@pytest.fixture(scope="module")
def digits():
    return features_of("digits")


@pytest.fixture(scope="module")
def told(digits):
    parts = dirichlet_partition(digits.train_labels, 60, 0.05, min_size=0)
    return parts, timeline(digits, parts, gamma=1.0)


def test_a_tenth_begins_all_come_and_one_that_began_leaves(told):
    parts, events = told
    busy = [part for part in parts if len(part)]
    clients = [point["clients"] for point in events["points"]]
    assert clients[0] == round(len(busy) / 10)
    assert clients[-2:] == [len(busy), len(busy) - 1]
    assert np.all(np.diff(clients)[:-1] > 0)
    assert len(clients) == 1 + 9 + 1
    assert events["points"][-1]["event"] == f"{events['leaver']} leaves"
    gone = int(events["leaver"].removeprefix("client-"))
    assert len(parts[gone]) == events["leaver_rows"] == max(map(len, busy[: clients[0]]))
    rows = [point["rows"] for point in events["points"]]
    assert rows[-1] == rows[-2] - events["leaver_rows"]
    assert events["ledger_entries"] == len(busy) + 1


def test_each_accuracy_is_that_of_the_rows_in_the_sum(digits, told):
    parts, events = told
    busy = [part for part in parts if len(part)]
    gone = int(events["leaver"].removeprefix("client-"))
    held = [np.concatenate(busy[: point["clients"]]) for point in events["points"][:-1]]
    held.append(np.setdiff1d(held[-1], parts[gone]))
    for point, rows in zip(events["points"], held, strict=True):
        X, Y = digits.train[rows], np.eye(10)[digits.train_labels[rows]]
        weight = np.linalg.solve(X.T @ X + np.eye(64), X.T @ Y)
        predicted = (digits.test @ weight).argmax(1)
        assert point["rows"] == len(rows)
        assert point["accuracy"] == pytest.approx((predicted == digits.test_labels).mean())


def test_what_is_left_is_what_never_had_the_leaver(told):
    _, events = told
    assert events["bitwise_equal"]
    assert events["total_after"] == events["total_without"] == events["points"][-1]["total"]
    totals = [point["total"] for point in events["points"]]
    assert len(set(totals)) == len(totals)


def test_few_clients_come_in_fewer_arrivals(digits):
    parts = np.array_split(np.arange(len(digits.train)), 3)
    events = timeline(digits, [*parts, np.array([], dtype=np.int64)], gamma=1.0)
    assert [point["clients"] for point in events["points"]] == [1, 2, 3, 2]


def test_the_figure_is_written(told, tmp_path):
    timeline_figure(told[1]["points"], tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes()[:4] == b"\x89PNG"
