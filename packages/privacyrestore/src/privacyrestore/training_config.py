"""Settings of a bank's training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from lipogram.errors import InvalidSetting
from privacyrestore.training_rows import PromptTemplate

Objective = Literal["orpo-lm", "gold"]
Metric = Literal["loss", "rouge-l", "mc1"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults are those of PrivacyRestore's scripts where it has them.

    Attributes:
        objective: "orpo-lm", see :mod:`~privacyrestore.training_objective`; "gold" is −p̄(a) alone,
            for rows without the model's own answers.
        alpha: weight of the preference in "orpo-lm".
        detach: gradient through the last factor only, as the authors; False for all of it.
        learning_rate: of AdamW at the first step; it falls to 0 as a half cosine over the steps.
        weight_decay: of AdamW.
        epochs: passes over the rows; the last step of each may hold fewer.
        batch_size: rows of a forward pass.
        accumulation: forward passes of a step, over all processes together.
        metric: what is measured on held-out rows and selected by. "loss": the objective, lower is
            better; "rouge-l": F of restored greedy answers against `preferred`; "mc1": share of
            rows whose gold option is the likeliest.
        eval_every: steps between two measurements; None for an epoch.
        patience: measurements without a better one after which training ends; None for never.
        max_new_tokens: of the answers for "rouge-l".
        save_every: steps between two checkpoints.
        template: how a question is put.
        seed: of the rows' order.

    Raises:
        InvalidSetting: a value outside its range, by name.
    """

    objective: Objective = "orpo-lm"
    alpha: float = 1.0
    detach: bool = True
    learning_rate: float = 1e-4
    weight_decay: float = 1e-3
    epochs: int = 5
    batch_size: int = 4
    accumulation: int = 1
    metric: Metric = "rouge-l"
    eval_every: int | None = None
    patience: int | None = None
    max_new_tokens: int = 256
    save_every: int = 50
    template: PromptTemplate = field(default_factory=PromptTemplate)
    seed: int = 42

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("metric", Metric)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise InvalidSetting(f"{name} is {getattr(self, name)!r}; there are {known}")
        for name in ("epochs", "batch_size", "accumulation", "max_new_tokens", "save_every"):
            self._check_count(name)
        for name in ("eval_every", "patience"):
            if getattr(self, name) is not None:
                self._check_count(name)
        for name in ("alpha", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidSetting(f"{name} is {getattr(self, name)}, it must be at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidSetting(f"learning_rate is {self.learning_rate}, it must be above 0")

    @property
    def rows_a_step(self) -> int:
        """Rows that an optimiser step sees."""
        return self.batch_size * self.accumulation

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`; 0 after the last."""
        return self.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidSetting(f"{name} is {value!r}, it must be a whole number above 0")
