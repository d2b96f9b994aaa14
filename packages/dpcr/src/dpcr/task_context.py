"""What a classifier is told when a task ends, and when it is asked.

One backbone is trained, task by task; every classifier that is compared looks through it. So all
of them see the same features, and differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from lipogram.analytic.labels import Label
from lipogram.errors import InvalidFeatures, InvalidLabels

Network = Callable[[Tensor], Tensor]
Images = Callable[[NDArray[Any]], Tensor]


@dataclass(frozen=True, eq=False)
class TaskContext:
    """The end of a task: what is known of its samples, n of them.

    Attributes:
        number: 0 for the first task.
        known: classes of the tasks before, in order of exposure.
        classes: classes of this task.
        labels: (n,) integers or strings.
        features: (n, e) under the network as trained on this task.
        old_features: (n, d) of the same samples under the network before; None in the first task.
        images: the samples at given positions (m,) as the network takes them, (m, …), on its
            device.
        network: images (m, …) to features (m, e), differentiable in the images.
        old_network: the same before this task; None in the first.
        first_features: makes (n, ·) features under the network of the first task.
        joint: makes features (N, e) and labels (N,) of all samples of all tasks so far under the
            present network. Only an oracle asks: the samples of earlier tasks are gone.
    """

    number: int
    known: tuple[Label, ...]
    classes: tuple[Label, ...]
    labels: NDArray[Any]
    features: Tensor
    old_features: Tensor | None
    images: Images
    network: Network
    old_network: Network | None
    first_features: Callable[[], Tensor]
    joint: Callable[[], tuple[Tensor, NDArray[Any]]]

    def __post_init__(self) -> None:
        """Refuse what no method could learn from.

        Raises:
            InvalidLabels: labels that are not those of the task's classes, a class without a
                sample, or one that is known already.
            InvalidFeatures: not one row of features a label.
        """
        again = [label for label in self.classes if label in self.known]
        if again:
            raise InvalidLabels(f"class {again[0]!r} belongs to an earlier task")
        differ = set(self.labels.tolist()) ^ set(self.classes)
        if differ or not len(self.labels):
            raise InvalidLabels(
                f"the task's classes and its samples' do not agree: {sorted(map(repr, differ))[:5]}"
            )
        for rows in (self.features, self.old_features):
            if rows is not None and len(rows) != len(self.labels):
                raise InvalidFeatures(f"{len(rows)} rows of features, {len(self.labels)} labels")


@dataclass(frozen=True, eq=False)
class TestContext:
    """Samples whose class is asked, n of them.

    Attributes:
        features: (n, e) under the present network.
        head_scores: (n, k) of the head that the network was trained with, columns in order of
            exposure.
        first_features: makes (n, ·) features under the network of the first task.
    """

    __test__ = False  # pytest takes a class of this name for a test

    features: Tensor
    head_scores: Tensor
    first_features: Callable[[], Tensor]
