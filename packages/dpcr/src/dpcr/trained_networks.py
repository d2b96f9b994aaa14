"""One backbone trained task by task, each task's network kept on disk and trained but once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpcr.checkpoints import data_digest, load_module, module_tensors
from dpcr.cosine_head import CosineClassifier, CosineHead, feature_width
from dpcr.randomness import generator_of
from dpcr.study_data import StudyData, taken
from dpcr.train_settings import WITHOUT_EFFECT, TrainConfig
from dpcr.training import train_task
from dpcr.training_state import check_identity
from lipogram.analytic.labels import LabelIndex
from lipogram.analytic.scenarios import Task
from lipogram.analytic.state import read_state, write_state

KIND = "dpcr-network"
HELD = 2  # networks in memory beside the first task's


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network at the end of a task, in eval mode.

    Attributes:
        backbone: samples (n, …) to features (n, d), on its device.
        head: features to scores, columns in order of exposure.
        report: what came of the training, see :class:`dpcr.training.TrainReport`.
    """

    backbone: nn.Module
    head: CosineHead
    report: dict[str, Any]

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Scores (n, k) float32 on the CPU of features (n, d)."""
        scores: Tensor = self.head(features.to(self.head.weight.device)).float().cpu()
        return scores


class TrainedNetworks:
    """The networks of a stream of tasks, made when asked for.

    Args:
        folder: where they are kept, ``task-0.safetensors`` and so on; made if it is not there.
        data: the initial network and the samples.
        tasks: the stream.
        config: how to train.
        seed: of everything that is drawn.
        device: where to train, and where the networks are.
        progress: told of each epoch.
    """

    def __init__(
        self,
        folder: str | Path,
        data: StudyData,
        tasks: Sequence[Task],
        config: TrainConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.progress = progress
        self.folder, self.data, self.tasks, self.config = Path(folder), data, tuple(tasks), config
        self.seed, self.device = seed, torch.device(device)
        self._held: dict[int, TrainedNetwork] = {}
        self._digests: dict[int, str] = {}

    def after(self, task: int) -> TrainedNetwork:
        """The network at the end of a task: from memory, from disk, or trained now.

        Raises:
            RunMismatch: the folder holds networks of other data or settings.
            CorruptState: a file in it is damaged.
            NotFinite: the training came to NaN.
        """
        if task not in self._held:
            path = self.folder / f"task-{task}.safetensors"
            made = self._read(path, task) if path.is_file() else self._train(path, task)
            late = sorted(set(self._held) - {0, task})
            for each in late[: max(0, len(late) + 1 - HELD)] if task else ():
                del self._held[each]
            self._held[task] = made
        return self._held[task]

    def identity(self, task: int) -> dict[str, Any]:
        """JSON values that say what a task's network comes from; equal ones give equal networks."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in WITHOUT_EFFECT}
        told = "".join(self._digest(t) for t in range(task + 1))
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        return {"data": self.data.name, "seed": self.seed, "samples": digest, "train": settings}

    def _digest(self, task: int) -> str:
        if task not in self._digests:
            rows = self.tasks[task].train
            self._digests[task] = data_digest(self.data.train, rows, self._slots(task))
        return self._digests[task]

    def _slots(self, task: int) -> NDArray[np.int64]:
        index = LabelIndex(self.tasks[task].seen)
        return index.plan(self.data.train_labels[self.tasks[task].train])[0]

    def _train(self, path: Path, task: int) -> TrainedNetwork:
        old = None
        generator = generator_of(self.seed, task)
        if task:
            before = self.after(task - 1)
            old = CosineClassifier(before.backbone, before.head)
            network = old.grown(len(self.tasks[task].seen), generator=generator)
        else:
            network = self._first(generator)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.training.safetensors")
        identity = self.identity(task)
        report = train_task(
            network,
            self.data.train if self.data.augmented is None else self.data.augmented,
            self._slots(task),
            self.config,
            rows=self.tasks[task].train,
            old=old,
            task=task,
            seed=self.seed,
            device=self.device,
            augment=self.data.augment,
            checkpoint=part,
            identity=identity,
            progress=lambda line: self.progress(f"task {task + 1} of {len(self.tasks)}, {line}"),
        ).as_dict()
        described = {"kind": KIND, "identity": identity, "report": report}
        write_state(path, module_tensors(network), described)
        part.unlink(missing_ok=True)
        return TrainedNetwork(network.backbone, network.head, report)

    def _read(self, path: Path, task: int) -> TrainedNetwork:
        tensors, described = read_state(path)
        check_identity(path, KIND, described, self.identity(task))
        network = self._first(torch.Generator(), len(self.tasks[task].seen))
        load_module(network, tensors)
        network.to(self.device).eval()
        return TrainedNetwork(network.backbone, network.head, dict(described["report"]))

    def _first(self, generator: torch.Generator, n_classes: int | None = None) -> CosineClassifier:
        backbone = self.data.network(self.seed)
        sample = taken(self.data.train, self.tasks[0].train[:1])
        head = CosineHead(
            feature_width(backbone, sample),
            len(self.tasks[0].seen) if n_classes is None else n_classes,
            scale=self.config.head_scale,
            generator=generator,
        )
        return CosineClassifier(backbone, head)
