"""Thresholds for the latencies that somebody wants.

A threshold means nothing by itself: the same one makes one model wait and another hurry. So it is
found for a model, a future and a prefix setting on sentences of their own, and kept beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.files import write_atomically
from psfuture.backend import Backend
from psfuture.divergences import RANGES, check_threshold
from psfuture.engine import Engine, Memo
from psfuture.metrics import corpus_latency
from psfuture.policies import PsFuture
from psfuture.simulation import check_length, trace_of
from psfuture.stream import Stream
from psfuture.units import Unit, split

Metric = Literal["AL", "LAAL", "DAL"]
FILE = "psfuture_policy.json"
_SCHEMA = 1
_LEVELS = ("low", "medium", "high")
_SMALLEST = 1e-8
_LARGEST_KL = -math.log(1e-12)  # where `kl` stops growing, for distributions that share no token
_CLOSE = 1.001  # ratio of two thresholds that are not told apart


@dataclass(frozen=True)
class Level:
    """A rung of the ladder.

    Attributes:
        threshold: lambda.
        target: the latency that was asked for.
        latency: that it had on the sentences of the calibration.
    """

    threshold: float
    target: float
    latency: float


@dataclass(frozen=True)
class Calibration:
    """Thresholds by level, and what they hold for.

    Attributes:
        model: the backend's name.
        future: what invents the words to come, in words that
            :func:`psfuture.policy_text.make_policy` takes.
        prefix_eos: whether prefixes are closed.
        divergence: by name.
        reduce: over several futures.
        write_from: distribution that is written from.
        max_words_per_read: see :class:`psfuture.policies.Limits`.
        metric: of the latency.
        unit: that it counts.
        sentences: that it was measured on.
        levels: "low", "medium" and "high" of three latencies, else by their numbers.
    """

    model: str
    future: str
    prefix_eos: bool
    divergence: str
    reduce: Literal["mean", "max"]
    write_from: Literal["partial", "pseudo", "mix"]
    max_words_per_read: int | None
    metric: Metric
    unit: Unit
    sentences: int
    levels: dict[str, Level]

    def level(self, name: str) -> Level:
        """A rung by its name.

        Raises:
            InvalidSetting: no such level; those there are, are listed.
        """
        if name not in self.levels:
            raise InvalidSetting(f"no level {name!r}; there are {', '.join(self.levels)}")
        return self.levels[name]

    def applied(self, policy: PsFuture, level: str) -> PsFuture:
        """The policy with a level's threshold.

        Raises:
            InvalidSetting: no such level, or a policy that differs in what the threshold hangs on.
        """
        own = vars(policy) | vars(policy.limits)
        for name in ("prefix_eos", "divergence", "reduce", "write_from", "max_words_per_read"):
            if own[name] != getattr(self, name):
                raise InvalidSetting(
                    f"calibrated with {name} {getattr(self, name)!r}, the policy has "
                    f"{own[name]!r}: the threshold does not carry over"
                )
        return replace(policy, threshold=self.level(level).threshold)

    def write(self, path: str | Path) -> None:
        """Write `psfuture_policy.json`, whole or not at all."""
        held = {"schema": _SCHEMA} | asdict(self)
        text = json.dumps(held, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(Path(path), text.encode())

    @classmethod
    def read(cls, path: str | Path, *, model: str) -> Calibration:
        """Read what :meth:`write` wrote.

        Args:
            path: of the file.
            model: name of the backend that it shall be used with.

        Raises:
            CorruptState: no such file of this version; the message names what is wrong.
            InvalidSetting: made for another model, or thresholds that its divergence cannot reach.
            OSError: it cannot be read.
        """
        made = _parsed(Path(path))
        if made.model != model:
            raise InvalidSetting(
                f"{path} was calibrated for the model {made.model}, not for {model}: thresholds do "
                "not carry over, calibrate this one"
            )
        return made


def calibrate(
    backend: Backend,
    policy: PsFuture,
    sources: Sequence[str],
    targets: Sequence[float],
    *,
    references: Sequence[str] | None = None,
    metric: Metric = "AL",
    future: str = "fixed: and so on.",
    unit: Unit = "word",
    tolerance: float = 0.05,
    batch_size: int = 64,
) -> Calibration:
    """Find the threshold of each latency by bisection.

    What the model said is kept, so another threshold costs only the places where it leads to
    another trajectory.

    Args:
        backend: the model.
        policy: all but its threshold is kept.
        sources: sentences that nothing will be reported on.
        targets: latencies, in source units.
        references: a translation each; without them AL counts the output's own length.
        metric: of the latency.
        future: see :class:`Calibration`.
        unit: what is read and shown.
        tolerance: of the latency, where bisection stops.
        batch_size: sentences in lock-step.

    Raises:
        InvalidSetting: no sentence or target, a divergence that has no name, an unknown metric, or
            targets that no threshold reaches; the message says which can be reached.
    """
    if metric not in get_args(Metric):
        raise InvalidSetting(f"no metric {metric!r}; there are {', '.join(get_args(Metric))}")
    if not isinstance(policy.divergence, str):
        raise InvalidSetting("a divergence without a name cannot be kept in a file")
    if not targets or not any(line.split() for line in sources):
        raise InvalidSetting("calibration needs a sentence and a latency at least")
    if references is not None and len(references) != len(sources):
        raise InvalidSetting(f"{len(sources)} sources and {len(references)} references")
    replay = _Replay(backend, policy, sources, references, metric, unit, batch_size)
    fastest = min(RANGES[policy.divergence][1], _LARGEST_KL)
    shortest, longest = replay.latency(fastest), replay.latency(-1.0)
    beyond = [target for target in targets if not shortest <= target <= longest]
    if beyond:
        raise InvalidSetting(
            f"{metric} {', '.join(f'{target:g}' for target in beyond)} cannot be reached: these "
            f"sentences allow {shortest:.3g} to {longest:.3g}"
        )
    ordered = sorted(set(targets))
    names = _LEVELS if len(ordered) == len(_LEVELS) else [f"{target:g}" for target in ordered]
    found = [_bisected(replay, target, fastest, tolerance) for target in ordered]
    return Calibration(
        model=backend.name,
        future=future,
        prefix_eos=policy.prefix_eos,
        divergence=policy.divergence,
        reduce=policy.reduce,
        write_from=policy.write_from,
        max_words_per_read=policy.limits.max_words_per_read,
        metric=metric,
        unit=unit,
        sentences=len(sources),
        levels=dict(zip(names, found, strict=True)),
    )


class _Replay:
    """The latency of any threshold, over one memo."""

    def __init__(
        self,
        backend: Backend,
        policy: PsFuture,
        sources: Sequence[str],
        references: Sequence[str] | None,
        metric: Metric,
        unit: Unit,
        batch_size: int,
    ):
        self.backend, self.policy, self.metric, self.unit = backend, policy, metric, unit
        self.references, self.known = references, dict[float, float]()
        sentences = [split(line, unit) for line in sources]
        for number, words in enumerate(sentences, 1):
            check_length(backend, words, unit, f"sentence {number}")
        starts = range(0, len(sentences), batch_size)
        self.batches = [(Memo(), sentences[at : at + batch_size]) for at in starts]

    def latency(self, threshold: float) -> float:
        """Mean of the metric."""
        if threshold not in self.known:
            policy = replace(self.policy, threshold=threshold)
            traces = []
            for memo, batch in self.batches:
                streams = [Stream(list(words), unit=self.unit, complete=True) for words in batch]
                Engine(self.backend, policy, memo, unit=self.unit).run(streams, batch)
                traces += [trace_of(self.backend, stream) for stream in streams]
            if self.references is not None:
                pairs = zip(traces, self.references, strict=True)
                traces = [trace.with_reference(reference) for trace, reference in pairs]
            self.known[threshold] = corpus_latency(traces, unit=self.unit).values[self.metric]
        return self.known[threshold]


def _bisected(replay: _Replay, target: float, fastest: float, tolerance: float) -> Level:
    slow, fast = _SMALLEST, fastest
    while fast > slow * _CLOSE:
        middle = math.sqrt(slow * fast)
        latency = replay.latency(middle)
        if abs(latency - target) <= tolerance:
            break
        if latency > target:
            slow = middle
        else:
            fast = middle
    best = min(
        replay.known, key=lambda threshold: (abs(replay.known[threshold] - target), threshold)
    )
    return Level(best, target, replay.known[best])


def _parsed(path: Path) -> Calibration:
    try:
        held: Any = json.loads(path.read_text(encoding="utf-8"))
        schema = held.pop("schema")
        levels = {name: Level(**level) for name, level in held.pop("levels").items()}
        made = Calibration(**held, levels=levels)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(f"{path} is no calibration: {error!r}") from None
    if schema != _SCHEMA:
        raise CorruptState(f"{path} has schema {schema!r}, this version reads {_SCHEMA}")
    _check(path, made)
    for level in levels.values():
        check_threshold(made.divergence, level.threshold)
    return made


def _check(path: Path, made: Calibration) -> None:
    numbers = [n for level in made.levels.values() for n in asdict(level).values()]
    wrong = {
        "model": not isinstance(made.model, str),
        "future": not isinstance(made.future, str),
        "prefix_eos": not isinstance(made.prefix_eos, bool),
        "divergence": made.divergence not in RANGES,
        "reduce": made.reduce not in ("mean", "max"),
        "write_from": made.write_from not in ("partial", "pseudo", "mix"),
        "max_words_per_read": made.max_words_per_read is not None
        and (type(made.max_words_per_read) is not int or made.max_words_per_read < 1),
        "metric": made.metric not in get_args(Metric),
        "unit": made.unit not in ("word", "char"),
        "sentences": type(made.sentences) is not int or made.sentences < 1,
        "levels": not made.levels
        or any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers),
    }
    for name, broken in wrong.items():
        if broken:
            raise CorruptState(f"{path}: {name} is {getattr(made, name)!r}"[:300])
