"""One sentence on its way: what was read, what was written, and what the policy says next."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from psfuture.policies import DraftPolicy, Policy, View
from psfuture.units import Unit, split

if TYPE_CHECKING:
    from psfuture.backend import Backend

LENGTH_FACTOR, LENGTH_MORE = 2.5, 5
_START = 4  # positions for the tokens that a target starts with, before the first that is written


class Move(Enum):
    """What a stream does after an answer of the model."""

    WRITE = "W"
    READ = "R"
    DRAFT = "D"
    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True)
class Answer:
    """What the model says at one place.

    Attributes:
        token: the most probable next one.
        divergence: from what it says after the invented future; None where none was invented.
        gap: between the two largest logits.
        attended: unit of the source, from 1, that it attends to most; None where nobody asked.
    """

    token: int
    divergence: float | None
    gap: float
    attended: int | None = None


@dataclass(frozen=True)
class Decision:
    """One answer of the model, and what became of it.

    Attributes:
        reads: source units read by then.
        text: of the token that the model would write.
        divergence: see :class:`Answer`.
        threshold: of the policy; None where it has none.
        wrote: the token was written; else another unit is to be read.
    """

    reads: int
    text: str
    divergence: float | None
    threshold: float | None
    wrote: bool


@dataclass
class Stream:
    """The state of one sentence.

    Attributes:
        words: source units that have arrived.
        unit: what they and the words of the target are.
        complete: no more will arrive.
        reads: source units that were read.
        tokens: target tokens written; they are never taken back.
        token_delays: source units read when each was written.
        draft: tokens of a draft beyond them, of a policy of drafts.
        drafts: whole ones, by the units that had been read.
        actions: one letter a READ of a unit and a WRITE of a token.
        waiting: a READ was decided, and the unit has not arrived.
        done: the translation is complete.
    """

    words: list[str] = field(default_factory=list)
    unit: Unit = "word"
    complete: bool = False
    reads: int = 0
    tokens: list[int] = field(default_factory=list)
    token_delays: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    waiting: bool = False
    done: bool = False

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that were read."""
        return tuple(self.words[: self.reads])

    @property
    def finished(self) -> bool:
        """All of the source was read, and none will follow."""
        return self.complete and self.reads == len(self.words)

    @property
    def target(self) -> tuple[int, ...]:
        """Tokens that the model is to continue."""
        return (*self.tokens, *self.draft)

    def resume(self) -> bool:
        """Read what was waited for, if it has arrived; true where there is something to decide."""
        if self.reads and not self.waiting:
            return True
        self.waiting = False
        return self.read() or self.reads > 0

    def read(self) -> bool:
        """Read a unit if one has arrived."""
        if self.reads == len(self.words):
            self.done = self.done or (self.complete and not self.words)
            return False
        self.reads += 1
        self.actions.append("R")
        return True

    def write(self, token: int) -> None:
        """Write a token for good."""
        self.tokens.append(token)
        self.token_delays.append(self.reads)
        self.actions.append("W")

    def move(self, policy: Policy, answer: Answer, backend: Backend, room: int) -> Move:
        """What comes next, and do it, save for reading.

        Args:
            policy: that decides.
            answer: of the model to :attr:`target` after :attr:`prefix`.
            backend: for words of tokens and the end of sentence.
            room: tokens that a target of this prefix may have.
        """
        ended = answer.token == backend.eos or len(self.target) >= room
        if self.finished:
            if ended:
                self.done = True
                return Move.DONE
            self.write(answer.token)
            return Move.WRITE
        if isinstance(policy, DraftPolicy):
            return self._redraft(policy, answer, ended=ended)
        if ended or not self._may_write(policy, answer, backend):
            return Move.READ
        self.write(answer.token)
        return Move.WRITE

    def _redraft(self, policy: DraftPolicy, answer: Answer, *, ended: bool) -> Move:
        if not ended:
            self.draft.append(answer.token)
            return Move.DRAFT
        draft = self.target
        self.drafts[self.reads] = draft
        kept = policy.keep(list(self.drafts.values()))
        self.draft.clear()
        for token in draft[len(self.tokens) : kept]:
            self.write(token)
        return Move.READ

    def _may_write(self, policy: Policy, answer: Answer, backend: Backend) -> bool:
        assert not isinstance(policy, DraftPolicy)
        limits = policy.limits
        if self.reads < limits.min_reads:
            return False
        run = len(self.actions) - len("".join(self.actions).rstrip(self.actions[-1]))
        if self.actions[-1] == "W" and run == limits.max_consecutive_writes:
            return False
        if self.actions[-1] == "R" and run == limits.max_consecutive_reads:
            return True
        view = self._view(answer, backend)
        if limits.max_words_per_read is not None and view.burst > limits.max_words_per_read:
            return False
        return policy.write(view)

    def _view(self, answer: Answer, backend: Backend) -> View:
        def begun(tokens: list[int]) -> int:
            return len(split(backend.target_text(tokens), self.unit))

        writes = len(self.actions) - len("".join(self.actions).rstrip("W"))
        words = max(begun([*self.tokens, answer.token]), 1)
        before = begun(self.tokens[: len(self.tokens) - writes]) if self.tokens else 0
        return View(self.reads, words, words - before, answer.divergence, answer.attended)


def room_for(source_tokens: int, positions: int | None = None) -> int:
    """Tokens that a target may have: 2.5 for each of the source, and 5, within the positions."""
    room = int(LENGTH_FACTOR * source_tokens) + LENGTH_MORE
    return room if positions is None else min(room, positions - _START)


def word_delays(backend: Backend, stream: Stream) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Target words and the source units read when each was shown.

    A word is shown once the first piece of the next one is written, or at the end.
    """
    words = split(backend.target_text(stream.tokens), stream.unit)
    delays: list[int] = []
    for count in range(1, len(stream.tokens) + 1):
        shown = len(split(backend.target_text(stream.tokens[:count]), stream.unit)) - 1
        delays += [stream.token_delays[count - 1]] * (min(shown, len(words)) - len(delays))
    return words, tuple(delays + [stream.reads] * (len(words) - len(delays)))
