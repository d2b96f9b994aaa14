"""One row of the engine's batch: what it has said, and whether it has ended."""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lipogram.errors import LipogramError, OverBudget
from lipogram.llm.memory import is_out_of_memory
from privacyrestore.engine_request import (
    Completion,
    FinishReason,
    Handle,
    Piece,
    Request,
    TokenLogprob,
)
from privacyrestore.errors import EngineFailure, Expired
from privacyrestore.sampling import Sampler, token_logprob
from privacyrestore.stop_strings import StopStrings
from privacyrestore.token_text import TokenText

OnPiece = Callable[[Piece], None]


class Row:
    """A request on its way.

    Args:
        request: what is asked.
        vector: its vector [n] and the index of its bank; None for a plain row.
        handle: what its client holds.
        on_piece: gets every piece of text; what it raises ends this row.
        tokenizer: of the model.
        ends: tokens that end a text.
        deadline: on the clock of `time.monotonic`.

    Attributes:
        said: tokens so far; the last of them is not in any cache yet.
        reason: why it has ended; None while it goes on.
        error: what it failed of.
    """

    def __init__(
        self,
        request: Request,
        vector: tuple[Tensor, int] | None,
        handle: Handle,
        on_piece: OnPiece | None,
        tokenizer: Any,
        ends: frozenset[int],
        deadline: float,
    ):
        self.request, self.vector, self.handle = request, vector, handle
        self.said: list[int] = []
        self.reason: FinishReason | None = None
        self.error: Exception | None = None
        self._on_piece, self._ends, self._deadline = on_piece, ends, deadline
        self._sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._text, self._stop = TokenText(tokenizer), StopStrings(request.stop)
        self._pieces: list[Piece] = []

    @property
    def ids(self) -> list[int]:
        """The prompt and what was said."""
        return [*self.request.prompt_ids, *self.said]

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer, at most."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens

    @property
    def ended(self) -> bool:
        """Whether it leaves before the next step."""
        return self.reason is not None or self.error is not None

    @property
    def left(self) -> bool:
        """Whether its client was told."""
        return self.handle.future.done()

    @property
    def unwanted(self) -> bool:
        """Whether its client has cancelled it, or its time is over."""
        return self.handle.cancelled or time.monotonic() >= self._deadline

    def take(self, logits: Tensor, likeliest: int) -> None:
        """Go on by one token.

        Args:
            logits: [v] of the next token, none of them NaN.
            likeliest: their argmax.
        """
        try:
            self._go_on(logits, likeliest)
        except Exception as error:
            self.fail(error)

    def leave_early(self) -> None:
        """End because it is unwanted."""
        if not self.handle.cancelled:
            self.fail(Expired("the request was not answered within its time"))
            return
        try:
            self._end("cancelled")
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End by an error; the first one counts.

        Another library's words could repeat the prompt, so the client is told no more than the
        kind of its error.
        """
        if isinstance(error, LipogramError):
            told: Exception = error
        elif is_out_of_memory(error):
            told = OverBudget("memory does not suffice for this request even alone")
        else:
            told = EngineFailure(f"this request failed: {type(error).__name__}")
        if told is not error:
            told.__cause__ = error
        self.error = self.error or told

    def completion(self) -> Completion:
        """All of it, once it has ended."""
        assert self.reason is not None
        return Completion(
            "".join(piece.text for piece in self._pieces),
            tuple(self.said),
            self.reason,
            len(self.request.prompt_ids),
            tuple(logprob for piece in self._pieces for logprob in piece.logprobs),
        )

    def _go_on(self, logits: Tensor, likeliest: int) -> None:
        request = self.request
        token = self._sampler.choose(logits) if request.temperature else likeliest
        self.said.append(token)
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.logprobs is not None:
            logprobs = (token_logprob(logits, token, request.logprobs),)
        if token in self._ends:
            self._show(Piece("", logprobs))
            self._end("stop")
            return
        text, stopped = self._stop.push(self._text.push(token))
        self._show(Piece(text, logprobs))
        if stopped:
            self.reason = "stop"
        elif len(self.said) == request.max_new_tokens:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        """End, and show what was held back."""
        text, stopped = self._stop.push(self._text.flush())
        self._show(Piece(text if stopped else text + self._stop.flush()))
        self.reason = "stop" if stopped else reason

    def _show(self, piece: Piece) -> None:
        if not piece.text and not piece.logprobs:
            return
        self._pieces.append(piece)
        if self._on_piece is not None and self.error is None:
            try:
                self._on_piece(piece)
            except Exception as error:  # a client that cannot listen any more
                self.error = error
