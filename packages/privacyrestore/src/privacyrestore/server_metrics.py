"""Counts and times for `/metrics`, in Prometheus' text format; nothing of any request."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacyrestore.batch_engine import EngineStats

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How many values were at most each bound, their sum and their number.

    Args:
        bounds: ascending; one for infinity is added.
    """

    def __init__(self, bounds: Sequence[float]):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        place = sum(bound < value for bound in self.bounds)
        self.counts[place] += 1
        self.total += value

    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        """Suffix, labels and value of each line."""
        below = 0
        for bound, count in zip([*self.bounds, None], self.counts, strict=True):
            below += count
            yield "_bucket", (("le", "+Inf" if bound is None else f"{bound:g}"),), below
        yield "_sum", (), self.total
        yield "_count", (), below


class Metrics:
    """What a server has done since its start; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._rows: Counter[str] = Counter()
        self._seconds = Histogram(SECONDS)
        self._first = Histogram(SECONDS)
        self._prompt = Histogram(TOKENS)
        self._new = Histogram(TOKENS)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: a path of this API as it is written in its documentation, or "other".
            status: of HTTP; 499 where the client left before one was sent.
            seconds: from the head of the request to the end of the answer.
        """
        with self._lock:
            self._answers[route, status] += 1
            self._seconds.add(seconds)

    def accepted(self, prompt_tokens: int, *, restored: bool) -> None:
        """Count a row that the engine has taken."""
        with self._lock:
            self._rows["restored" if restored else "plain"] += 1
            self._prompt.add(prompt_tokens)

    def first_piece(self, seconds: float) -> None:
        """Note how long a client waited for the first text."""
        with self._lock:
            self._first.add(seconds)

    def finished(self, new_tokens: int) -> None:
        """Note the length of an answer that has come to its end."""
        with self._lock:
            self._new.add(new_tokens)

    def text(self, engine: EngineStats) -> str:
        """The page."""
        with self._lock:
            lines = [
                *_counter(
                    "http_requests_total",
                    "Answers by route and status.",
                    {(("route", r), ("status", str(s))): n for (r, s), n in self._answers.items()},
                ),
                *_counter(
                    "rows_total",
                    "Rows that the engine took, with a vector or without.",
                    {(("kind", kind),): n for kind, n in self._rows.items()},
                ),
                *_histogram("http_seconds", "Time of a whole answer.", self._seconds),
                *_histogram("first_piece_seconds", "Time to the first text.", self._first),
                *_histogram("prompt_tokens", "Tokens of a prompt.", self._prompt),
                *_histogram("new_tokens", "Tokens of an answer.", self._new),
            ]
        gauges = {"running": engine.running, "waiting": engine.waiting}
        for name, value in gauges.items():
            lines += _family(f"engine_{name}", "gauge", f"Rows that are {name}.", [("", (), value)])
        totals = {
            "accepted": engine.accepted,
            "refused": engine.refused,
            "prompt_tokens": engine.prompt_tokens,
            "new_tokens": engine.new_tokens,
            "forwards": engine.forwards,
        }
        for name, value in totals.items():
            lines += _counter(f"engine_{name}_total", "Of the engine, so far.", {(): value})
        ended: dict[Labels, int] = {(("reason", reason),): n for reason, n in engine.ended.items()}
        lines += _counter("engine_ended_total", "Rows that ended, by reason.", ended)
        return "\n".join(lines) + "\n"


def _counter(name: str, text: str, values: Mapping[Labels, float]) -> list[str]:
    return _family(name, "counter", text, [("", labels, n) for labels, n in values.items()])


def _histogram(name: str, text: str, histogram: Histogram) -> list[str]:
    return _family(name, "histogram", text, histogram.samples())


def _family(
    name: str, kind: str, text: str, samples: Iterable[tuple[str, Labels, float]]
) -> list[str]:
    name = f"privacyrestore_{name}"
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for suffix, labels, value in samples:
        inside = ",".join(f'{key}="{label}"' for key, label in labels)
        lines.append(f"{name}{suffix}{f'{{{inside}}}' if inside else ''} {value}")
    return lines
