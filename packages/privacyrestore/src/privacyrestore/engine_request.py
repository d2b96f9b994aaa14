"""What is asked of the engine, what it streams and answers, and the handle in between."""

import math
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from lipogram.errors import InvalidSetting

FinishReason = Literal["stop", "length", "cancelled"]


class TokenLogprob(NamedTuple):
    """A token's log-probability under the model's own distribution, in nats.

    Attributes:
        token_id: the token that was chosen.
        logprob: of that token.
        top: (token id, log-probability) of the likeliest tokens, best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt to continue. Neither prompt nor vector is part of its `repr`.

    Attributes:
        prompt_ids: token ids, as the chat template or the tokenizer gives them.
        meta: the vector of this row, [n], [ρ] or [K, D] of the bank; None for a plain row.
        bank: sha256 of the vector's bank; may be left out where the engine has one bank only.
        max_new_tokens: of the continuation, at most.
        temperature: 0 is greedy, ties to the lowest id.
        top_p: share of the probability that is drawn from, in (0, 1].
        seed: of this row's draws, whatever else is in the batch; None for a fresh one.
        stop: strings that end the continuation and are not part of it.
        logprobs: how many of the likeliest tokens to tell beside each chosen one; None for no
            log-probabilities.
        timeout: seconds from submission to the end, the engine's own at most; None for that one.

    Raises:
        InvalidSetting: a value outside its range; the message holds no part of the prompt.
    """

    prompt_ids: Sequence[int] = field(repr=False)
    meta: Tensor | None = field(default=None, repr=False)
    bank: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = field(default=(), repr=False)
    logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        try:
            ids = tuple(operator.index(token) for token in self.prompt_ids)
        except TypeError as error:
            raise InvalidSetting("prompt_ids must be integers") from error
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "prompt_ids", ids)
        object.__setattr__(self, "stop", stop)
        if not ids:
            raise InvalidSetting("the prompt has no tokens")
        if self.max_new_tokens < 1:
            raise InvalidSetting(f"max_new_tokens = {self.max_new_tokens} must be at least 1")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InvalidSetting(
                f"temperature {self.temperature} must be >= 0, top_p {self.top_p} in (0, 1]"
            )
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InvalidSetting("seed must be an integer from 0 to 2^63 - 1")
        if not all(stop):
            raise InvalidSetting("a stop string is empty")
        if self.logprobs is not None and self.logprobs < 0:
            raise InvalidSetting(f"logprobs = {self.logprobs} must be at least 0, or None")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidSetting(f"timeout = {self.timeout} must be more than 0 seconds")


@dataclass(frozen=True)
class Piece:
    """A part of a continuation: text that no later token changes.

    Attributes:
        text: whole characters; may be empty where only log-probabilities are new.
        logprobs: of the tokens since the last piece, where they were asked for.
    """

    text: str = field(repr=False)
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Completion:
    """A whole continuation.

    Attributes:
        text: all pieces' texts in one, without special tokens, cut before a stop string.
        token_ids: the tokens, the end-of-sequence token included where the model wrote it.
        finish_reason: "stop" at an end-of-sequence token or a stop string, "length" at
            max_new_tokens, "cancelled" where the client left; the text is then what there was.
        n_prompt: tokens of the prompt.
        logprobs: one a token where they were asked for, else empty.
    """

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    finish_reason: FinishReason
    n_prompt: int
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


class Handle:
    """A request that the engine has accepted.

    Attributes:
        future: resolves to the :class:`Completion` after the last piece was handed over; it cannot
            be cancelled itself, so `asyncio.wrap_future` is safe: call :meth:`cancel`.
    """

    def __init__(self, wake: Callable[[], None]):
        self.future: Future[Completion] = Future()
        self.future.set_running_or_notify_cancel()
        self.cancelled = False
        self._wake = wake

    def cancel(self) -> None:
        """Let the row leave before the next step; the rows beside it go on as they were."""
        self.cancelled = True
        self._wake()

    def result(self, timeout: float | None = None) -> Completion:
        """The continuation.

        Args:
            timeout: seconds to wait here; the request itself goes on.

        Raises:
            Expired: it was not done within its time.
            NotFinite: its logits became NaN.
            OverBudget: memory does not suffice for it even alone.
            EngineFailure: a forward pass with it failed even alone.
            EngineClosed: the engine was closed before it was done.
            TimeoutError: `timeout` is over.
        """
        return self.future.result(timeout)
