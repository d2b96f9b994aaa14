"""Settings of a Prefix-to-Full training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from lipogram.errors import InvalidSetting
from psfuture.prefix_draw import draw_prefix
from psfuture.units import Unit, check_unit

Objective = Literal["p2f", "ce", "multipath"]
Targets = Literal["model", "reference"]


@dataclass(frozen=True, kw_only=True)
class P2FSettings:
    """How to train.

    Attributes:
        objective: "p2f": the loss of the full sentence plus `weight` times that of a cut one.
            "ce": the full sentence alone, the control. "multipath": wait-k with a k drawn for each
            batch (Elbayad et al. 2020).
        targets: what is learnt: the "model"'s own greedy translation of the full source, so that
            only what a prefix is translated into changes; or the pairs' "reference".
        steps: optimiser steps.
        weight: w of the cut sentences.
        full_loss: whether the full sentence counts too; False leaves w times the cut ones.
        learning_rate: at its peak; it rises linearly over the first `warmup` of the steps and falls
            linearly to 0.
        warmup: fraction of the steps, in [0, 1).
        tokens: target tokens of a step, padding included.
        longest: tokens of either side; pairs with more are left out.
        prefix_dist: see :func:`psfuture.p2f_batches.draw_prefix`.
        prefix_eos: whether cut sources are closed with the end of sentence.
        unit: of what sentences are cut into, see :mod:`psfuture.units`.
        unidirectional: for "multipath": the encoder does not look ahead.
        freeze_embeddings: leave the embeddings as they are.
        held_out: pairs at the end of the list to measure both losses on, and not to train on.
        save_every: steps between two checkpoints.
        log_every: steps between two events.
        threads: of torch on the CPU; None leaves what is set. Runs are equal bit for bit for equal
            numbers of threads.
        seed: of batches and prefixes.

    Raises:
        InvalidSetting: a value outside its range, by name.
    """

    objective: Objective = "p2f"
    targets: Targets = "model"
    steps: int = 120
    weight: float = 1.0
    full_loss: bool = True
    learning_rate: float = 1e-4
    warmup: float = 0.1
    tokens: int = 256
    longest: int = 100
    prefix_dist: str = "uniform"
    prefix_eos: bool = True
    unit: Unit = "word"
    unidirectional: bool = False
    freeze_embeddings: bool = True
    held_out: int = 200
    save_every: int = 25
    log_every: int = 10
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("targets", Targets)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise InvalidSetting(f"{name} is {getattr(self, name)!r}; there are {known}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise InvalidSetting(f"{field.name} is {value!r}, must be True or False")
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
                raise InvalidSetting(f"{field.name} is {value!r}, must be a whole number")
        for name in ("steps", "tokens", "longest", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("held_out", "seed"):
            if getattr(self, name) < 0:
                raise InvalidSetting(f"{name} is {getattr(self, name)}, must be at least 0")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise InvalidSetting(f"threads is {self.threads!r}, must be at least 1, or None")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InvalidSetting(f"weight is {self.weight}, must be finite and at least 0")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidSetting(f"learning_rate is {self.learning_rate}, must be above 0")
        if not 0 <= self.warmup < 1:
            raise InvalidSetting(f"warmup is {self.warmup}, must be in [0, 1)")
        if self.objective == "p2f" and not self.full_loss and not self.weight:
            raise InvalidSetting("full_loss=False and weight=0 leave nothing to learn")
        if self.unidirectional and self.objective != "multipath":
            raise InvalidSetting("unidirectional belongs to objective='multipath'")
        draw_prefix(self.prefix_dist, 1, 1, "")
        check_unit(self.unit)

    @property
    def prefix_weight(self) -> float:
        """w, which is 0 for the objectives that know no cut sentences."""
        return self.weight if self.objective == "p2f" else 0.0
