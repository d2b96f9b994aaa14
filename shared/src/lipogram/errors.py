"""Errors that Lipogram raises, one class per cause.

Each derives from :class:`LipogramError` and from the built-in error that a caller would expect, so
``except ValueError`` keeps working. A rejected call leaves the object as it was.
"""

from collections.abc import Collection


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


class ModelNotFound(LipogramError, FileNotFoundError):
    """A language model that was found nowhere; the message lists the places looked at."""


class UnsafeCheckpoint(LipogramError, ValueError):
    """A checkpoint whose weights are only there as pickles, or that needs code of its own."""


class MissingExtra(LipogramError, ImportError):
    """A library that an optional part needs; the message names the command that brings it.

    Args:
        extra: what is missing.
        command: what installs it.
    """

    def __init__(self, extra: str, command: str):
        super().__init__(f"{extra} is not installed; this brings it: {command}")
        self.extra, self.command = extra, command


class IncompatiblePair(LipogramError, ValueError):
    """Two models that cannot be compared.

    Args:
        field: the first difference.
        a: its value in the first model.
        b: its value in the second model.
    """

    def __init__(self, field: str, a: object, b: object):
        super().__init__(f"the models differ in {field}: {a} and {b}")
        self.field, self.a, self.b = field, a, b


class IdenticalModels(LipogramError, ValueError):
    """A comparison of a model with itself: there is nothing to measure."""


class UnsupportedArchitecture(LipogramError, ValueError):
    """A model whose blocks could not be found.

    Args:
        model_type: its own name.
        known: the names that are known.
        reason: why finding them by structure failed.
    """

    def __init__(self, model_type: str, known: Collection[str], reason: str = ""):
        because = f" ({reason})" if reason else ""
        super().__init__(
            f"no site map for architecture {model_type!r}{because}; "
            f"known: {', '.join(sorted(known))}"
        )
        self.model_type, self.known = model_type, tuple(known)


class PatchMismatch(LipogramError, ValueError):
    """A value that does not fit the activation or parameter that it should replace."""


class InvalidProbes(LipogramError, ValueError):
    """A probe set that cannot be read; the message names file, line and id."""


class NothingMeasurable(LipogramError, ValueError):
    """Every probe was excluded; the message says why each was."""


class NotFinite(LipogramError, ArithmeticError):
    """A model whose weights or logits are NaN or infinite."""


class IllConditioned(UserWarning):
    """The solution has lost digits, or the ridge sits at the interpolation peak."""


class FewPseudoFeatures(UserWarning):
    """Drawn rows that are too few to stand for a distribution of so many features."""


class OutOfOrder(UserWarning):
    """Rows of a stream that did not come in the order of time."""


class NotCached(UserWarning):
    """A converted model that could not be kept, so the next load has to convert it again."""
