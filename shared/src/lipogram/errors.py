"""Errors that Lipogram raises, one class per cause.

Each derives from :class:`LipogramError` and from the built-in error that a caller would expect, so
``except ValueError`` keeps working. A rejected call leaves the object as it was.
"""


class LipogramError(Exception):
    """Base of every error that Lipogram raises on purpose."""


class InvalidFeatures(LipogramError, ValueError):
    """Features of the wrong width, type or value (NaN, infinity, too large to square)."""


class InvalidLabels(LipogramError, ValueError):
    """Labels that are not integers or strings, or of another kind than those seen before."""


class InvalidTimestamps(LipogramError, ValueError):
    """Times that cannot be read, so the stream has no order."""


class InvalidSetting(LipogramError, ValueError):
    """A setting outside its allowed values."""


class IncompatibleFeatures(LipogramError, ValueError):
    """Two states, or a state and a cache, that live in different feature spaces."""


class UnknownClass(LipogramError, ValueError):
    """A class that has never been seen."""


class ClosedClass(LipogramError, ValueError):
    """A class whose statistics were folded and can no longer change by itself."""


class NotSeen(LipogramError, ValueError):
    """Rows to forget that the statistics cannot contain."""


class OverBudget(LipogramError, MemoryError):
    """An allocation that would exceed the memory budget; nothing was allocated."""


class SingularSystem(LipogramError, ArithmeticError):
    """Normal equations that no jitter makes positive definite."""


class CorruptState(LipogramError, ValueError):
    """A file that is not a state this version wrote: truncated, hostile, or of another kind."""


class BrokenImage(LipogramError, ValueError):
    """An image that cannot or must not be decoded (truncated, not an image, decompression bomb)."""


class MissingAsset(LipogramError, FileNotFoundError):
    """A model or data set that was found nowhere; the message names the command that brings it."""


class AssetMismatch(LipogramError, ValueError):
    """A file whose SHA-256 is not the pinned one."""


class FolderInUse(LipogramError, RuntimeError):
    """A folder that another process is writing."""


class RunMismatch(LipogramError, ValueError):
    """A run folder that holds another configuration."""


class IllConditioned(UserWarning):
    """The solution has lost digits, or the ridge sits at the interpolation peak."""


class OutOfOrder(UserWarning):
    """Rows of a stream that did not come in the order of time."""
