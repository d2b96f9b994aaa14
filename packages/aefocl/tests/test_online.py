"""A stream evaluated: AMCA by hand, test points where they belong, files that can be read."""

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from aefocl.image_streams import digits_stream
from aefocl.online import OnlineResult, Score, TestPoint, evaluate_online
from aefocl.road_stream import road_stream
from aefocl.stream import Stream
from lipogram.analytic import AnalyticClassifier
from lipogram.analytic.scenarios import Task
from lipogram.errors import InvalidLabels, InvalidSetting


class Majority:
    """Answers the class that it has seen most often; notes the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def partial_fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        assert len(X) == len(y) > 0
        self.batches.append(y.tolist())
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        names, counts = np.unique(np.concatenate(self.batches), return_counts=True)
        return np.repeat(names[[counts.argmax()]], len(X))


class TwoHeads(Majority):
    """Its balanced head answers the rarest class."""

    def predict(self, X: NDArray[Any], balanced: bool = True) -> NDArray[Any]:
        if not balanced:
            return super().predict(X)
        names, counts = np.unique(np.concatenate(self.batches), return_counts=True)
        return np.repeat(names[[counts.argmin()]], len(X))


def tiny(sizes: tuple[int, ...] = (3, 2, 4)) -> Stream:
    """Three segments: Car and Tram, Car alone, all three; two, one and three test rows."""
    stream = road_stream(n_largest=sum(sizes), rho=1, segments=3, width=2, n_test=2)
    names = ("Bus", "Car", "Tram")
    labels = np.array([1, 2, 1, 1, 1, 0, 0, 0, 0], dtype=np.int64)
    data = replace(
        stream.data,
        train=stream.data.train[: len(labels)],
        train_labels=labels,
        test=stream.data.test[:6],
        test_labels=np.array([0, 1, 1, 2, 2, 2], dtype=np.int64),
        class_names=names,
    )
    cuts = np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])
    segments = tuple(Task(f"s{i}", rows, (), ()) for i, rows in enumerate(cuts))
    return Stream(data, segments)


def test_amca_is_the_hand_computation() -> None:
    result = evaluate_online(Majority(), tiny(), batch=2)
    # Car, Car and, after four Cars and four Buses, the first by name: Bus.
    assert [point.score.per_class for point in result.points] == [
        {"Bus": 0.0, "Car": 1.0, "Tram": 0.0},
        {"Bus": 0.0, "Car": 1.0, "Tram": 0.0},
        {"Bus": 1.0, "Car": 0.0, "Tram": 0.0},
    ]
    assert result.amca.value == pytest.approx(1 / 3, abs=1e-15)
    assert [point.score.accuracy for point in result.points] == pytest.approx([2 / 6, 2 / 6, 1 / 6])
    assert result.plain_amca is None
    assert result.class_counts == (4, 4, 1)


def test_batches_are_of_the_size_asked_and_end_where_a_segment_ends() -> None:
    model = Majority()
    result = evaluate_online(model, tiny(), batch=2)
    assert [len(batch) for batch in model.batches] == [2, 1, 2, 2, 2]
    assert np.concatenate(model.batches).tolist() == ["Car", "Tram", *["Car"] * 3, *["Bus"] * 4]
    assert [(point.n_seen, point.segment) for point in result.points] == [
        (3, "s0"),
        (5, "s1"),
        (9, "s2"),
    ]


def test_a_learner_with_two_heads_has_both_tested() -> None:
    result = evaluate_online(TwoHeads(), tiny(), batch=3)
    assert result.points[0].score.per_class["Tram"] == 1.0
    assert result.points[0].plain is not None
    assert result.points[0].plain.per_class["Car"] == 1.0
    assert result.plain_amca is not None
    assert result.plain_amca.value == pytest.approx(1 / 3)
    assert result.figures()["plain_amca"] == result.plain_amca.value
    assert result.figures()["amca"] == result.amca.value


def test_each_point_is_tested_on_its_own_rows_and_absent_classes_are_named() -> None:
    stream = tiny()
    tests = (np.array([1, 2]), np.array([0]), np.array([3, 4, 5]))
    result = evaluate_online(Majority(), Stream(stream.data, stream.segments, tests))
    assert [list(point.score.per_class) for point in result.points] == [["Car"], ["Bus"], ["Tram"]]
    assert result.amca.value == pytest.approx(1 / 3)
    assert set(result.amca.absent) == {"Bus", "Car", "Tram"}


def test_nothing_learnt_is_nothing_right() -> None:
    stream = tiny(sizes=(0, 5, 4))
    model = TwoHeads()
    first = evaluate_online(model, stream).points[0]
    assert first.n_seen == 0
    assert first.score.per_class == {"Bus": 0.0, "Car": 0.0, "Tram": 0.0}
    assert len(model.batches) == 2


def test_a_real_head_is_as_good_as_when_it_learns_all_at_once() -> None:
    stream = digits_stream(rho=20, segments=3)
    online, whole = AnalyticClassifier(gamma=1.0), AnalyticClassifier(gamma=1.0)
    result = evaluate_online(online, stream)
    names = np.array(stream.data.class_names)
    order = stream.order
    whole.fit(stream.data.train[order], names[stream.data.train_labels[order]])
    expected = whole.predict(stream.data.test) == names[stream.data.test_labels]
    assert result.points[-1].score.accuracy == pytest.approx(expected.mean())
    for name, rate in result.points[-1].score.per_class.items():
        mine = names[stream.data.test_labels] == name
        assert rate == pytest.approx(expected[mine].mean())


def test_duplicates_and_remarks_are_told() -> None:
    stream = tiny()
    train = stream.data.train.copy()
    train[4] = train[3]
    again = Stream(replace(stream.data, train=train), stream.segments, remarks=("mended",))
    result = evaluate_online(Majority(), again)
    assert (result.duplicates, result.remarks) == (1, ("mended",))


def test_seconds_are_of_learning_since_the_point_before() -> None:
    class Slow(Majority):
        def partial_fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
            time.sleep(0.05)
            return super().partial_fit(X, y)

    points = evaluate_online(Slow(), tiny(sizes=(5, 4, 0)), batch=1).points
    assert points[0].fit_seconds > 0.24
    assert 0.19 < points[1].fit_seconds
    assert points[2].fit_seconds < 0.05


def test_files_say_what_the_result_says(tmp_path: Path) -> None:
    stream = tiny()
    tests = (np.array([1, 2]), np.arange(6), np.arange(6))
    result = evaluate_online(TwoHeads(), Stream(stream.data, stream.segments, tests))
    result.write(tmp_path / "new" / "folder")
    told = json.loads((tmp_path / "new" / "folder" / "amca.json").read_text())
    assert told["amca"] == result.amca.value
    assert told["absent"] == ["Bus", "Tram"]
    assert told["rows"] == {"Bus": 4, "Car": 4, "Tram": 1}
    assert told["test_points"] == 3
    lines = list(csv.DictReader((tmp_path / "new" / "folder" / "per_point.csv").open()))
    assert [(line["n_seen"], line["head"]) for line in lines] == [
        (n, head) for n in ("3", "5", "9") for head in ("balanced", "plain")
    ]
    assert (lines[0]["class Bus"], lines[0]["class Car"]) == ("", "0.000000")
    rates = [[float(v) for k, v in line.items() if k.startswith("class ") and v] for line in lines]
    means = [
        np.mean(rate) for rate, line in zip(rates, lines, strict=True) if line["head"] != "plain"
    ]
    assert np.mean(means) == pytest.approx(result.amca.value, abs=1e-6)


def test_amca_of_points_made_by_hand() -> None:
    points = (
        TestPoint(10, "day", 0.1, Score(0.9, {"Car": 1.0, "Tram": 0.5}, 0.2)),
        TestPoint(20, "night", 0.3, Score(0.2, {"Car": 0.25, "Tram": 0.0}, 0.4)),
    )
    result = OnlineResult("made up", ("Car", "Tram", "Bus"), (9, 1, 0), points)
    assert result.amca.value == pytest.approx((0.75 + 0.125) / 2, abs=1e-15)
    assert result.amca.absent == ("Bus",)
    figures = result.figures()
    assert figures["fit_seconds"] == pytest.approx(0.4)
    assert figures["predict_seconds"] == pytest.approx(0.6)
    assert (figures["accuracy_last"], figures["mean_class_accuracy_last"]) == (0.2, 0.125)


def test_amca_is_avalanches_where_every_point_tests_every_class() -> None:
    theirs = pytest.importorskip(
        "avalanche.evaluation.metrics.amca", reason="pip install avalanche-lib==0.6.0 runs this"
    ).AverageMeanClassAccuracy()
    import torch

    stream = tiny()
    stream = Stream(stream.data, stream.segments, (np.arange(6), np.array([0, 1, 5]), np.arange(6)))
    names = np.array(stream.data.class_names)
    model = Majority()
    result = evaluate_online(model, stream, batch=2)
    learner = Majority()
    for number, rows, ends in stream.batches(2):
        learner.partial_fit(stream.data.train[rows], names[stream.data.train_labels[rows]])
        if ends:
            tested = stream.test_rows(number)
            guessed = np.searchsorted(names, learner.predict(stream.data.test[tested]))
            truth = stream.data.test_labels[tested]
            theirs.next_experience()
            theirs.update(torch.from_numpy(guessed), torch.from_numpy(truth), 0)
    assert theirs.result()[0] == pytest.approx(result.amca.value, abs=1e-12)


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_needs_a_row(batch: int) -> None:
    with pytest.raises(InvalidSetting, match=str(batch)):
        evaluate_online(Majority(), tiny(), batch)


def test_a_point_without_a_test_row_is_refused_before_anything_is_learnt() -> None:
    stream, model = tiny(), Majority()
    tests = (np.arange(6), np.empty(0, dtype=np.int64), np.arange(6))
    with pytest.raises(InvalidSetting, match="'s1'"):
        evaluate_online(model, Stream(stream.data, stream.segments, tests))
    assert not model.batches


def test_two_classes_of_one_name_are_refused() -> None:
    stream, model = tiny(), Majority()
    data = replace(stream.data, class_names=("Bus", "Car", "Bus"))
    with pytest.raises(InvalidLabels, match="one name"):
        evaluate_online(model, Stream(data, stream.segments))
    assert not model.batches
