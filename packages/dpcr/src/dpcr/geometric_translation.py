"""Old classes as new ones moved to their place, from sums alone.

FeTrIL (Petit et al., "FeTrIL: Feature Translation for Exemplar-Free Class-Incremental Learning",
WACV 2023, arXiv 2211.13131): the network of the first task stays, only the mean of each old class
is kept, and its features are replaced by those of the most similar new class, shifted to that mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpcr.analytic_head import AnalyticHead
from dpcr.reconstruction import Normalize, head_weights
from dpcr.statistics_methods import RidgeHead
from dpcr.task_context import TaskContext, TestContext
from lipogram.analytic.blas import matmul
from lipogram.analytic.solve import RidgeSystem
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, NotSeen


def translated(current: ClassStatistics, prototypes: Tensor) -> RidgeSystem:
    r"""The ridge system of old classes made up from new ones, and of the new ones themselves.

    Old class p takes the rows of the class k whose mean is most similar to its prototype (cosine),
    moved by :math:`\delta = \mu_p - \mu_k`, so that exactly

    :math:`A_p = A_k + c_k\delta^T + \delta c_k^T + N_k\delta\delta^T`, :math:`c_p = N_k\mu_p`.

    Args:
        current: statistics of the new classes, one second moment a class, unweighted rows.
        prototypes: (p, d) means of the old classes, p ≥ 0.

    Returns:
        Columns: the p old classes, then the new ones in the order of ``current.classes``.

    Raises:
        ClosedClass: pooled statistics.
        NotSeen: a new class without a row.
        IncompatibleFeatures: prototypes of another width.
    """
    if prototypes.ndim != 2 or prototypes.shape[1] != current.n_features:
        raise IncompatibleFeatures(
            f"prototypes of shape {tuple(prototypes.shape)} do not have the statistics' "
            f"{current.n_features} features"
        )
    if not len(current.classes) or not (current.counts > 0).all():
        raise NotSeen("every new class needs a row: old classes are made from new ones")
    counts = torch.from_numpy(current.counts).to(current.device).double()
    sums = current.sums
    means = sums / counts[:, None]
    prototypes = prototypes.to(means)
    unit = torch.nn.functional.normalize
    donor = matmul(unit(prototypes), unit(means).T.contiguous()).argmax(1)
    copies = 1 + torch.bincount(donor, minlength=len(means)).double()
    # Σ over old classes: copies of A_k, then N_k (μ_p μ_pᵀ − μ_k μ_kᵀ), since c_k = N_k μ_k.
    gram = current.reweight(copies.cpu().numpy()).gram
    rows = counts[donor]
    moved, left = prototypes * rows[:, None], means[donor] * rows[:, None]
    gram = gram + matmul(moved.T.contiguous(), prototypes)
    gram -= matmul(left.T.contiguous(), means[donor])
    cross = torch.cat([moved, sums])
    target = torch.cat([rows, counts])
    mass = float(target.sum())
    return RidgeSystem(gram, cross.T.contiguous(), cross.sum(0), target, mass, mass, round(mass))


class GeometricTranslation(RidgeHead):
    """``fetril``: :func:`translated` in the feature space of the first task's network.

    Args:
        gamma, normalize: of the head, here a ridge regression (a support vector machine there).
        present: look through the present network instead, where old means are stale.
    """

    def __init__(
        self,
        *,
        gamma: float = 200.0,
        normalize: Normalize = "category",
        present: bool = False,
    ) -> None:
        super().__init__(gamma=gamma, normalize=normalize)
        self.present = present
        self.prototypes: Tensor | None = None

    def _solve(self, task: TaskContext) -> AnalyticHead:
        features = task.features if self.present else task.first_features()
        old = self.prototypes
        if old is None:
            old = features.new_zeros(0, features.shape[1], dtype=torch.float64)
        current = ClassStatistics(features.shape[1]).declare(list(task.classes))
        current.update(features, task.labels)
        weight = head_weights(translated(current, old), self.gamma, self.normalize)
        means = current.sums / torch.from_numpy(current.counts)[:, None]
        self.prototypes = torch.cat([old.to(means), means])
        return AnalyticHead(weight, [*self.classes, *task.classes])

    def _features(self, test: TestContext) -> Tensor:
        return test.features if self.present else test.first_features()
