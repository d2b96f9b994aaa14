"""Errors of this package, one class per cause; each is one of `lipogram.errors` too."""

from lipogram.errors import CorruptState, InvalidSetting, LipogramError, RunMismatch


class InvalidRecords(LipogramError, ValueError):
    """Records that cannot be read or used; the message names place and id, never a text."""


class InvalidRows(LipogramError, ValueError):
    """Synthetic rows that contradict themselves, or a file of them that cannot be read."""


class PrivateObject(LipogramError, TypeError):
    """A private object, or one that holds it, where after the release none may come."""


class PrivateText(LipogramError, ValueError):
    """A text that shares words with the private set, where only public ones may stand."""


class InadmissibleModel(LipogramError, ValueError):
    """A model whose training cannot be made private as it stands."""


class InadmissibleLoss(LipogramError, ValueError):
    """A loss that is not one number a record, each from that record alone."""


class UnsafeSetting(InvalidSetting):
    """A setting that voids the guarantee and that nobody has asked for by name."""


class DataMismatch(RunMismatch):
    """A training that would be taken up with other records than it was begun with."""


class RepeatedRecords(UserWarning):
    """Records that may be several of one person, while each is protected by itself."""


class TooFewQuestions(UserWarning):
    """Sampling that ended before it had as many questions as were asked for."""


class WeakAmplification(UserWarning):
    """Batches so large beside the data that sampling hides little."""


class UnreachablePrivacy(InvalidSetting):
    """A budget that no noise in reach keeps, or that was spent before."""


class AccountantsDisagree(LipogramError, ArithmeticError):
    """Two ways to compute the same ε that contradict each other: one of them has a fault."""


class BudgetSpent(LipogramError, RuntimeError):
    """A run that would exceed the budget of its data; nothing was recorded or run."""


class TamperedBundle(CorruptState):
    """A bundle whose files or claims are not those that were written, or do not hold."""
