"""Closed-form heads inside Avalanche's training loop: one update a mini-batch.

Needs ``avalanche-lib`` 0.6, which is not among the requirements, since it brings a large tree of
its own: ``pip install avalanche-lib==0.6.0``.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from lipogram.analytic.estimator import AnalyticClassifier


class AnalyticModel(nn.Module):
    """A frozen backbone and a closed-form head as one torch model over label ids.

    Args:
        backbone: module from inputs to features (n, d); its parameters are frozen.
        classifier: the head.
        n_classes: number of scores, one a label id; unseen classes score minus infinity.
    """

    def __init__(self, backbone: nn.Module, classifier: AnalyticClassifier, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.classifier = classifier
        self.n_classes = n_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (n, n_classes) float32."""
        scores = torch.full((len(inputs), self.n_classes), -torch.inf, device=inputs.device)
        if not self.classifier.__sklearn_is_fitted__():
            return scores.zero_()
        shares = self.shares(self.features(inputs))
        columns = torch.as_tensor(self.classifier.classes_, device=inputs.device)
        scores[:, columns] = torch.as_tensor(shares, dtype=scores.dtype, device=inputs.device)
        return scores

    def features(self, inputs: Tensor) -> Tensor:
        """Features (n, d) on the CPU, without gradient."""
        self.backbone.eval()
        with torch.no_grad():
            features: Tensor = self.backbone(inputs).flatten(1).cpu()
        return features

    def shares(self, features: Tensor) -> Any:
        """Shares (n, k) of the head's classes for features (n, d)."""
        return self.classifier.predict_proba(features)


class AnalyticStrategy(SupervisedTemplate):
    """Avalanche strategy: ``partial_fit`` on each mini-batch.

    Args:
        model: backbone and head; see :class:`AnalyticModel`.
        options: passed to Avalanche's ``SupervisedTemplate`` (``train_mb_size``, ``evaluator``, …).
    """

    def __init__(self, model: AnalyticModel, **options: Any) -> None:
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
