"""Ridge heads over class statistics: moved with the drift, left behind, frozen, or of all data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from dpcr.analytic_head import AnalyticHead
from dpcr.calibration import CategoryProjection
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.held_out_classes import HeldOutClasses
from dpcr.methods import Method
from dpcr.reconstruction import Normalize, check_reconstruction, reconstruct
from dpcr.shift_map import Prior, ShiftMap
from dpcr.task_context import TaskContext, TestContext
from lipogram.analytic.settings import flag
from lipogram.analytic.statistics import ClassStatistics

PUBLISHED_EPS = 1e-9  # theirs is absolute; as a share of the mean eigenvalue it is as little


class RidgeHead(Method):
    """A classifier whose scores are an analytic head's.

    Args:
        gamma: ridge γ, see :func:`dpcr.reconstruct`.
        normalize: ``"category"`` or None.

    Attributes:
        head: of the last task; None before the first.
    """

    def __init__(self, *, gamma: float = 200.0, normalize: Normalize = "category") -> None:
        super().__init__()
        check_reconstruction(gamma, normalize)
        self.gamma, self.normalize = gamma, normalize
        self.head: AnalyticHead | None = None

    def learn(self, task: TaskContext) -> None:
        """Solve the head of all classes so far."""
        self.head = self._solve(task)
        self.classes = self.head.classes_.tolist()

    def scores(self, test: TestContext) -> Tensor:
        """The head's, on the features it was solved for."""
        assert self.head is not None
        return self.head.scores(self._features(test))

    def _solve(self, task: TaskContext) -> AnalyticHead:
        raise NotImplementedError

    def _features(self, test: TestContext) -> Tensor:
        return test.features


class Calibrated(RidgeHead):
    """``dpcr``: statistics moved by the shift map of each task.

    Args:
        gamma, normalize: of the head.
        eps, prior, bias, cip: of the shift map and the calibration, see
            :class:`dpcr.DriftCalibrator`; by default the map that carries left-out classes best.
        widen: with ``eps="classes"``, also add to old statistics what the map misses classes by.
    """

    def __init__(
        self,
        *,
        gamma: float = 200.0,
        normalize: Normalize = "category",
        eps: float | Literal["auto", "classes"] = "classes",
        prior: Prior | Literal["auto"] = "auto",
        bias: bool = False,
        cip: CategoryProjection = "none",
        widen: bool = True,
    ) -> None:
        super().__init__(gamma=gamma, normalize=normalize)
        self.widen = flag("widen", widen)
        self.calibrator = DriftCalibrator(
            gamma=gamma,
            normalize=normalize,
            eps=eps,
            prior=prior,
            bias=bias,
            cip=cip,
            pooled=cip == "none",
        )

    def figures(self) -> dict[str, Any]:
        """How well the shift map fits the task's own rows."""
        shift = self.calibrator.shift
        if shift is None:
            return {}
        return {"eps": shift.eps, "rank": shift.rank, "residual": shift.residual}

    def _solve(self, task: TaskContext) -> AnalyticHead:
        calibrator = self.calibrator.observe(task.old_features, task.features, task.labels)
        if self.widen or not task.number or not isinstance(calibrator.pairs, HeldOutClasses):
            return calibrator.finish()
        shift = calibrator.pairs.solve(prior=self.calibrator.prior)
        return calibrator.finish(replace(shift, noise=None))


class Published(Calibrated):
    """``dpcr-published``: as the paper has it, with nothing added.

    ``P = (X_oldᵀX_old + εI)⁻¹X_oldᵀX_new`` with an ε that is next to nothing, in float64.
    """

    def __init__(self, *, gamma: float = 200.0, normalize: Normalize = "category") -> None:
        super().__init__(gamma=gamma, normalize=normalize, eps=PUBLISHED_EPS, prior="zero")


class Stale(RidgeHead):
    """``stale``: statistics as they were when their task ended, drift or not."""

    def __init__(self, *, gamma: float = 200.0, normalize: Normalize = "category") -> None:
        super().__init__(gamma=gamma, normalize=normalize)
        self.calibrator = DriftCalibrator(gamma=gamma, normalize=normalize, pooled=True)

    def _solve(self, task: TaskContext) -> AnalyticHead:
        self.calibrator.observe(None, task.features, task.labels)
        stay = None if not task.number else ShiftMap.identity(task.features.shape[1])
        return self.calibrator.finish(stay)


class FirstNetwork(RidgeHead):
    """``frozen``: the network of the first task for good, so nothing drifts and the head is exact.

    What remains of later training is that it is not done; with a first task that teaches the
    network enough, this is the one to beat.
    """

    def __init__(self, *, gamma: float = 200.0, normalize: Normalize = "category") -> None:
        super().__init__(gamma=gamma, normalize=normalize)
        self.statistics: ClassStatistics | None = None

    def _solve(self, task: TaskContext) -> AnalyticHead:
        features = task.first_features()
        if self.statistics is None:
            self.statistics = ClassStatistics(features.shape[1], pooled=True)
        self.statistics.update(features, task.labels)
        return reconstruct(self.statistics, gamma=self.gamma, normalize=self.normalize)

    def _features(self, test: TestContext) -> Tensor:
        return test.first_features()


class Joint(RidgeHead):
    """``oracle``: the head of all samples of all tasks under the present network.

    It keeps every image, which the others may not: what is lost against it is what the estimate of
    the drift costs.
    """

    def _solve(self, task: TaskContext) -> AnalyticHead:
        features, labels = task.joint()
        statistics = ClassStatistics(features.shape[1], pooled=True).update(features, labels)
        return reconstruct(statistics, gamma=self.gamma, normalize=self.normalize)
