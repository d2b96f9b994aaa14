"""Continuous batching: requests of different clients share every forward pass of one model.

One thread runs the model. Before each step rows that have ended leave the batch and waiting ones
join it, so nobody waits for the slowest. Each row has its own vector, or none, its own generator
and its own text, so what it says is what it would say alone, up to the rounding of the kernels.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lipogram.errors import InvalidSetting
from lipogram.llm.forward import evaluating
from lipogram.llm.text import context_length
from lipogram.llm.wrappers import unwrap
from privacyrestore.engine_request import Handle, Request
from privacyrestore.engine_row import OnPiece, Row
from privacyrestore.errors import EngineClosed, EngineFailure, Expired, Overloaded, TooLong
from privacyrestore.row_batch import RowBatch
from privacyrestore.steered_model import SteeredModel


@dataclass(frozen=True)
class EngineStats:
    """What the engine has done, for a metrics page.

    Attributes:
        running, waiting: requests in the batch and before it.
        accepted, refused: requests since the start; refused ones found the queue full.
        ended: how many ended for each reason: stop, length, cancelled, expired, failed, closed.
        prompt_tokens, new_tokens: read and written since the start.
        forwards: passes of the model.
    """

    running: int
    waiting: int
    accepted: int
    refused: int
    ended: dict[str, int]
    prompt_tokens: int
    new_tokens: int
    forwards: int


class BatchEngine:
    """Answers requests in one batch that rows join and leave between tokens.

    Args:
        steered: the model with its banks. Meanwhile it is in evaluation mode, and its lock is held
            during every forward pass.
        max_rows: in the batch.
        max_tokens: cells of the cache, rows times the longest row's prompt and answer; it bounds
            the memory. A row that would exceed it waits, and those behind it too.
        max_queue: requests that wait beyond `max_rows`.
        timeout: seconds that a request may take, waiting included.

    Raises:
        InvalidSetting: a limit below 1 (`max_queue`: 0), or a timeout that is not above 0.
        UnsupportedArchitecture: a model whose rows cannot be padded and joined.
    """

    def __init__(
        self,
        steered: SteeredModel,
        *,
        max_rows: int = 8,
        max_tokens: int = 32_768,
        max_queue: int = 64,
        timeout: float = 600.0,
    ):
        if max_rows < 1 or max_tokens < 1 or max_queue < 0 or not timeout > 0:
            raise InvalidSetting(
                f"max_rows {max_rows} and max_tokens {max_tokens} must be at least 1, max_queue "
                f"{max_queue} at least 0, timeout {timeout} above 0"
            )
        self.steered = steered
        self.max_rows, self.max_tokens, self.max_queue = max_rows, max_tokens, max_queue
        self.timeout = timeout
        self.context = _context(steered.model)
        self._vocabulary = steered.model.get_input_embeddings().num_embeddings
        self._batch = RowBatch(steered, self._leave)
        self._waiting: deque[Row] = deque()
        self._unfinished: dict[Row, None] = {}
        self._accepted = self._refused = self._prompt_tokens = 0
        self._ended: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="batch-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: Request, on_piece: OnPiece | None = None) -> Handle:
        """Accept a request; from any thread.

        Args:
            request: what to continue, and how.
            on_piece: called from the engine's thread with each piece as soon as it is sure, and not
                again once the handle's future is done. It must return at once; what it raises ends
                this request with that error.

        Raises:
            Overloaded: max_rows + max_queue requests are unfinished.
            TooLong: prompt and answer exceed the model's context or `max_tokens`.
            InvalidSetting: a token outside of the vocabulary.
            BankMismatch, InvalidPayload: as :meth:`SteeredModel.vector`.
            EngineClosed: after :meth:`close`.
        """
        n_prompt, steered = len(request.prompt_ids), self.steered
        most = self.max_tokens if self.context is None else min(self.max_tokens, self.context)
        if n_prompt + request.max_new_tokens > most:
            raise TooLong(
                f"{n_prompt} tokens and {request.max_new_tokens} new ones exceed the limit of "
                f"{most}: shorten the prompt or ask for fewer"
            )
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self._vocabulary:
            raise InvalidSetting(f"token ids must be from 0 to {self._vocabulary - 1}")
        vector = None
        if request.meta is not None:
            vector = steered.vector(request.meta, request.bank), steered.bank_index(request.bank)
        handle = Handle(self._wake)
        timeout = min(self.timeout, request.timeout or self.timeout)
        row = Row(
            request,
            vector,
            handle,
            on_piece,
            steered.tokenizer,
            _ends(steered.model, steered.tokenizer, request.stop),
            time.monotonic() + timeout,
        )
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if len(self._unfinished) >= self.max_rows + self.max_queue:
                self._refused += 1
                raise Overloaded(
                    f"{len(self._unfinished)} requests are unfinished, as many as may be: ask "
                    "again later"
                )
            self._unfinished[row] = None
            self._accepted += 1
            self._waiting.append(row)
            self._changed.notify_all()
        return handle

    def stats(self) -> EngineStats:
        """What has been done so far; from any thread."""
        with self._changed:
            return EngineStats(
                running=len(self._unfinished) - len(self._waiting),
                waiting=len(self._waiting),
                accepted=self._accepted,
                refused=self._refused,
                ended=dict(self._ended),
                prompt_tokens=self._prompt_tokens,
                new_tokens=self._batch.new_tokens,
                forwards=self._batch.forwards,
            )

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: it was closed, or its thread has ended."""
        return self._closed

    def close(self) -> None:
        """Let the running step end, fail what is unfinished with EngineClosed, join the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _serve(self) -> None:
        error: Exception = EngineClosed("the engine was closed before this request was done")
        try:
            with evaluating(self.steered.model):
                while found := self._next():
                    gone, new = found
                    for row in gone:
                        row.leave_early()
                        self._leave(row)
                    self._batch.advance(new)
        except Exception as cause:  # nobody may wait for a thread that is gone
            error = EngineFailure(f"the engine has ended: {type(cause).__name__}")
            error.__cause__ = cause
        with self._changed:
            self._closed = True
            left = list(self._unfinished)
            self._waiting.clear()
        for row in left:
            row.fail(error)
            self._leave(row)

    def _next(self) -> tuple[list[Row], list[Row]] | None:
        """Wait for work; the rows that leave unserved and those that join. None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._batch.rows or self._closed)
            if self._closed:
                return None
            gone = [row for row in self._waiting if row.unwanted]
            for row in gone:
                self._waiting.remove(row)
            new: list[Row] = []
            rows = [row for row in self._batch.rows if not row.unwanted]
            while self._waiting and len(rows) < self.max_rows:
                longest = max(row.longest for row in [*rows, self._waiting[0]])
                if (len(rows) + 1) * longest > self.max_tokens:
                    break
                new.append(self._waiting.popleft())
                rows.append(new[-1])
            self._prompt_tokens += sum(len(row.request.prompt_ids) for row in new)
            return gone, new

    def _leave(self, row: Row) -> None:
        """Count a row that has ended, then tell its client: it may submit again at once."""
        kinds: dict[type[Exception], str] = {Expired: "expired", EngineClosed: "closed"}
        reason = str(row.reason) if row.error is None else kinds.get(type(row.error), "failed")
        with self._changed:
            del self._unfinished[row]
            self._ended[reason] += 1
        if row.error is not None:
            row.handle.future.set_exception(row.error)
        else:
            row.handle.future.set_result(row.completion())


def _context(model: Any) -> int | None:
    """Tokens that a row may have: frequencies that change with a batch's length stay the same."""
    config = unwrap(model).config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    limits = [
        kind["original_max_position_embeddings"]
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
        and "original_max_position_embeddings" in kind
    ]
    return min([*limits, *filter(None, [context_length(model)])], default=None)


def _ends(model: Any, tokenizer: Any, stop: Sequence[str]) -> frozenset[int]:
    """Tokens that end a text: the model's, the tokenizer's, and special ones that are asked for."""
    own = getattr(unwrap(model).generation_config, "eos_token_id", None)
    special = tokenizer.get_added_vocab()
    ends = {*own} if isinstance(own, list) else {own}
    ends |= {tokenizer.eos_token_id, *(special[word] for word in stop if word in special)}
    return frozenset(token for token in ends if token is not None)
