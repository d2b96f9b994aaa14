"""Errors of this package, one class per cause; each is one of `lipogram.errors` too."""

from lipogram.errors import LipogramError


class InvalidRecords(LipogramError, ValueError):
    """Records that cannot be read or used; the message names place and id, never a text."""


class RepeatedRecords(UserWarning):
    """Records that may be several of one person, while each is protected by itself."""
