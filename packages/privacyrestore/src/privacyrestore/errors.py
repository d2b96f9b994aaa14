"""Errors of sending, restoring and serving; none of their texts may hold what was removed."""

from lipogram.errors import LipogramError


class SpanRemains(LipogramError, ValueError):
    """A text in which something of the vocabulary is still readable after removal; not sent."""


class BudgetSpent(LipogramError, RuntimeError):
    """A release that would exceed the budget of its subject; nothing was recorded or sent."""


class BankMismatch(LipogramError, ValueError):
    """A bank that is not the one pinned, asked for, or made for this model."""


class InvalidPayload(LipogramError, ValueError):
    """A message that is not of the public shape: length, numbers, norm or encoding."""


class Refused(LipogramError, RuntimeError):
    """An answer of the server other than success.

    Args:
        status: the HTTP status.
        reason: our own words for it; never what the server sent, which may echo the request.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(f"the server refused with status {status}: {reason}")
        self.status, self.reason = status, reason


class Unreachable(LipogramError, ConnectionError):
    """A server that could not be reached, went silent or did not speak the protocol."""


class Overloaded(LipogramError, RuntimeError):
    """A server whose queue is full; ask again later."""


class TooLong(LipogramError, ValueError):
    """A prompt that with its answer exceeds what the model or the server can hold."""


class Expired(LipogramError, TimeoutError):
    """A request that was not answered within its time."""


class EngineClosed(LipogramError, RuntimeError):
    """An engine that was closed before it had answered."""


class EngineFailure(LipogramError, RuntimeError):
    """A request that fails even alone; the message does not repeat what the cause says."""


class Unsendable(LipogramError, ValueError):
    """A request of which some part cannot be cleaned (an image, a tool), or was given elsewhere."""


class UnwritableState(LipogramError, OSError):
    """A ledger that cannot be read or written: a full disk, a folder that is not one's own."""
