"""Errors that only a federation has; the others are :mod:`lipogram.errors`."""

from lipogram.errors import LipogramError


class RejectedUpload(LipogramError, ValueError):
    """Statistics that no honest client can have sent: damaged, contradictory or too large."""


class ReplayedUpload(LipogramError, ValueError):
    """An upload that is in the sum already, or belongs to a round that is over."""


class TooFewClients(LipogramError, ValueError):
    """Fewer clients, or rows of a client, than the federation was told to insist on."""


class RevealsOneClient(LipogramError, ValueError):
    """Two sums whose difference would be the statistics of one client, or of too few."""


class BelowThreshold(LipogramError, RuntimeError):
    """Too few clients are left to take the masks off a sum; nothing of it was opened."""


class BudgetSpent(LipogramError, ValueError):
    """A release that would cost more privacy than was set aside; nothing was drawn or changed."""


class Declined(LipogramError, ValueError):
    """A client's owner does not allow what the federation asks for."""
