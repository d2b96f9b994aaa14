"""Classifiers over one drifting backbone, each by its name.

All learn when a task ends and answer at any time after it; none but the oracle keeps a sample.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpcr.task_context import TaskContext, TestContext
from lipogram.analytic.labels import Label
from lipogram.errors import InvalidSetting


class Method(ABC):
    """A classifier of all classes so far.

    Attributes:
        classes: labels in order of exposure; columns of the scores.
    """

    def __init__(self) -> None:
        self.classes: list[Label] = []

    @abstractmethod
    def learn(self, task: TaskContext) -> None:
        """Take in a task that has ended."""

    @abstractmethod
    def scores(self, test: TestContext) -> Tensor:
        """Scores (n, k); the largest is the answer."""

    def predict(self, test: TestContext) -> NDArray[Any]:
        """Labels (n,)."""
        best = self.scores(test).argmax(1).cpu().numpy()
        labels: NDArray[Any] = np.asarray(self.classes)[best]
        return labels

    def figures(self) -> dict[str, Any]:
        """What a table may want to know of the last task, besides accuracy."""
        return {}


class TrainingHead(Method):
    """``lwf``: the head that the network was trained with, under distillation of its own scores.

    Reference: Li & Hoiem, "Learning without Forgetting", arXiv 1606.09282.
    """

    def learn(self, task: TaskContext) -> None:
        """Only the classes: the head was trained already."""
        self.classes += task.classes

    def scores(self, test: TestContext) -> Tensor:
        """The head's."""
        return test.head_scores


def method_of(name: str, **options: Any) -> Method:
    """A new classifier.

    Args:
        name: one of :data:`METHODS`.
        options: of its constructor.

    Raises:
        InvalidSetting: an unknown name or option, by name; or a value that the method refuses.
    """
    maker = _maker(name)
    unknown = sorted(set(options) - options_of(name))
    if unknown:
        known = ", ".join(sorted(options_of(name))) or "none"
        raise InvalidSetting(f"method {name!r} has no option {unknown[0]!r}; its options: {known}")
    return maker(**options)


def options_of(name: str) -> set[str]:
    """The options of a method.

    Raises:
        InvalidSetting: an unknown name.
    """
    return set(inspect.signature(_maker(name)).parameters)


def _maker(name: str) -> Callable[..., Method]:
    makers = _makers()
    if name not in makers:
        raise InvalidSetting(f"method {name!r} is none of {', '.join(makers)}")
    return makers[name]


def _makers() -> Mapping[str, Callable[..., Method]]:
    from dpcr.geometric_translation import GeometricTranslation
    from dpcr.prototype_methods import AdversarialMean, NearestMean, ShiftedMean
    from dpcr.statistics_methods import Calibrated, FirstNetwork, Joint, Published, Stale

    return {
        "lwf": TrainingHead,
        "stale": Stale,
        "frozen": FirstNetwork,
        "ncm": NearestMean,
        "ncm+shift": ShiftedMean,
        "adc": AdversarialMean,
        "fetril": GeometricTranslation,
        "dpcr": Calibrated,
        "dpcr-published": Published,
        "oracle": Joint,
    }


METHODS = (
    *("lwf", "stale", "frozen", "ncm", "ncm+shift", "adc", "fetril"),
    *("dpcr", "dpcr-published", "oracle"),
)
