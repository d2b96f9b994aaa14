"""One sentence that is being typed or said, translated as it comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from lipogram.errors import InvalidSetting
from psfuture.backend import Backend
from psfuture.engine import Engine, Memo
from psfuture.policies import Policy
from psfuture.simulation import trace_of
from psfuture.stream import Stream
from psfuture.trace import Trace


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
        policy: when to write; an oracle is refused.
    """

    def __init__(self, backend: Backend, policy: Policy):
        self.backend, self.policy = backend, policy
        self.stream, self.engine = Stream(), Engine(backend, policy, Memo())
        self._begun = time.perf_counter()
        self._shown = 0

    def push(self, text: str, *, last: bool = False) -> list[Event]:
        """Give one word, or several parted by white space.

        Args:
            text: whole words.
            last: none will follow; saves the decisions that a later :meth:`finish` would overrule.

        Raises:
            InvalidSetting: after the end.
        """
        if self.stream.complete:
            raise InvalidSetting("the sentence is finished: begin another session")
        events: list[Event] = []
        words = text.split()
        for at, word in enumerate(words):
            self.stream.words.append(word)
            self.stream.complete = last and at == len(words) - 1
            events += self._advance()
        return events + (self.finish() if last and not self.stream.complete else [])

    def finish(self) -> list[Event]:
        """Say that nothing follows, and get the rest; nothing, the second time."""
        self.stream.complete = True
        return self._advance()

    @property
    def trace(self) -> Trace:
        """What happened so far; complete after :meth:`finish`."""
        return trace_of(self.backend, self.stream)

    @property
    def text(self) -> str:
        """The translation so far."""
        return self.backend.target_text(self.stream.tokens)

    def _advance(self) -> list[Event]:
        before = self.stream.reads
        self.engine.run([self.stream])
        now = (time.perf_counter() - self._begun) * 1000
        reads = [
            Event("read", self.stream.words[at], at + 1, now)
            for at in range(before, self.stream.reads)
        ]
        words = self.text.split()
        shown = len(words) if self.stream.done else max(len(words) - 1, 0)
        new = [Event("write", word, self.stream.reads, now) for word in words[self._shown : shown]]
        self._shown = max(shown, self._shown)
        return reads + new
