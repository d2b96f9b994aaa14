"""Nearest class mean, and two ways to move the means of classes whose images are gone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dpcr.adversarial import Attack, adversarial_drift
from dpcr.held_out_classes import HeldOutClasses
from dpcr.methods import Method
from dpcr.shift_accumulator import ShiftAccumulator
from dpcr.shift_map import Prior, prior_for
from dpcr.task_context import TaskContext, TestContext
from lipogram.analytic.blas import matmul
from lipogram.errors import InvalidSetting


class NearestMean(Method):
    """``ncm``: the class whose mean is nearest, means as they were when their task ended.

    Attributes:
        means: (k, d) float64, rows as ``classes``; None before the first task.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means: Tensor | None = None

    def learn(self, task: TaskContext) -> None:
        """Move the old means, add those of the task's classes."""
        new = class_means(task)
        old = self.means
        if old is not None:
            old = self._moved(old, task)
            if old.shape[1] != new.shape[1]:
                raise InvalidSetting(
                    f"the network's width changed from {old.shape[1]} to {new.shape[1]}: only "
                    'a mapped mean ("ncm+shift") can follow'
                )
        self.means = new if old is None else torch.cat([old, new])
        self.classes += task.classes

    def scores(self, test: TestContext) -> Tensor:
        """``zᵀμ − ‖μ‖²/2``: the larger, the nearer."""
        assert self.means is not None
        rows = test.features.double()
        return matmul(rows, self.means.T.contiguous()) - self.means.square().sum(1) / 2

    def _moved(self, means: Tensor, task: TaskContext) -> Tensor:
        return means


class ShiftedMean(NearestMean):
    """``ncm+shift``: means moved by the linear map that carries the task's old features to new.

    The map of Gomez-Villa et al., "Exemplar-free Continual Representation Learning via Learnable
    Drift Compensation", ECCV 2024, arXiv 2407.08536, solved by ridge regression instead of
    descent.

    Args:
        eps: ridge of the map: ``"auto"`` or a number, see :meth:`dpcr.ShiftAccumulator.solve`, or
            ``"classes"``, see :class:`dpcr.HeldOutClasses`.
        prior: what a direction without rows does; ``"auto"`` is the identity where widths agree.
        bias: whether the map has an offset; not with ``"classes"``.
    """

    def __init__(
        self,
        *,
        eps: float | Literal["auto", "classes"] = "auto",
        prior: Prior | Literal["auto"] = "zero",
        bias: bool = False,
    ) -> None:
        super().__init__()
        ShiftAccumulator.check_settings(
            eps="auto" if eps == "classes" else eps,
            prior="zero" if prior == "auto" else prior,
            bias=bias,
        )
        if eps == "classes" and bias:
            raise InvalidSetting('eps="classes" fits no offset: use eps="auto"')
        self.eps, self.prior, self.bias = eps, prior, bias

    def _moved(self, means: Tensor, task: TaskContext) -> Tensor:
        if self.eps == "classes":
            pairs = HeldOutClasses().update(task.old_features, task.features, task.labels)
            return pairs.solve(prior=self.prior)(means)
        sums = ShiftAccumulator().update(task.old_features, task.features)
        prior = prior_for(sums.widths) if self.prior == "auto" else self.prior
        return sums.solve(eps=self.eps, prior=prior, bias=self.bias)(means)


class AdversarialMean(NearestMean):
    """``adc``: means moved by the drift of present images bent towards them.

    Args:
        samples, steps, step: see :class:`dpcr.adversarial.Attack`.
    """

    def __init__(self, *, samples: int = 100, steps: int = 3, step: float = 0.045) -> None:
        super().__init__()
        self.attack = Attack(samples, steps, step)
        self.hit_share: float | None = None

    def figures(self) -> dict[str, Any]:
        """Share of the bent images that reached their prototype."""
        return {} if self.hit_share is None else {"hit_share": self.hit_share}

    def _moved(self, means: Tensor, task: TaskContext) -> Tensor:
        assert task.old_features is not None
        assert task.old_network is not None
        drift = adversarial_drift(
            means, task.old_features, task.images, task.old_network, task.network, self.attack
        )
        self.hit_share = float(np.mean(drift.hits)) / drift.tries
        return means + drift.by_class


def class_means(task: TaskContext) -> Tensor:
    """Means (c, e) float64 of the task's classes, in their order."""
    rows = task.features.double()
    where = [torch.from_numpy(np.flatnonzero(task.labels == c)) for c in task.classes]
    return torch.stack([rows[at.to(rows.device)].mean(0) for at in where])
