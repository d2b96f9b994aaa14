"""One sentence that is being typed or said, translated as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from lipogram.errors import InvalidSetting
from psfuture.backend import Backend
from psfuture.engine import Engine, Memo
from psfuture.policies import Policy
from psfuture.simulation import check_length, trace_of
from psfuture.stream import Decision, Stream
from psfuture.trace import Trace
from psfuture.units import Unit, split


@dataclass(frozen=True)
class Event:
    """A READ of a source word, or a target word that is shown.

    Attributes:
        kind: "read" or "write".
        text: the word.
        src_read: source words read by then.
        wall_ms: since the session began.
    """

    kind: Literal["read", "write"]
    text: str
    src_read: int
    wall_ms: float


class Session:
    """A stream with a state: push words, get events.

    Args:
        backend: the model.
        policy: when to write; an oracle is refused. May be set anew at any time.
        unit: what is read and shown: words or characters.
        on_decision: told of every answer of the model before the source ends.

    Raises:
        InvalidSetting: see :class:`~psfuture.engine.Engine`.
    """

    def __init__(
        self,
        backend: Backend,
        policy: Policy,
        *,
        unit: Unit = "word",
        on_decision: Callable[[Decision], None] | None = None,
    ):
        self.backend, self.stream = backend, Stream(unit=unit)
        told = None if on_decision is None else lambda _, decision: on_decision(decision)
        self.engine = Engine(backend, policy, Memo(), unit=unit, on_decision=told)
        self._begun = time.perf_counter()
        self._shown = 0
        self._compute_ms: list[float] = []

    @property
    def policy(self) -> Policy:
        """The policy; another one holds from the next decision on."""
        return self.engine.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self.engine.policy = policy

    def push(self, text: str, *, last: bool = False) -> list[Event]:
        """Give one word, or several parted by white space.

        Args:
            text: whole words.
            last: none will follow; saves the decisions that a later :meth:`finish` would overrule.

        Raises:
            InvalidSetting: after the end, or more than the model takes as one sentence; nothing was
                read then.
        """
        if self.stream.complete:
            raise InvalidSetting("the sentence is finished: begin another session")
        events: list[Event] = []
        words = split(text, self.stream.unit)
        check_length(self.backend, (*self.stream.words, *words), self.stream.unit)
        for at, word in enumerate(words):
            self.stream.words.append(word)
            self.stream.complete = last and at == len(words) - 1
            events += self._advance()
        return events + (self.finish() if last and not self.stream.complete else [])

    def decide(self) -> list[Event]:
        """Think over the last decision, by a policy that was set since, without a new word."""
        return self._advance()

    def finish(self) -> list[Event]:
        """Say that nothing follows, and get the rest; nothing, the second time."""
        self.stream.complete = True
        return self._advance()

    @property
    def trace(self) -> Trace:
        """What happened so far; complete after :meth:`finish`."""
        return replace(trace_of(self.backend, self.stream), compute_ms=tuple(self._compute_ms))

    @property
    def text(self) -> str:
        """The translation so far."""
        return self.backend.target_text(self.stream.tokens)

    def _advance(self) -> list[Event]:
        before, start = self.stream.reads, time.perf_counter()
        self.engine.run([self.stream])
        end = time.perf_counter()
        now = (end - self._begun) * 1000
        self._count(self.stream.reads - before, (end - start) * 1000)
        reads = [
            Event("read", self.stream.words[at], at + 1, now)
            for at in range(before, self.stream.reads)
        ]
        words = split(self.text, self.stream.unit)
        shown = len(words) if self.stream.done else max(len(words) - 1, 0)
        new = [Event("write", word, self.stream.reads, now) for word in words[self._shown : shown]]
        self._shown = max(shown, self._shown)
        return reads + new

    def _count(self, reads: int, spent: float) -> None:
        """Note work after the newest unit; that of :meth:`finish` belongs to the last."""
        self._compute_ms += [0.0] * reads
        if self._compute_ms:
            self._compute_ms[-1] += spent
