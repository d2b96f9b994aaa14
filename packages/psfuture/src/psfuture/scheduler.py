"""Many live sessions over one model: calls that come within a few milliseconds become one.

Each lane of each session runs in a thread of its own, as if it were alone with the model. What it
asks of the model waits for the others that are moving just now, at most :data:`WINDOW` seconds; one
thread then asks the model for all of them at once. Policies and thresholds stay with the sessions,
so they need not be the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future as Promise
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from psfuture.backend import Backend, State
from psfuture.futures import Future, Words

WINDOW = 0.005


@dataclass
class _Call:
    """A question to the model: its arguments, and what answers several such at once."""

    kind: Hashable
    arguments: tuple[Any, ...]
    together: Callable[[list[tuple[Any, ...]]], list[Any]]
    answer: Promise[Any] = field(default_factory=Promise)


class Scheduler:
    """Runs jobs in threads and gathers what they ask of a model.

    Args:
        lanes: jobs that run at the same time; further ones wait.
    """

    def __init__(self, lanes: int):
        self._calls: list[_Call] = []
        self._moving = 0
        self._closed = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], None]) -> None:
        """Start a job; what it raises is its own affair."""
        self._pool.submit(self._move, job)

    def ask(
        self,
        kind: Hashable,
        arguments: tuple[Any, ...],
        together: Callable[[list[tuple[Any, ...]]], list[Any]],
    ) -> Any:
        """One answer of `together`, which gets the arguments of all calls of this kind.

        Raises:
            RuntimeError: the scheduler is closed.
        """
        call = _Call(kind, arguments, together)
        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            self._calls.append(call)
            self._changed.notify_all()
        return call.answer.result()

    def close(self) -> None:
        """Let what is being computed end, and refuse the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _move(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._moving += 1
        try:
            job()
        finally:
            with self._changed:
                self._moving -= 1
                self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._closed)
                # Nobody else can ask once all that move are waiting, so a lone session never waits.
                self._changed.wait_for(
                    lambda: len(self._calls) >= self._moving or self._closed, WINDOW
                )
                calls, self._calls = self._calls, []
                closed = self._closed
            if closed:
                for call in calls:
                    call.answer.set_exception(RuntimeError("the scheduler is closed"))
                return
            kinds: dict[Hashable, list[_Call]] = {}
            for call in calls:
                kinds.setdefault(call.kind, []).append(call)
            for same in kinds.values():
                _answer(same)


def _answer(calls: list[_Call]) -> None:
    """Answer all at once; where that fails, each alone: only the one at fault hears of it."""
    try:
        found = calls[0].together([call.arguments for call in calls])
    except Exception as error:
        if len(calls) == 1:
            calls[0].answer.set_exception(error)
            return
        for call in calls:
            _answer([call])
        return
    for call, answer in zip(calls, found, strict=True):
        call.answer.set_result(answer)


class SharedBackend:
    """A backend as one of several sessions sees it; see :class:`psfuture.backend.Backend`."""

    def __init__(self, backend: Backend, scheduler: Scheduler):
        self._backend, self._scheduler = backend, scheduler
        self._tokenizer = threading.Lock()
        self.name, self.vocab_size, self.eos = backend.name, backend.vocab_size, backend.eos
        self.device, self.max_source = backend.device, backend.max_source
        self.attends = backend.attends

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids; one session at a time, since tokenizers need not be safe in threads."""
        with self._tokenizer:
            return self._backend.source_ids(words, closed=closed)

    def target_text(self, tokens: Sequence[int]) -> str:
        """Text of target tokens, likewise."""
        with self._tokenizer:
            return self._backend.target_text(tokens)

    def encode(self, sources: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Encoder states, computed with those that others ask for."""
        found: list[torch.Tensor] = self._scheduler.ask("encode", (sources,), self._encode)
        return found

    def begin(
        self, encodings: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[State, torch.Tensor]:
        """State and logits after committed tokens, likewise."""
        found: tuple[State, torch.Tensor] = self._scheduler.ask(
            "begin", (encodings, targets), self._begin
        )
        return found

    def step(self, state: State, tokens: Sequence[int]) -> tuple[State, torch.Tensor]:
        """State and logits after one token a row more, likewise."""
        found: tuple[State, torch.Tensor] = self._scheduler.ask("step", (state, tokens), self._step)
        return found

    def join(self, states: Sequence[State]) -> State:
        """One state of all the states' rows."""
        return self._backend.join(states)

    def attention(self, state: State) -> torch.Tensor:
        """Attention of each row's last input over its source."""
        return self._backend.attention(state)

    def _encode(self, asked: list[tuple[Any, ...]]) -> list[Any]:
        found = self._backend.encode([source for (sources,) in asked for source in sources])
        return [found[rows.start : rows.stop] for rows in _rows(sources for (sources,) in asked)]

    def _begin(self, asked: list[tuple[Any, ...]]) -> list[Any]:
        encodings = [one for each, _ in asked for one in each]
        targets = [one for _, each in asked for one in each]
        return _parts(self._backend.begin(encodings, targets), [each for _, each in asked])

    def _step(self, asked: list[tuple[Any, ...]]) -> list[Any]:
        states = [state for state, _ in asked]
        state = states[0] if len(states) == 1 else self._backend.join(states)
        tokens = [token for _, each in asked for token in each]
        return _parts(self._backend.step(state, tokens), [each for _, each in asked])


class SharedFuture:
    """A future that is asked for the prefixes of several sessions at once."""

    def __init__(self, future: Future, scheduler: Scheduler):
        self._future, self._scheduler = future, scheduler
        self.count, self.sees_future = future.count, future.sees_future
        self.closes_only = future.closes_only

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """Suffixes, invented with those that others ask for; no sentence is known."""
        found: list[list[Words]] = self._scheduler.ask("invent", (prefixes,), self._invent)
        return found

    def _invent(self, asked: list[tuple[Any, ...]]) -> list[Any]:
        found = self._future.invent([one for (prefixes,) in asked for one in prefixes], ())
        return [found[rows.start : rows.stop] for rows in _rows(each for (each,) in asked)]


def _rows(parts: Any) -> list[range]:
    """Which rows of the whole each part has."""
    found, at = [], 0
    for part in parts:
        found.append(range(at, at + len(part)))
        at += len(part)
    return found


def _parts(answer: tuple[State, torch.Tensor], asked: Sequence[Sequence[Any]]) -> list[Any]:
    """The state and the logits of each part."""
    state, logits = answer
    if len(asked) == 1:
        return [answer]
    return [(state.select(list(rows)), logits[rows.start : rows.stop]) for rows in _rows(asked)]
