"""AEF-OCL inside Avalanche's training loop: one closed-form update a mini-batch.

Needs ``avalanche-lib`` 0.6, which is not among this package's requirements, since it brings a large
tree of its own: ``pip install avalanche-lib==0.6.0``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aefocl.classifier import AEFOCLClassifier
from lipogram.analytic.avalanche import AnalyticModel, AnalyticStrategy


class AEFOCLModel(AnalyticModel):
    """A frozen backbone and a head that is balanced for evaluation, and plain in training."""

    classifier: AEFOCLClassifier

    def shares(self, features: Tensor) -> Any:
        """Shares (n, k) of the head's classes for features (n, d).

        In training nobody asks but the mini-batch metrics: nothing is drawn for them.
        """
        if self.training:
            return self.classifier.predict_proba(features, balanced=False)
        return self.classifier.predict_proba(features)


class AEFOCLStrategy(AnalyticStrategy):
    """Avalanche strategy: ``partial_fit`` on each mini-batch, balanced when it is evaluated.

    Args:
        backbone: frozen feature extractor.
        n_classes: number of label ids of the benchmark.
        classifier: the head; a default AEFOCLClassifier otherwise.
        options: passed to Avalanche's ``SupervisedTemplate`` (``train_mb_size``, ``evaluator``, …).
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        n_classes: int,
        classifier: AEFOCLClassifier | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            AEFOCLModel(backbone, classifier or AEFOCLClassifier(), n_classes), **options
        )
