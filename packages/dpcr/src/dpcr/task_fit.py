"""Learning one task: a copy of the network is trained, then looked through at the samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpcr.checkpoints import data_digest
from dpcr.cosine_head import CosineClassifier, CosineHead, feature_width
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.feature_pass import Augment, show_features
from dpcr.labelled_samples import labelled, unlabelled
from dpcr.processes import rank_and_world
from dpcr.randomness import drawn_from, generator_of
from dpcr.study_data import Samples, taken
from dpcr.train_settings import WITHOUT_EFFECT, TrainConfig
from dpcr.training import train_task
from lipogram.analytic.labels import Label
from lipogram.errors import InvalidFeatures
from lipogram.settings import plain

LATE = 2**31  # where an epoch's number stands, for the random changes after all epochs


@dataclass(frozen=True, eq=False)
class TaskFit:
    """A task's samples and everything that they are learned by.

    Attributes:
        number: 0 for the first task.
        samples: n of them, as they are trained on. ``plain``: un-augmented.
        labels: (n,). ``slots``: (n,) columns of the training head.
        known, new: classes of earlier tasks and of this one, in the order of the head.
        network: as the last task left it, None in the first.
        config, augment, device, seed: see :class:`dpcr.DPCR`.
        augmented_statistics: whether shift and head see the samples as they are trained on.
        progress: told what is being done.
    """

    number: int
    samples: Samples
    plain: Samples
    labels: NDArray[Any]
    slots: NDArray[np.int64]
    known: list[Label]
    new: list[Label]
    network: CosineClassifier | None
    config: TrainConfig
    augment: Augment | None
    device: torch.device
    seed: int
    augmented_statistics: bool
    progress: Callable[[str], None]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells the task, and how its network is trained, from any other; JSON values."""
        held = asdict(self.config)
        if hasattr(self.plain, "set_epoch"):
            self.plain.set_epoch(0)
        with drawn_from(self.seed):  # a Dataset may draw
            data = data_digest(self.plain, np.arange(len(self.slots)), self.slots)
        return {
            "task": self.number,
            "classes": list(self.new),
            "data": data,
            "train": {k: v for k, v in held.items() if k not in WITHOUT_EFFECT},
        }

    @property
    def moves(self) -> bool:
        """Whether the network is trained at all: without a new class there is nothing to learn."""
        return bool(self.new)

    def untrained(self, backbone: nn.Module) -> CosineClassifier:
        """A copy of the network, or of the first task's backbone, with columns for the new classes.

        Raises:
            InvalidFeatures: the backbone makes no matrix (b, d).
        """
        generator = generator_of(self.seed, self.number)
        if self.network is not None:
            total = len(self.known) + len(self.new)
            return self.network.grown(total, generator=generator).to(self.device)
        fresh = copy.deepcopy(backbone).to(self.device)
        width = feature_width(fresh, taken(self.plain, np.arange(1)).to(self.device))
        scale = self.config.head_scale
        head = CosineHead(width, len(self.new), scale=scale, generator=generator)
        return joined(fresh, head).to(self.device)

    def train(self, network: CosineClassifier, checkpoint: Path | None) -> dict[str, Any]:
        """Train that copy, in place; what came of it.

        Raises:
            NotFinite, RunMismatch, CorruptState: see :func:`dpcr.training.train_task`.
        """
        rows = np.flatnonzero(self.slots >= len(self.known))
        report = train_task(
            network,
            self.samples,
            self.slots[rows],
            self.config,
            rows=rows,
            old=self.network,
            task=self.number,
            seed=self.seed,
            device=self.device,
            augment=self.augment,
            checkpoint=checkpoint,
            identity=self.identity if checkpoint is not None else None,
            progress=lambda line: self.progress(f"task {self.number + 1}: {line}"),
        )
        told: dict[str, Any] = plain(report.as_dict(), "training")
        return told

    def observe(self, network: CosineClassifier, calibrator: DriftCalibrator) -> DriftCalibrator:
        """A copy of a calibrator that has seen the task's samples, those of all processes.

        Raises:
            InvalidFeatures: NaN, infinity, or no matrix (b, d).
        """
        seen = copy.copy(calibrator).discard()
        rank, world = rank_and_world()
        options: dict[str, Any] = {
            "rows": np.arange(rank, len(self.labels), world),
            "workers": self.config.workers,
            "device": self.device,
            "numbers": (self.seed, self.number, LATE, rank),
        }
        for samples in (self.samples, self.plain):
            if hasattr(samples, "set_epoch"):
                samples.set_epoch(self.config.phase(self.number).epochs)
        new, old = network.backbone, self.network.backbone if self.network is not None else None
        both = [new] if old is None else [new, old.to(self.device)]

        def add(where: NDArray[np.int64], features: list[Tensor]) -> None:
            before = features[1] if len(features) > 1 else None
            seen.observe(before, features[0], self.labels[where])

        def add_new(where: NDArray[np.int64], features: list[Tensor]) -> None:
            seen.observe_new(features[0], self.labels[where])

        if not self.moves:
            show_features([new], self.plain, add_new, **options)
        elif self.augmented_statistics:
            show_features(both, self.samples, add, augment=self.augment, **options)
            show_features([new], self.plain, add_new, **options)
        else:
            show_features(both, self.plain, add, **options)
        return seen.all_reduce() if world > 1 else seen


def joined(backbone: nn.Module, head: CosineHead) -> CosineClassifier:
    """Backbone and head as one network; the head computes in the backbone's precision.

    In float32 where that is less: a head of half precision would not learn.
    """
    kinds = [p.dtype for p in backbone.parameters() if p.is_floating_point()]
    precise = torch.promote_types(kinds[0] if kinds else torch.float32, torch.float32)
    return CosineClassifier(backbone, head.to(precise))


def task_samples(train: Any, plain: Any) -> tuple[Samples, Samples, NDArray[Any]]:
    """Samples as they are trained on, the same un-augmented, and labels (n,).

    Raises:
        InvalidFeatures, InvalidLabels: see :func:`dpcr.labelled_samples.labelled`; or not as many
            un-augmented samples.
    """
    samples, labels = labelled(train)
    if plain is None:
        return samples, samples, labels
    shown = unlabelled(plain[0] if isinstance(plain, tuple | list) else plain, "plain")
    if len(shown) != len(labels):
        raise InvalidFeatures(f"{len(labels)} training samples, {len(shown)} of them un-augmented")
    return samples, shown, labels
