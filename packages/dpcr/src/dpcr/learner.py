"""The whole method: a backbone trained task by task, statistics that move with it, a solved head.

DPCR, He et al., ICML 2025: training of :func:`dpcr.training.train_task`, statistics and head of
:class:`dpcr.DriftCalibrator`. No sample outlives its task.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dpcr.backbone_classifier import BackboneClassifier
from dpcr.calibration import CategoryProjection
from dpcr.cosine_head import CosineClassifier, CosineHead
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.feature_pass import Augment
from dpcr.labelled_samples import labelled
from dpcr.learner_state import KeptLearner, TaskFiles, read_learner, tidy, write_learner
from dpcr.processes import is_first, wait
from dpcr.reconstruction import Normalize
from dpcr.shift_map import Prior, ShiftMap
from dpcr.task_fit import TaskFit, joined, task_samples
from dpcr.task_report import TaskReport as TaskReport
from dpcr.task_report import shift_figures
from dpcr.train_settings import TrainConfig
from lipogram.analytic.gram_store import Storage
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.metrics import accuracy
from lipogram.analytic.settings import one_of, whole
from lipogram.errors import (
    CorruptState,
    InvalidFeatures,
    InvalidLabels,
    LipogramError,
    RunMismatch,
)
from lipogram.settings import differences


class DPCR(BackboneClassifier):
    """Learns classes task after task with a backbone that is trained, and keeps no sample.

    With ``folder``, every finished task and every phase of the one at hand is on disk. Killed at
    any instant and made again with that folder, the learner has the finished tasks
    (``learner.tasks`` of them); calling :meth:`fit_task` with the next one goes on where the
    process stopped, and on a CPU ends at the same bits:

        for images, labels in tasks[learner.tasks :]:
            learner.fit_task((images, labels))

    Args:
        backbone: samples (b, …) to features (b, d), for instance from :mod:`dpcr.networks`. It is
            copied; :attr:`backbone` is the trained one.
        gamma, eps, prior, cip, normalize, repeat, pooled, storage: of statistics and head, see
            :class:`dpcr.DriftCalibrator`. With ``repeat="merge"`` the samples of a class of an
            earlier task enter the statistics, not the training.
        stats_augment: which samples statistics and shift are taken from: ``"none"``, un-augmented
            ones; ``"train"``, those that are trained on for the shift and the present task's part
            of the head, which is what the released code does.
        train: how the backbone is trained; may be changed between tasks.
        augment: changes a batch of training samples on the device at random, (b, …) and a
            generator on the CPU to (b, …).
        device: where networks run; ``"auto"`` is the first graphics card, else the CPU.
        statistics_device: where sums and solutions (float64) live.
        seed: of the new rows of the training head, the order of the samples, every random change.
        folder: where progress is kept; made if it is not there.
        progress: told what is being done.

    Attributes:
        network: backbone and training head, None before the first task.
        calibrator: statistics, shift map and head.
        tasks: finished tasks. ``reports``: one for each.

    Raises:
        InvalidSetting: a setting outside its values.
        RunMismatch: the folder holds a learner with other settings.
        CorruptState: the folder is damaged, or holds another architecture.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        gamma: float = 200.0,
        eps: float | Literal["auto", "classes"] = "classes",
        prior: Prior | Literal["auto"] = "auto",
        cip: CategoryProjection = "none",
        normalize: Normalize = "category",
        repeat: Literal["error", "merge"] = "error",
        pooled: bool = False,
        storage: Storage = "auto",
        stats_augment: Literal["none", "train"] = "none",
        train: TrainConfig | None = None,
        augment: Augment | None = None,
        device: torch.device | str = "auto",
        statistics_device: torch.device | str = "cpu",
        seed: int = 0,
        folder: str | Path | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        one_of("stats_augment", stats_augment, ("none", "train"))
        self.stats_augment, self.seed = stats_augment, whole("seed", seed, least=0)
        self.train = TrainConfig() if train is None else train
        self.augment, self.progress = augment, progress
        self.device = _device(device)
        self.calibrator = DriftCalibrator(
            gamma=gamma,
            eps=eps,
            prior=prior,
            cip=cip,
            normalize=normalize,
            repeat=repeat,
            head_rows="observed" if stats_augment == "train" else "stored",
            pooled=pooled,
            storage=storage,
            device=statistics_device,
        )
        self._initial = copy.deepcopy(backbone)
        self.network: CosineClassifier | None = None
        self.classes: list[Label] = []  # columns of the training head, in order of exposure
        self.reports: list[TaskReport] = []
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self._open(self.folder)

    # ------------------------------------------------------------------ what is there

    @property
    def tasks(self) -> int:
        """Finished tasks."""
        return len(self.reports)

    def settings(self) -> dict[str, Any]:
        """What decides the result besides training, data and network; JSON values."""
        own = {
            k: v for k, v in self.calibrator.settings().items() if k not in ("bias", "head_rows")
        }
        return {**own, "stats_augment": self.stats_augment, "seed": self.seed}

    # ------------------------------------------------------------------ learning

    def fit_task(
        self,
        train: Any,
        *,
        plain: Any = None,
        classes: Sequence[Label] | None = None,
        test: Any = None,
    ) -> TaskReport:
        """Train on a task, move what is known of earlier classes, solve the head of all.

        Where ``torch.distributed`` is initialised every process calls, with the same arguments;
        each works on its part.

        Args:
            train: ``(x, y)`` with x a tensor, an array or a Dataset of samples; or a torch Dataset
                of (sample, label). One with ``set_epoch`` is told the epoch.
            plain: the same samples un-augmented where ``train`` is augmented, as x or in either
                form; by default ``train`` itself, without ``augment``.
            classes: the task's classes in the order that the training head shall have them, by
                default sorted.
            test: ``(x, y)`` or a Dataset, of which the report tells the accuracy.

        Raises:
            InvalidFeatures: no sample, unequal numbers, or a backbone that makes NaN or no (b, d).
            InvalidLabels: labels that are none, a class of an earlier task with
                ``repeat="error"``, or ``classes`` that are not those of the labels.
            NotFinite: the loss is NaN or infinite.
            RunMismatch: the folder holds the beginning of another task.
            All leave the learner as it was.
        """
        fit = self._task(train, plain, classes)
        tested = None if test is None else labelled(test, "test")
        files = TaskFiles(
            self.folder,
            {} if self.folder is None else fit.identity,
            writes=is_first(),
        )
        network, training = self._trained(fit, files)
        start = time.perf_counter()
        calibrator = files.observed(self.calibrator)
        if calibrator is None:
            self.progress(f"task {self.tasks + 1}: statistics of {len(fit.labels)} samples")
            calibrator = fit.observe(network, self.calibrator)
            files.keep_observed(calibrator)
            wait()
        observed = time.perf_counter()
        self.progress(f"task {self.tasks + 1}: solving for {len(fit.known + fit.new)} classes")
        still = fit.known and not fit.moves
        head = calibrator.finish(ShiftMap.identity(self.head.in_features) if still else None)
        solved = time.perf_counter()
        right = None
        if tested is not None:
            predicted = head.predict(self.features_under(network.backbone, tested[0]))
            right = accuracy(tested[1], predicted)
        report = TaskReport(
            number=self.tasks,
            classes=tuple(fit.new),
            samples=len(fit.labels),
            training=training,
            shift=shift_figures(calibrator.shift),
            seconds={"observe": observed - start, "solve": solved - observed},
            accuracy=right,
        )
        reports, everything = [*self.reports, report], [*fit.known, *fit.new]
        if self.folder is not None and files.writes:
            described = self._described(reports, everything)
            write_learner(self.folder, described, network, calibrator)
        files.remove()
        wait()
        self.network, self.calibrator = network, calibrator
        self.classes, self.reports = everything, reports
        return report

    # ------------------------------------------------------------------ keeping

    def save(self, folder: str | Path) -> Path:
        """Write network, statistics, head and settings to a folder, made if it is not there.

        A state that the folder held stays whole until this one is. They say much about the
        samples: means and covariances of each class.

        Returns:
            The folder.
        """
        described = self._described(self.reports, self.classes)
        write_learner(Path(folder), described, self._kept(), self.calibrator)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, backbone: nn.Module, **options: Any) -> DPCR:
        """The learner that :meth:`save`, or a learner with that ``folder``, wrote.

        Args:
            folder: where.
            backbone: of the same architecture; its weights do not matter.
            options: arguments of the constructor that do not decide what was learned: ``train``
                (by default the one that was used), ``augment``, ``device``,
                ``statistics_device``, ``progress``.

        Raises:
            FileNotFoundError: there is no learner in the folder.
            CorruptState: a damaged folder, or another architecture.
        """
        kept = read_learner(Path(folder))
        try:
            options = {"train": TrainConfig(**kept.described["train"]), **options}
            learner = cls(backbone, **{**kept.described["settings"], **options})
        except (LipogramError, TypeError) as error:
            raise CorruptState(f"{folder}: the settings are none: {error}") from None
        learner._adopt(kept)
        return learner

    # ------------------------------------------------------------------ inside

    def _task(self, train: Any, plain: Any, classes: Sequence[Label] | None) -> TaskFit:
        samples, shown, labels = task_samples(train, plain)
        if not len(labels):
            raise InvalidFeatures(f"task {self.tasks + 1} is empty: it has no sample")
        new = self._new_classes(np.unique(labels).tolist(), classes)
        return TaskFit(
            number=self.tasks,
            samples=samples,
            plain=shown,
            labels=labels,
            slots=LabelIndex([*self.classes, *new]).plan(labels)[0],
            known=list(self.classes),
            new=new,
            network=self.network,
            config=self.train,
            augment=self.augment,
            device=self.device,
            seed=self.seed,
            augmented_statistics=self.stats_augment == "train",
            progress=self.progress,
        )

    def _new_classes(self, present: list[Label], asked: Sequence[Label] | None) -> list[Label]:
        known = LabelIndex(self.classes)
        ordered = present if asked is None else LabelIndex(list(asked)).labels
        if set(ordered) != set(present):
            differ = sorted(map(repr, set(ordered) ^ set(present)))
            raise InvalidLabels(f"classes and labels do not agree on {', '.join(differ[:5])}")
        again = [label for label in ordered if label in known]
        if again and self.calibrator.repeat == "error":
            raise InvalidLabels(
                f'class {again[0]!r} belongs to an earlier task: use repeat="merge" to add its '
                "samples to what is known of it"
            )
        return known.plan(ordered)[1]

    def _trained(
        self, fit: TaskFit, files: TaskFiles
    ) -> tuple[CosineClassifier, dict[str, Any] | None]:
        """The network after the task, and what came of its training."""
        if self.network is not None and not fit.moves:
            return self.network, None
        network = fit.untrained(self._initial)
        report = files.trained(network)
        if report is None:
            report = fit.train(network, files.training)
            files.keep_trained(network, report)
            wait()
        return network, report

    def _kept(self) -> nn.Module:
        return self._initial if self.network is None else self.network

    def _described(self, reports: list[TaskReport], classes: list[Label]) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "train": asdict(self.train),
            "classes": classes,
            "reports": [report.as_dict() for report in reports],
        }

    def _open(self, folder: Path) -> None:
        """Take over what a folder holds, or begin there with the backbone as it is."""
        try:
            kept = read_learner(folder)
        except FileNotFoundError:
            if is_first():
                self.save(folder)
            wait()
            kept = read_learner(folder)
        other = differences(kept.described["settings"], self.settings())
        if other:
            raise RunMismatch(
                f"{folder} holds a learner with other settings: {'; '.join(other)}. Choose another "
                "folder, or the same settings to go on"
            )
        self._adopt(kept)
        if is_first():
            tidy(folder, (kept.network.name, kept.calibrator.name))
            TaskFiles(folder, {"task": self.tasks}).drop_finished()
        wait()

    def _adopt(self, kept: KeptLearner) -> None:
        """Become the learner that was kept.

        Raises:
            CorruptState: its parts do not fit together, or not to the backbone.
        """
        reports = [TaskReport.of_dict(each) for each in kept.described["reports"]]
        try:
            classes = LabelIndex(kept.described["classes"]).labels
        except InvalidLabels as error:
            raise CorruptState(f"damaged or hostile state: {error}") from None
        calibrator = kept.load_calibrator(self.calibrator.device)
        told = [label for report in reports for label in report.classes]
        fits = told == classes and len(reports) == calibrator.tasks
        fits = fits and calibrator.settings() == self.calibrator.settings()
        if not fits or (calibrator.head and set(calibrator.head.classes_.tolist()) != set(classes)):
            raise CorruptState(
                "damaged or hostile state: reports, statistics and settings do not fit together"
            )
        network: CosineClassifier | None = None
        module: nn.Module = copy.deepcopy(self._initial)
        if calibrator.head is not None:
            head = CosineHead(calibrator.head.in_features, len(classes))
            module = network = joined(module, head)
        kept.load_network(module)
        if network is None:
            self._initial = module
        else:
            self.network = network.to(self.device).eval()
        self.calibrator, self.classes, self.reports = calibrator, classes, reports


def _device(given: torch.device | str) -> torch.device:
    if given == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(given)
