"""Samples to labels: a backbone and an analytic head over its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpcr.analytic_head import AnalyticHead
from dpcr.cosine_head import CosineClassifier
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.feature_pass import features_of
from dpcr.labelled_samples import labelled, unlabelled
from dpcr.study_data import Samples
from dpcr.train_settings import TrainConfig
from lipogram.analytic.metrics import accuracy
from lipogram.errors import NotSeen


class BackboneClassifier:
    """What :class:`dpcr.DPCR` answers, in scikit-learn's words.

    Attributes:
        network: backbone and training head, None before the first task.
        calibrator: has the analytic head, once a task is finished.
        device: where the backbone runs.
        train: how many processes read a Dataset.
    """

    network: CosineClassifier | None
    calibrator: DriftCalibrator
    device: torch.device
    train: TrainConfig
    _initial: nn.Module

    @property
    def backbone(self) -> nn.Module:
        """Samples (b, …) to features (b, d), as the last finished task left it."""
        return self._initial if self.network is None else self.network.backbone

    @property
    def head(self) -> AnalyticHead:
        """The head over the features of :attr:`backbone`.

        Raises:
            NotSeen: no task is finished.
        """
        if self.calibrator.head is None:
            raise NotSeen("no task is finished yet: call fit_task first")
        return self.calibrator.head

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels (k,) in the order of the columns of :meth:`predict_proba`."""
        return self.head.classes_

    def features(self, x: Any) -> Tensor:
        """Features (n, d) on the CPU of samples (n, …), a tensor, an array or a Dataset.

        Raises:
            InvalidFeatures: no sample, or NaN.
        """
        return self.features_under(self.backbone, unlabelled(x))

    def decision_function(self, x: Any) -> NDArray[np.float64]:
        """Scores (n, k), columns as in ``classes_``.

        Raises:
            NotSeen: no task is finished.
            InvalidFeatures: no sample, or NaN.
        """
        scores: NDArray[np.float64] = self.head.scores(self.features(x)).cpu().numpy()
        return scores

    def predict(self, x: Any) -> NDArray[Any]:
        """Labels (n,) among all classes so far; raises as :meth:`decision_function`."""
        labels: NDArray[Any] = self.classes_[self.decision_function(x).argmax(1)]
        return labels

    def predict_proba(self, x: Any) -> NDArray[np.float64]:
        """Softmax of the scores, (n, k). Ridge scores are no log-odds: these are not calibrated."""
        scores = self.decision_function(x)
        powers: NDArray[np.float64] = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def score(self, x: Any, y: Any = None) -> float:
        """Share of samples predicted right.

        Args:
            x: samples; or, without ``y``, what :meth:`fit_task` takes.
            y: (n,) labels.

        Raises:
            NotSeen, InvalidFeatures, InvalidLabels: see there.
        """
        samples, labels = labelled(x if y is None else (x, y), "test")
        return accuracy(labels, self.predict(samples))

    def features_under(self, backbone: nn.Module, samples: Samples) -> Tensor:
        """Features (n, d) on the CPU under a backbone."""
        workers = self.train.workers
        return features_of(backbone.to(self.device), samples, workers=workers, device=self.device)
