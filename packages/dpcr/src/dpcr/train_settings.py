"""How a backbone is trained: one set of numbers for the first task, one for each later one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lipogram.analytic.settings import flag, one_of, positive, whole
from lipogram.errors import InvalidSetting

Schedule = Literal["milestones", "cosine"]
WITHOUT_EFFECT = ("workers", "checkpoint_every")  # on what comes out


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Stochastic gradient descent on one task.

    Attributes:
        epochs: passes over the task's samples.
        lr: learning rate at the start.
        milestones: epochs at which it is multiplied by ``decay``.
        decay: that factor.
        weight_decay: of all weights.
        schedule: ``"milestones"``, or ``"cosine"``: half a cosine down to 0, step by step.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...]
    decay: float
    weight_decay: float
    schedule: Schedule

    def rate(self, epoch: int, progress: float) -> float:
        """The learning rate in an epoch (from 0), of which a share ``progress`` is done."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (epoch + progress) / self.epochs)) / 2
        return float(self.lr * self.decay ** sum(epoch >= each for each in self.milestones))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training; the defaults are those of DPCR (He et al., ICML 2025) for CIFAR-100.

    Attributes:
        first_epochs, first_lr, first_milestones, first_decay, first_weight_decay: see
            :class:`Phase`, of the first task.
        epochs, lr, milestones, decay, weight_decay: of each later task.
        schedule: of both; ``"cosine"`` needs no milestones and suits few epochs.
        momentum: in [0, 1).
        batch_size: samples to a step over all processes; a task's are dealt out evenly, so no
            batch is larger, and none a small rest.
        lam: weight λ of the distillation, at least 0.
        temperature: τ of its softmax.
        head_scale: initial scale of the cosine head, see :class:`dpcr.cosine_head.CosineHead`.
        amp: let the backbone compute in bfloat16 while it is trained.
        workers: processes that read and decode samples of a Dataset; 0 for none.
        checkpoint_every: epochs between two checkpoints within a task; 0 for none.

    Raises:
        InvalidSetting: a setting outside its range, by name.
    """

    first_epochs: int = 200
    first_lr: float = 0.1
    first_milestones: tuple[int, ...] = (60, 120, 160)
    first_decay: float = 0.1
    first_weight_decay: float = 5e-4
    epochs: int = 100
    lr: float = 0.05
    milestones: tuple[int, ...] = (45, 90)
    decay: float = 0.1
    weight_decay: float = 2e-4
    schedule: Schedule = "milestones"
    momentum: float = 0.9
    batch_size: int = 128
    lam: float = 10.0
    temperature: float = 2.0
    head_scale: float = 1.0
    amp: bool = False
    workers: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("first_epochs", "epochs", "batch_size"):
            whole(name, getattr(self, name))
        for name in ("workers", "checkpoint_every"):
            whole(name, getattr(self, name), least=0)
        for name in ("first_lr", "lr", "first_decay", "decay", "temperature", "head_scale"):
            positive(name, getattr(self, name))
        for name in ("first_weight_decay", "weight_decay", "lam"):
            _not_negative(name, getattr(self, name))
        if _not_negative("momentum", self.momentum) >= 1:
            raise InvalidSetting(f"momentum is {self.momentum}, it must be below 1")
        one_of("schedule", self.schedule, get_args(Schedule))
        flag("amp", self.amp)
        for name in ("first_milestones", "milestones"):
            epochs = tuple(getattr(self, name))  # a list, where it comes from JSON
            for each in epochs:
                whole(f"an epoch of {name}", each)
            object.__setattr__(self, name, epochs)

    def phase(self, task: int) -> Phase:
        """What applies to a task, 0 for the first."""
        prefix = "" if task else "first_"
        names = ("epochs", "lr", "milestones", "decay", "weight_decay")
        own = {name: getattr(self, prefix + name) for name in names}
        return Phase(**own, schedule=self.schedule)


def _not_negative(name: str, value: Any) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else positive(name, value)
