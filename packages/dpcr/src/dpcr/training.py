"""Training on one task: the same samples in the same order, whoever asks and however often.

The order of the samples is a function of (seed, task, epoch), as is every random number that
layers, augmentation or a Dataset draw from torch's generators in this process. So a training that
was cut off and goes on from a checkpoint ends, on a CPU, with the same bits. With
``torch.distributed`` set up, every process takes its share of each batch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from dpcr.cosine_head import CosineClassifier
from dpcr.data_parallel import Processes
from dpcr.distillation import incremental_losses
from dpcr.momentum_descent import MomentumDescent
from dpcr.randomness import drawn_from, generator_of
from dpcr.sample_batches import SampleBatches
from dpcr.study_data import Samples
from dpcr.train_settings import WITHOUT_EFFECT
from dpcr.train_settings import Phase as Phase
from dpcr.train_settings import TrainConfig as TrainConfig
from dpcr.training_state import TrainingState
from lipogram.errors import InvalidFeatures, InvalidLabels, NotFinite

Augment = Callable[[Tensor, torch.Generator], Tensor]


class AtChance(UserWarning):
    """A network that after its first task answers no better than the largest class would."""


@dataclass(frozen=True)
class TrainReport:
    """What came of a training.

    Attributes:
        samples: number of samples.
        epochs: passes over them.
        losses: mean loss of each epoch, as it was trained.
        accuracies: of each epoch, among the task's own classes, as it was trained.
        seconds: of all epochs, those before an interruption included.
    """

    samples: int
    epochs: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def train_task(
    network: CosineClassifier,
    samples: Samples,
    slots: NDArray[Any],
    config: TrainConfig,
    *,
    rows: NDArray[Any] | None = None,
    old: CosineClassifier | None = None,
    task: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> TrainReport:
    """Train a network on one task, in place; it is left in eval mode on ``device``.

    BatchNorm is in train mode, so its running statistics move as well.

    Args:
        network: backbone and a head that has the task's classes already.
        samples: a tensor (N, …) or a Dataset; one that has ``set_epoch`` is told each epoch.
        slots: (n,) columns of the head.
        config: the settings.
        rows: (n,) positions of the samples that belong to the task; None for all.
        old: the network before the task, whose scores are distilled; None in the first.
        task: its number, 0 for the first.
        seed: of everything that is drawn.
        device: where to train.
        augment: changes a batch (b, …) on ``device`` at random, drawing from a CPU generator.
        checkpoint: file for every ``config.checkpoint_every`` epochs; one that is there is gone on
            from. All processes must see it.
        identity: JSON values that a checkpoint has to agree with, besides task, seed and settings.
        progress: told of each epoch.

    Raises:
        InvalidFeatures: no samples, or not as many as labels.
        InvalidLabels: a column that the head does not have.
        NotFinite: the loss is NaN or infinite; the network is of no more use.
        RunMismatch: the checkpoint is of another training.
        CorruptState: it is damaged.
    """
    rows = np.arange(len(samples)) if rows is None else np.asarray(rows)
    slots = np.asarray(slots, dtype=np.int64)
    known = 0 if old is None else old.head.n_classes
    _check(rows, slots, known, network.head.n_classes)
    device = torch.device(device)
    network.to(device)
    if old is not None:
        old.to(device).eval()
    phase = config.phase(task)
    descent = MomentumDescent(
        dict(network.named_parameters()), momentum=config.momentum, weight_decay=phase.weight_decay
    )
    decisive = {k: v for k, v in asdict(config).items() if k not in WITHOUT_EFFECT}
    told = {**(identity or {}), "task": task, "seed": seed, "train": decisive}
    state = TrainingState(network, descent, told)
    if checkpoint is not None and checkpoint.is_file():
        state.load(checkpoint)
    loop = _Loop(network, old, descent, phase, config, (seed, task), device, augment)
    while state.epoch < phase.epochs:
        start = time.perf_counter()
        loss, accuracy = loop.epoch(state.epoch, samples, rows, torch.from_numpy(slots))
        if not np.isfinite(loss):
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)  # going on from it would end here again
            raise NotFinite(
                f"the loss is {loss} in epoch {state.epoch + 1} of task {task}: lower the learning "
                f"rate ({phase.lr}) or look for NaN in the samples"
            )
        state.add(loss, accuracy, time.perf_counter() - start)
        progress(f"epoch {state.epoch} of {phase.epochs}: loss {loss:.3f}, accuracy {accuracy:.3f}")
        due = config.checkpoint_every and state.epoch % config.checkpoint_every == 0
        if checkpoint is not None and due and not loop.processes.rank:
            state.save(checkpoint)
    network.eval()
    if not known:
        _warn_at_chance(state.accuracies[-1], slots)
    return TrainReport(
        len(rows), phase.epochs, tuple(state.losses), tuple(state.accuracies), state.seconds
    )


class _Loop:
    """Steps over a task's samples, this process's share of them."""

    def __init__(
        self,
        network: CosineClassifier,
        old: CosineClassifier | None,
        descent: MomentumDescent,
        phase: Phase,
        config: TrainConfig,
        numbers: tuple[int, int],
        device: torch.device,
        augment: Augment | None,
    ) -> None:
        self.network, self.old, self.descent = network, old, descent
        self.phase, self.config, self.numbers = phase, config, numbers
        self.device, self.augment = device, augment
        self.processes = Processes()
        self.processes.begin(network)

    def epoch(
        self, epoch: int, samples: Samples, rows: NDArray[Any], slots: Tensor
    ) -> tuple[float, float]:
        """One pass: mean loss and accuracy over all processes."""
        numbers = (*self.numbers, epoch)
        rank, world = self.processes.rank, self.processes.world
        order = np.random.default_rng(numbers).permutation(len(rows))
        batches = np.array_split(order, -(-len(order) // self.config.batch_size))
        shares = [batch[rank::world] for batch in batches]
        # A process without a share takes part with a sample of weight 0: the others wait for it.
        shown = [s if len(s) else b[:1] for s, b in zip(shares, batches, strict=True)]
        if hasattr(samples, "set_epoch"):
            samples.set_epoch(epoch)
        total = torch.zeros(3, dtype=torch.float64, device=self.device)
        generator = generator_of(*numbers, rank)
        with drawn_from(*numbers, rank, device=self.device):  # dropout knows no other generator
            loaded = self._loaded(samples, [rows[each] for each in shown], generator)
            for step, x in enumerate(loaded):
                y = slots[torch.from_numpy(shown[step])].to(self.device)
                counted = float(len(shares[step]) > 0)
                lr = self.phase.rate(epoch, step / len(batches))
                weight = counted / len(batches[step])
                total += counted * self._step(x, y, weight, lr, generator)
        self.processes.average_statistics(self.network)
        loss, hits, new = self.processes.add(total).tolist()
        return loss / len(rows), hits / new if new else 1.0

    def _step(
        self, x: Tensor, y: Tensor, weight: float, lr: float, generator: torch.Generator
    ) -> Tensor:
        """Sums over the batch: losses, right answers among the new classes, samples of those."""
        x = x.to(self.device, non_blocking=True)
        if self.augment is not None:
            x = self.augment(x, generator)
        _train_mode(self.network, len(x))
        config = self.config
        scores = self.network(x, amp=config.amp)
        kept = None
        if self.old is not None:
            with torch.no_grad():
                kept = self.old(x, amp=config.amp)
        losses = incremental_losses(scores, y, kept, lam=config.lam, temperature=config.temperature)
        self.descent.clear()
        (losses.sum() * weight).backward()
        self.processes.add_gradients(self.descent.parameters.values())
        self.descent.step(lr)
        known = 0 if kept is None else kept.shape[1]
        new = y >= known
        hits = torch.zeros_like(new)
        if known < scores.shape[1]:
            hits = scores.detach()[:, known:].argmax(1) + known == y
        return torch.stack([each.detach().double().sum() for each in (losses, hits, new)])

    def _loaded(
        self, samples: Samples, batches: list[NDArray[Any]], generator: torch.Generator
    ) -> DataLoader[Tensor]:
        return DataLoader(
            SampleBatches(samples, batches),
            batch_size=None,
            num_workers=0 if isinstance(samples, Tensor) else self.config.workers,
            pin_memory=self.device.type == "cuda",
            generator=generator,
        )


def _train_mode(network: nn.Module, n: int) -> None:
    network.train()
    if n == 1:  # one sample has no variance
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _check(rows: NDArray[Any], slots: NDArray[Any], known: int, classes: int) -> None:
    if not len(rows):
        raise InvalidFeatures("there is no sample to train on")
    if slots.shape != (len(rows),):
        raise InvalidFeatures(f"{len(rows)} samples, labels {slots.shape}")
    if slots.min() < 0 or slots.max() >= classes or known > classes:
        raise InvalidLabels(
            f"columns {slots.min()} to {slots.max()} were given, the head has {classes} classes "
            f"and the one before {known}: grow it first"
        )


def _warn_at_chance(accuracy: float, slots: NDArray[Any]) -> None:
    share = np.bincount(slots).max() / len(slots)
    bound = share + 2 * np.sqrt(share * (1 - share) / len(slots))
    if accuracy <= bound < 1:
        warnings.warn(
            f"after the first task {accuracy:.1%} of its own training samples are answered right, "
            f"and the largest class alone makes {share:.1%}: nothing was learned. Raise the "
            "learning rate, the epochs or head_scale, and look at samples and labels",
            AtChance,
            stacklevel=3,
        )
