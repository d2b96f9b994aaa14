"""AIR inside Avalanche's training loop: one closed-form update a mini-batch.

Needs ``avalanche-lib`` 0.6, which is not among this package's requirements, since it brings a large
tree of its own: ``pip install avalanche-lib==0.6.0``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from air.classifier import AIRClassifier
from lipogram.analytic.avalanche import AnalyticModel, AnalyticStrategy


class AIRStrategy(AnalyticStrategy):
    """Avalanche strategy: ``partial_fit`` on each mini-batch, ``end_task`` after each experience.

    Args:
        backbone: frozen feature extractor.
        n_classes: number of label ids of the benchmark.
        classifier: the head; a default AIRClassifier otherwise.
        options: passed to Avalanche's ``SupervisedTemplate`` (``train_mb_size``, ``evaluator``, …).
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        n_classes: int,
        classifier: AIRClassifier | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            AnalyticModel(backbone, classifier or AIRClassifier(), n_classes), **options
        )

    def _after_training_exp(self, **options: Any) -> None:
        self.model.classifier.end_task()
        super()._after_training_exp(**options)
