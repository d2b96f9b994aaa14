"""Sentences that are being typed in a browser: what they may ask, and when they are freed."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

from lipogram.errors import InvalidSetting
from psfuture.backend import Backend
from psfuture.live_lane import Lane, Message
from psfuture.policies import PsFuture, WaitK
from psfuture.scheduler import Scheduler, SharedBackend, SharedFuture


@dataclass(frozen=True)
class ServerLimits:
    """What may be asked of a server.

    Attributes:
        sessions: sentences at the same time.
        words_per_second: of one sentence, on average; twice as many, or one, in one burst.
        words: of a sentence.
        word_length: characters of a word.
        body_bytes: of a request.
        idle_seconds: without a new word, after which a sentence is given up.

    Raises:
        InvalidSetting: a limit that is not more than 0, or not finite.
    """

    sessions: int = 16
    words_per_second: float = 20.0
    words: int = 200
    word_length: int = 100
    body_bytes: int = 16384
    idle_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise InvalidSetting(f"{name} is {value}, it must be more than 0")


class Refused(Exception):
    """What was asked cannot be had; nothing was changed.

    Args:
        status: of HTTP.
        reason: in words.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class LiveSession:
    """One sentence, translated by two policies side by side.

    Args:
        policies: by lane.
        backend: shared with other sessions.
        scheduler: of its lanes.
        limits: on words.
        clock: seconds, for the limit on words a second.
    """

    def __init__(
        self,
        policies: dict[str, PsFuture | WaitK],
        backend: Backend,
        scheduler: Scheduler,
        limits: ServerLimits,
        clock: Callable[[], float],
    ):
        self.id = secrets.token_urlsafe(16)
        self.outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self.heard = False
        self._loop = asyncio.get_running_loop()
        self._policies, self._limits, self._clock = policies, limits, clock
        self.last_word = self._refilled = clock()
        self._burst = max(2 * limits.words_per_second, 1)
        self._allowance = self._burst
        self._words, self._finished = 0, False
        self._lanes = {
            name: Lane(name, backend, policy, scheduler, self._tell)
            for name, policy in policies.items()
        }

    def push(self, text: str) -> int:
        """Give one word or several, to both lanes; returns how many.

        Raises:
            Refused: 409 after the end, 422 for what is no word or a sentence too long, 429 for too
                many words a second.
        """
        self._check_open()
        words = text.split()
        limits = self._limits
        if not words:
            raise Refused(422, "there is no word in the text")
        for word in words:
            if len(word) > limits.word_length:
                raise Refused(
                    422, f"a word of {len(word)} characters: {limits.word_length} is most"
                )
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):
                raise Refused(422, "a word holds a control character or half of a character")
        if self._words + len(words) > limits.words:
            raise Refused(
                422, f"a sentence has at most {limits.words} words: finish it and begin the next"
            )
        now = self._clock()
        refilled = self._allowance + (now - self._refilled) * limits.words_per_second
        allowance = min(refilled, self._burst)
        if len(words) > allowance:
            raise Refused(429, f"more than {limits.words_per_second:g} words a second")
        self._allowance, self._refilled, self.last_word = allowance - len(words), now, now
        self._words += len(words)
        for word in words:
            for lane in self._lanes.values():
                lane.push(word)
        return len(words)

    def finish(self) -> None:
        """Say that the sentence ends here.

        Raises:
            Refused: 409, the second time.
        """
        self._check_open()
        self._finished = True
        for lane in self._lanes.values():
            lane.finish()

    def decide_by(self, policies: dict[str, PsFuture | WaitK]) -> None:
        """Change the policies of some lanes, from their next decision on.

        Raises:
            Refused: 409 after the end.
        """
        self._check_open()
        for name, policy in policies.items():
            if policy != self._policies[name]:
                self._policies[name] = policy
                self._lanes[name].decide_by(policy)

    def close(self, reason: str | None = None) -> None:
        """Stop both lanes, tell why if there is a reason, and end the messages."""
        for lane in self._lanes.values():
            lane.drop()
        if reason is not None:
            self.outbox.put_nowait({"closed": reason})
        self.outbox.put_nowait(None)

    def _check_open(self) -> None:
        if self._finished:
            raise Refused(409, "the sentence is finished: begin another session")

    def _tell(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self.outbox.put_nowait, message)


class LiveSessions:
    """Every sentence that is being typed now.

    Args:
        backend: the model.
        policy: of the first lane, threshold included.
        k: of the second lane, wait-k.
        limits: see :class:`ServerLimits`.
        clock: seconds.

    Raises:
        InvalidSetting: a future that needs words which nobody has said yet, or no k.
    """

    def __init__(
        self,
        backend: Backend,
        policy: PsFuture,
        k: int,
        limits: ServerLimits,
        clock: Callable[[], float] = time.monotonic,
    ):
        if policy.future.sees_future:
            raise InvalidSetting("an oracle sees words that nobody has said yet: analysis only")
        self.limits, self._clock = limits, clock
        self._waiting = WaitK(k, prefix_eos=policy.prefix_eos, limits=policy.limits)
        self._scheduler = Scheduler(2 * limits.sessions)
        self._backend = SharedBackend(backend, self._scheduler)
        self._policy = replace(policy, future=SharedFuture(policy.future, self._scheduler))
        self._live: dict[str, LiveSession] = {}

    def __len__(self) -> int:
        return len(self._live)

    def policies(self, threshold: float | None, k: int | None) -> dict[str, PsFuture | WaitK]:
        """The lanes' policies that a threshold and a k ask for; of None, there is none.

        Raises:
            Refused: 422 for a threshold or a k that cannot be.
        """
        found: dict[str, PsFuture | WaitK] = {}
        try:
            if threshold is not None:
                found["psfuture"] = replace(self._policy, threshold=threshold)
            if k is not None:
                if k > self.limits.words:
                    raise Refused(
                        422, f"k is more than the {self.limits.words} words of a sentence"
                    )
                found["wait-k"] = replace(self._waiting, k=k)
        except InvalidSetting as error:
            raise Refused(422, str(error)) from error
        return found

    def begin(self, threshold: float | None = None, k: int | None = None) -> LiveSession:
        """A new sentence.

        Raises:
            Refused: 422 as :meth:`policies`, 503 if there are too many already.
        """
        chosen = {"psfuture": self._policy, "wait-k": self._waiting, **self.policies(threshold, k)}
        self.free_idle()
        if len(self._live) >= self.limits.sessions:
            raise Refused(
                503, f"{self.limits.sessions} sentences are being typed already: try again later"
            )
        live = LiveSession(chosen, self._backend, self._scheduler, self.limits, self._clock)
        self._live[live.id] = live
        return live

    def get(self, session: str) -> LiveSession:
        """A sentence by its session's id.

        Raises:
            Refused: 404 if there is none.
        """
        if session not in self._live:
            raise Refused(404, "no such session: it was closed, or given up as nothing was typed")
        return self._live[session]

    def free(self, session: str, reason: str | None = None) -> None:
        """End a sentence and forget it; nothing, if it is gone."""
        if live := self._live.pop(session, None):
            live.close(reason)

    def free_idle(self) -> None:
        """End the sentences to which no word was added for too long."""
        latest = self._clock() - self.limits.idle_seconds
        for live in [live for live in self._live.values() if live.last_word < latest]:
            self.free(live.id, f"nothing was typed for {self.limits.idle_seconds:g} seconds")

    def end_all(self) -> None:
        """End every sentence, so that whoever listens hears of it."""
        for session in list(self._live):
            self.free(session, "the server stops")

    def close(self) -> None:
        """End every sentence and the scheduler."""
        self.end_all()
        self._scheduler.close()
