"""AIR inside Avalanche's training loop: one closed-form update a mini-batch.

Needs ``avalanche-lib`` 0.6, which is not among this package's requirements, since it brings a large
tree of its own: ``pip install avalanche-lib==0.6.0``.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from air.classifier import AIRClassifier


class AIRHead(nn.Module):
    """A frozen backbone and an :class:`air.AIRClassifier` as one torch model over label ids.

    Args:
        backbone: module from inputs to features (n, d); its parameters are frozen.
        classifier: the head.
        n_classes: number of scores, one a label id; unseen classes score minus infinity.
    """

    def __init__(self, backbone: nn.Module, classifier: AIRClassifier, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.classifier = classifier
        self.n_classes = n_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (n, n_classes) float32."""
        scores = torch.full((len(inputs), self.n_classes), -torch.inf, device=inputs.device)
        if not self.classifier.__sklearn_is_fitted__():
            return scores.zero_()
        features = self.features(inputs)
        shares = self.classifier.predict_proba(features)
        columns = torch.as_tensor(self.classifier.classes_, device=inputs.device)
        scores[:, columns] = torch.as_tensor(shares, dtype=scores.dtype, device=inputs.device)
        return scores

    def features(self, inputs: Tensor) -> Tensor:
        """Features (n, d) on the CPU, without gradient."""
        self.backbone.eval()
        with torch.no_grad():
            features: Tensor = self.backbone(inputs).flatten(1).cpu()
        return features


class AIRStrategy(SupervisedTemplate):
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
        model = AIRHead(backbone, classifier or AIRClassifier(), n_classes)
        nothing = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        super().__init__(model=model, optimizer=nothing, train_epochs=1, **options)

    def training_epoch(self, **_: Any) -> None:
        """One pass over the experience; nothing is differentiated."""
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration()
            self.model.classifier.partial_fit(self.model.features(self.mb_x), self.mb_y)
            self.mb_output = self.model(self.mb_x)
            self.loss = torch.nn.functional.cross_entropy(self.mb_output, self.mb_y)
            self._after_training_iteration()

    def _after_training_exp(self, **options: Any) -> None:
        self.model.classifier.end_task()
        super()._after_training_exp(**options)
