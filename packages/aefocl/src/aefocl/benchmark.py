"""How fast: AEF-OCL's sums against its published recursion, on the same rows.

The baseline is the recursion as the authors' code computes it, see
:class:`lipogram.analytic.published_recursion.PublishedRecursion`: on the stream batch by batch, and
for a balanced head on each class's pseudo-features in pieces of at most 8192 rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aefocl.classifier import CHUNK, AEFOCLClassifier
from lipogram.analytic.blas import symmetric
from lipogram.analytic.published_recursion import PublishedRecursion, published_recursion
from lipogram.analytic.scenarios import long_tailed_counts
from lipogram.errors import FewPseudoFeatures
from lipogram.report import Table
from lipogram.threads import libraries, one_thread, timed

GAMMA, BATCH, CLASSES, RHO, INPUTS = 0.1, 10, 6, 100.0, 256
RECURSION_BATCHES = 6
BUDGET = 512
FLOORS = {"stream": 100.0, "balanced head": 10.0}
SLOWEST_ANSWER = 0.9


@dataclass(frozen=True)
class Benchmark:
    """What was measured; times in seconds, one thread.

    Attributes:
        setting: sizes, threads and libraries.
        rows, pseudo: of the stream, and pseudo-features that balance it.
        stream: learning the stream in batches of 10, buffer included, and one plain head.
        recursion: the published recursion on it without the buffer, from ``RECURSION_BATCHES``
            batches scaled to all of them.
        balanced: a balanced head, drawing and buffer included.
        recursion_balanced: the same pseudo-features, drawing and buffer included, through the
            published recursion.
        answer: a batch of 10 and then a prediction by the balanced head.
        answer_budget: the same with at most ``BUDGET`` pseudo-features a class.
        drawn, expected: a balanced head on D features without a buffer, by all pseudo-features and
            by their expectation.
        difference: largest relative difference between the two balanced heads.
    """

    setting: str
    rows: int
    pseudo: int
    stream: float
    recursion: float
    balanced: float
    recursion_balanced: float
    answer: float
    answer_budget: float
    drawn: float
    expected: float
    difference: float

    def ratios(self) -> dict[str, float]:
        """The baseline's times over ours."""
        return {
            "stream": self.recursion / self.stream,
            "balanced head": self.recursion_balanced / self.balanced,
            "expectation": self.drawn / self.expected,
        }

    def table(self) -> Table:
        """One row a comparison."""
        ratio = self.ratios()
        rows: list[list[str | float | int | None]] = [
            ["stream", "published recursion", self.stream, self.recursion, ratio["stream"]],
            [
                "balanced head",
                "published recursion",
                self.balanced,
                self.recursion_balanced,
                ratio["balanced head"],
            ],
            ["expectation", "all draws", self.expected, self.drawn, ratio["expectation"]],
            [f"answer after a batch of {BATCH}", None, self.answer, None, None],
            [f"answer, budget {BUDGET}", None, self.answer_budget, None, None],
        ]
        return Table(
            columns=["what", "against", "ours, s", "theirs, s", "ratio", "floor"],
            rows=[[*row, FLOORS.get(str(row[0]))] for row in rows],
            caption=(
                f"{self.rows} rows in batches of {BATCH}, {self.pseudo} pseudo-features. Largest "
                f"relative difference of the balanced heads {self.difference:.1e}. "
                f"An answer takes at most {SLOWEST_ANSWER:g} s."
            ),
        )

    def failures(self) -> list[str]:
        """Comparisons below their floor."""
        failed = [
            f"{name} {ratio:.1f}, floor {FLOORS[name]:g}"
            for name, ratio in self.ratios().items()
            if ratio < FLOORS.get(name, 0)
        ]
        if self.answer > SLOWEST_ANSWER:
            failed.append(f"answer {self.answer:.2f} s, at most {SLOWEST_ANSWER:g}")
        return failed

    def as_dict(self) -> dict[str, object]:
        """Everything, ratios included, as JSON values."""
        return {**asdict(self), "ratios": self.ratios(), "failures": self.failures()}


def run_benchmark(
    *, width: int = 2000, largest: int = 1500, progress: Callable[[str], None] = lambda line: None
) -> Benchmark:
    """Measure everything on one thread. About half a minute at the default sizes.

    Args:
        width: D, of the random buffer.
        largest: rows of the largest of the six classes, which has a hundred times the smallest's.
        progress: told what is being measured.
    """
    rng = np.random.default_rng(0)
    sizes = long_tailed_counts(CLASSES, largest, RHO)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), sizes))
    centres = rng.standard_normal((CLASSES, INPUTS))
    rows = centres[labels] + rng.standard_normal((len(labels), INPUTS))
    with one_thread():
        _learnt(rows[:BATCH], labels[:BATCH], width).predict(rows[:1])  # loads what is loaded once
        progress("stream in batches of 10")
        stream, head = timed(lambda: _learnt(rows, labels, width))
        progress("balanced head")
        balanced, _ = timed(lambda: head.predict(rows[:1]))
        ours, pseudo = head.coef_, int(head.drawn_count_.sum())
        progress("balanced head by the published recursion")
        published = _published(head)
        recursion_balanced, _ = timed(lambda: _balance(published, head))
        order = np.argsort(head.classes_)
        theirs = published.weight.numpy().T
        progress("published recursion")
        part = RECURSION_BATCHES * BATCH
        mapped = head.buffer_(torch.from_numpy(rows[:part])).numpy()
        recursion, _ = timed(
            lambda: published_recursion(mapped, labels[:part], CLASSES, gamma=GAMMA, batch=BATCH)
        )
        progress("answers after a batch")
        answer = _answer(head, rows, labels)
        head.budget = BUDGET
        answer_budget = _answer(head, rows, labels)
        progress("expectation")
        drawn, expected = _without_buffer(rng, labels, width)
        ran_on = libraries()
    return Benchmark(
        setting=f"D={width}, d={INPUTS}, K={CLASSES}, float64, {ran_on}",
        rows=len(labels),
        pseudo=pseudo,
        stream=stream,
        recursion=recursion * len(labels) / part,
        balanced=balanced,
        recursion_balanced=recursion_balanced,
        answer=answer,
        answer_budget=answer_budget,
        drawn=drawn,
        expected=expected,
        difference=float(np.abs(ours[order] - theirs).max() / np.abs(theirs).max()),
    )


def _learnt(rows: NDArray[Any], labels: NDArray[Any], width: int) -> AEFOCLClassifier:
    """A head after the stream, its plain weights solved."""
    head = AEFOCLClassifier(gamma=GAMMA, buffer_size=width)
    for i in range(0, len(labels), BATCH):
        head.partial_fit(rows[i : i + BATCH], labels[i : i + BATCH])
    head.predict(rows[:1], balanced=False)
    return head


def _published(head: AEFOCLClassifier) -> PublishedRecursion:
    """The recursion's state after the stream, columns by label."""
    system = head.statistics_.reweight()
    held = PublishedRecursion(head.statistics_.n_features, CLASSES, gamma=GAMMA)
    gram = symmetric(system.gram)
    held.r = torch.inverse(gram + GAMMA * torch.eye(len(gram), dtype=torch.float64))
    held.weight = held.r @ system.cross[:, np.argsort(head.classes_)]
    return held


def _balance(held: PublishedRecursion, head: AEFOCLClassifier) -> None:
    """Pass every class's pseudo-features through the recursion."""
    for label, n in zip(head.classes_.tolist(), head.drawn_count_.tolist(), strict=True):
        if n:
            rows = torch.from_numpy(head.sample_pseudo(label, n))
            for part in rows.split(CHUNK):
                held.update(head.buffer_(part), torch.full((len(part),), label))


def _answer(head: AEFOCLClassifier, rows: NDArray[Any], labels: NDArray[Any]) -> float:
    def answer() -> None:
        head.partial_fit(rows[:BATCH], labels[:BATCH])
        head.predict(rows[:BATCH])

    with warnings.catch_warnings():  # the budget is below D on purpose
        warnings.simplefilter("ignore", FewPseudoFeatures)
        return timed(answer)[0]


def _without_buffer(
    rng: np.random.Generator, labels: NDArray[Any], width: int
) -> tuple[float, float]:
    """Seconds of a balanced head by draws and by their expectation."""
    rows = rng.standard_normal((len(labels), width))
    head = AEFOCLClassifier(gamma=GAMMA, buffer_size=None).fit(rows, labels)
    drawn, _ = timed(lambda: head.predict(rows[:1]))
    head.sampler = "expected"
    expected, _ = timed(lambda: head.predict(rows[:1]))
    return drawn, expected
