"""A learner on a stream: small batches in, one pass, every class tested after each segment."""

from __future__ import annotations

import csv
import inspect
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aefocl.stream import Stream
from lipogram.analytic.labels import Label
from lipogram.analytic.metrics import AMCA, accuracy, amca, per_class_accuracy
from lipogram.errors import InvalidLabels, InvalidSetting
from lipogram.files import write_atomically


class OnlineLearner(Protocol):
    """What a stream needs of a learner; features (n, d), labels (n,) strings.

    Where ``predict`` takes ``balanced``, the learner has two heads, and both are tested.
    """

    def partial_fit(self, X: Any, y: Any) -> Any:
        """Learn from a batch."""

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,)."""


@dataclass(frozen=True)
class Score:
    """How one head did at one test point.

    Attributes:
        accuracy: share of the test rows that were predicted right.
        per_class: the same of each class that has a test row; 0 for one not learnt yet.
        seconds: wall time of the prediction, with the solve that it asked for.
    """

    accuracy: float
    per_class: dict[Label, float]
    seconds: float

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes of :attr:`per_class`; AMCA is its mean over the test points."""
        return float(np.mean(list(self.per_class.values())))


@dataclass(frozen=True)
class TestPoint:
    """One look at a learner, after a segment.

    Attributes:
        n_seen: rows learnt before it. ``segment``: the name of the one that ended.
        fit_seconds: wall time of learning since the point before.
        score: of what ``predict`` says.
        plain: of ``predict(…, balanced=False)``; None for a learner with one head.
    """

    __test__ = False  # no test for pytest, whatever its name

    n_seen: int
    segment: str
    fit_seconds: float
    score: Score
    plain: Score | None = None


@dataclass(frozen=True)
class OnlineResult:
    """What came of a stream.

    Attributes:
        stream: its name. ``class_names``: (k,).
        class_counts: (k,) rows of each class that were learnt.
        points: the test points in order.
        duplicates: rows that were equal to one learnt before; they count like any other.
        remarks: what the stream's reader did to the data.
    """

    stream: str
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    points: tuple[TestPoint, ...]
    duplicates: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def amca(self) -> AMCA:
        """Average mean class accuracy of what ``predict`` says."""
        return amca([point.score.per_class for point in self.points], self.class_names)

    @property
    def plain_amca(self) -> AMCA | None:
        """The same of the plain head; None for a learner with one head."""
        scores = [point.plain for point in self.points]
        told = [score.per_class for score in scores if score is not None]
        return amca(told, self.class_names) if told else None

    def figures(self) -> dict[str, float]:
        """AMCA, accuracy at the end, and seconds, of every head, by name."""
        heads = {"": [point.score for point in self.points]}
        plain = [point.plain for point in self.points if point.plain is not None]
        if plain:
            heads["plain_"] = plain
        found = {"fit_seconds": sum(point.fit_seconds for point in self.points)}
        for prefix, scores in heads.items():
            found |= {
                f"{prefix}amca": amca([score.per_class for score in scores]).value,
                f"{prefix}mean_class_accuracy_last": scores[-1].mean_class_accuracy,
                f"{prefix}accuracy_last": scores[-1].accuracy,
                f"{prefix}predict_seconds": sum(score.seconds for score in scores),
            }
        return found

    def write(self, folder: Path | str) -> None:
        """``amca.json`` and ``per_point.csv`` into a folder, which is made where it is not there.

        The table has one line a test point and head: n_seen, segment, head, accuracy,
        mean_class_accuracy, seconds of learning and of predicting, and a column for each class,
        empty where the class has no test row.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "stream": self.stream,
            "test_points": len(self.points),
            "absent": list(self.amca.absent),
            "rows": dict(zip(self.class_names, self.class_counts, strict=True)),
            "duplicates": self.duplicates,
            "remarks": list(self.remarks),
        }
        text = json.dumps({**self.figures(), **told}, indent=2, ensure_ascii=False)
        write_atomically(folder / "amca.json", text.encode())
        lines = [line for point in self.points for line in point_lines(point)]
        write_points(folder / "per_point.csv", lines, self.class_names)


def evaluate_online(
    model: OnlineLearner,
    stream: Stream,
    batch: int = 10,
    *,
    progress: Callable[[TestPoint], None] = lambda point: None,
) -> OnlineResult:
    """Feed a stream to a learner once, in order, and test it after each segment.

    The learner is told names of classes, not positions, so that its saved head can be used without
    the stream. At each point every row of the test is asked: a class that was not learnt yet counts
    with accuracy 0, as AMCA wants it. (CLAD's own tester leaves such a class out of a point.)

    Args:
        model: learns from where it is; for a fair figure, one that has seen nothing.
        stream: rows, segments and tests.
        batch: rows a ``partial_fit``; CLAD-C allows 10 at most. A batch never crosses a test point.
        progress: told each test point.

    Raises:
        InvalidSetting: a batch below 1, or a test point without a row.
        InvalidLabels: two classes of one name.
    """
    names = np.array(stream.data.class_names)
    if len(np.unique(names)) < len(names):
        raise InvalidLabels("two classes of the stream have one name: they could not be told apart")
    for number, segment in enumerate(stream.segments):
        if not len(stream.test_rows(number)):
            raise InvalidSetting(f"segment {segment.name!r} has no row to test on")
    train, labels = stream.data.train, names[stream.data.train_labels]
    points: list[TestPoint] = []
    n_seen, spent = 0, 0.0
    for number, rows, ends in stream.batches(batch):
        start = time.perf_counter()
        if len(rows):
            model.partial_fit(train[rows], labels[rows])
        spent += time.perf_counter() - start
        n_seen += len(rows)
        if ends:
            points.append(_look(model, stream, names, number, n_seen, spent))
            progress(points[-1])
            spent = 0.0
    return OnlineResult(
        stream=stream.data.name,
        class_names=stream.data.class_names,
        class_counts=tuple(stream.class_counts.tolist()),
        points=tuple(points),
        duplicates=stream.duplicates,
        remarks=stream.remarks,
    )


def has_two_heads(model: OnlineLearner) -> bool:
    """Whether ``predict`` can be asked for the balanced head or the plain one."""
    return "balanced" in inspect.signature(model.predict).parameters


def point_lines(point: TestPoint) -> list[dict[str, Any]]:
    """What a table says of a test point: one line a head, classes under ``per_class``."""
    heads = {"plain": point.plain} if point.plain is not None else {}
    return [
        {
            "n_seen": point.n_seen,
            "segment": point.segment,
            "head": head,
            "accuracy": score.accuracy,
            "mean_class_accuracy": score.mean_class_accuracy,
            "fit_seconds": point.fit_seconds,
            "predict_seconds": score.seconds,
            "per_class": score.per_class,
        }
        for head, score in {"balanced": point.score, **heads}.items()
    ]


def write_points(
    path: Path, lines: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> None:
    """Lines of :func:`point_lines`, with whatever columns they have, as a CSV file."""
    columns = [name for name in lines[0] if name != "per_class"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"class {name}" for name in class_names)])
    for line in lines:
        rates = line["per_class"]
        cells = [line[name] for name in columns] + [rates.get(name, "") for name in class_names]
        writer.writerow([f"{c:.6f}" if isinstance(c, float) else c for c in cells])
    write_atomically(path, text.getvalue().encode())


def _look(
    model: OnlineLearner,
    stream: Stream,
    names: NDArray[Any],
    number: int,
    n_seen: int,
    fit_seconds: float,
) -> TestPoint:
    tested = stream.test_rows(number)
    rows, labels = stream.data.test[tested], names[stream.data.test_labels[tested]]
    plain = None
    if not n_seen:
        score = Score(0.0, dict.fromkeys(np.unique(labels).tolist(), 0.0), 0.0)
    else:
        score = _score(model, rows, labels)
        if has_two_heads(model):
            plain = _score(model, rows, labels, balanced=False)
    return TestPoint(n_seen, stream.segments[number].name, fit_seconds, score, plain)


def _score(model: OnlineLearner, rows: NDArray[Any], labels: NDArray[Any], **head: bool) -> Score:
    start = time.perf_counter()
    predicted = model.predict(rows, **head)
    seconds = time.perf_counter() - start
    return Score(accuracy(labels, predicted), per_class_accuracy(labels, predicted), seconds)
