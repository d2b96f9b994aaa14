"""One policy on one sentence that is being typed: what it is told, it does in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lipogram.errors import LipogramError
from psfuture.backend import Backend
from psfuture.latency import Timing, average_lagging
from psfuture.policies import PsFuture, WaitK
from psfuture.scheduler import Scheduler
from psfuture.session import Event, Session
from psfuture.stream import Decision

Message = dict[str, Any]


class Lane:
    """A session whose steps are done one after the other, in a thread that the scheduler lends.

    Args:
        name: that its messages carry.
        backend: shared with the other lanes, see :class:`psfuture.scheduler.SharedBackend`.
        policy: to begin with.
        scheduler: lends the thread.
        tell: gets a message, plain values, after each step; called in that thread.

    Raises:
        InvalidSetting: a future that cannot be had while the sentence is typed.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        policy: PsFuture | WaitK,
        scheduler: Scheduler,
        tell: Callable[[Message], None],
    ):
        self.name = name
        self._scheduler, self._tell = scheduler, tell
        self._decisions: list[Decision] = []
        self._arrivals: list[float] = []
        self._shown: list[int] = []
        self._begun = time.perf_counter()
        self._session = Session(backend, policy, on_decision=self._decisions.append)
        self._policy = policy
        self._waiting: deque[Callable[[], list[Event]]] = deque()
        self._lock = threading.Lock()
        self._busy = self._dropped = False

    def push(self, word: str) -> None:
        """Read a word that arrived now, once those before it are done."""
        self._arrivals.append((time.perf_counter() - self._begun) * 1000)
        self._do(lambda: self._session.push(word))

    def finish(self) -> None:
        """Translate the rest, once the words before are done."""
        self._do(self._session.finish)

    def decide_by(self, policy: PsFuture | WaitK) -> None:
        """Decide by this policy from the next decision on, and think over the last one again."""
        with self._lock:
            underway, self._policy = self._policy is not self._session.policy, policy
        if not underway:
            self._do(self._settle)

    def drop(self) -> None:
        """Forget what is not done yet, and do nothing more."""
        with self._lock:
            self._waiting.clear()
            self._dropped = True

    def _settle(self) -> list[Event]:
        with self._lock:
            self._session.policy = self._policy
        return self._session.decide()

    def _do(self, step: Callable[[], list[Event]]) -> None:
        with self._lock:
            if self._dropped:
                return
            # A change of policy overtakes the words that wait.
            if step == self._settle:
                self._waiting.appendleft(step)
            else:
                self._waiting.append(step)
            if self._busy:
                return
            self._busy = True
        self._scheduler.run(self._move)

    def _move(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                step = self._waiting.popleft()
            try:
                message = self._message(step())
            except Exception as error:
                if self._dropped:
                    return
                self.drop()
                known = isinstance(error, LipogramError)
                if not known:
                    logging.getLogger(__name__).exception("a lane of the web page failed")
                message = {
                    "error": str(error) if known else "the model failed; see the server's log"
                }
            self._tell({"lane": self.name, **message})

    def _message(self, events: list[Event]) -> Message:
        stream, decisions = self._session.stream, list(self._decisions)
        self._decisions.clear()
        self._shown += [event.src_read for event in events if event.kind == "write"]
        words = self._session.text.split()
        return {
            "policy": self._session.policy.name,
            "events": [
                {
                    "kind": event.kind,
                    "text": event.text,
                    "reads": event.src_read,
                    "ms": self._arrivals[event.src_read - 1]
                    if event.kind == "read"
                    else event.wall_ms,
                }
                for event in events
            ],
            "decisions": [vars(decision) for decision in decisions],
            "begun": " ".join(words[len(self._shown) :]),
            "reads": stream.reads,
            "behind": stream.reads - len(self._shown),
            "al": average_lagging(Timing(self._shown, self._shown, stream.reads, len(self._shown)))
            if self._shown
            else None,
            "done": stream.done,
        }
