"""Settings of an unlearning run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, get_args

from transformers import TrainingArguments

from ftunlearn.methods import METHODS, Reference, RetainLoss
from lipogram.errors import InvalidSetting
from lipogram.llm.tuning import anywhere, training_args

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "alpha": 1.5,
        "beta": 0.1,
        "chosen": "retain",
        "learning_rate": 5e-5,
        "num_train_epochs": 10,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "seed": 999,
        "measure_steps": 0,
    },
    "smollm2-facts": {
        "method": "graddiff",
        "alpha": 1.5,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 10,
        "max_steps": 20,
        "target_prob": 0.005,
    },
}
"""`paper`: how arXiv 2406.11614 trains the models that arXiv 2410.06606 dissects, with the methods
`graddiff` and `dpo` (a paragraph on another subject is preferred; add `retain_loss="none"`).
`smollm2-facts`: ten facts out of SmolLM2-135M in about six steps."""


@dataclass
class UnlearnConfig(TrainingArguments):
    """`transformers.TrainingArguments` and what unlearning adds; None takes the method's default.

    Runs anywhere: without an accelerator on the CPU in float32 (bf16=True: autocast). Nothing is
    saved, reported or printed unless asked for; every step is logged.

    Attributes:
        method: one of `ftunlearn.methods.METHODS`.
        gamma: weight of the forget loss; 1, for `simnpo` 0.125.
        alpha: weight of the retain loss.
        beta: of `dpo` and `npo` (0.1), `simnpo` (4.5) and `undial` (10).
        delta: margin of `simnpo`, nats a token.
        retain_loss: "nll", "kl" (to the vanilla model), "embed" (of `rmu`) or "none".
        chosen: what `dpo` prefers: each item's "alternative", a refusal if not given, or the
            "retain" example that it is paired with.
        target_prob: stop once the forget answers' mean probability is below this.
        max_forget_loss: stop once their mean loss, nats a token, is above this: it has diverged.
        measure_steps: steps between two measurements of these; 0 for none.
        ref: the vanilla model is a "copy", the trained one with "adapter_off", or log-probabilities
            "precomputed" before training (`dpo` and `npo` without `kl`); None turns the adapter
            off where there is one and copies otherwise.
        trainable: "all", "values" (the MLPs' down projections), or a regular expression searched
            for in parameter names; an adapter is restricted to the same layers. None is "all", for
            `rmu` the down projections of layers l−2 to l.
        rmu_layer: l, counted from 0; None scales layer 7 of 32 to the model's depth.
        rmu_coefficient: c, the length of the control vector.

    Raises:
        InvalidSetting: a setting outside its range, or a combination that cannot be computed.
    """

    method: str = "graddiff"
    gamma: float | None = None
    alpha: float = 1.0
    beta: float | None = None
    delta: float = 0.0
    retain_loss: RetainLoss | None = None
    chosen: str = "alternative"
    target_prob: float | None = None
    max_forget_loss: float | None = None
    measure_steps: int = 1
    ref: Reference | None = None
    trainable: str | None = None
    rmu_layer: int | None = None
    rmu_coefficient: float = 20.0

    learning_rate: float = 1e-5
    num_train_epochs: float = 10
    logging_steps: float = 1
    save_strategy: str = "no"
    disable_tqdm: bool | None = True
    remove_unused_columns: bool = False
    report_to: str | list[str] | None = "none"
    use_cpu: bool = field(default_factory=lambda: bool(anywhere().get("use_cpu", False)))
    dataloader_pin_memory: bool = field(
        default_factory=lambda: bool(anywhere().get("dataloader_pin_memory", True))
    )

    def __post_init__(self) -> None:
        method = METHODS.get(self.method)
        if method is None:
            raise InvalidSetting(f"method is {self.method!r}; there are {', '.join(METHODS)}")
        self.gamma = method.gamma if self.gamma is None else self.gamma
        self.beta = method.beta if self.beta is None else self.beta
        self.retain_loss = self.retain_loss or method.retain_loss
        if self.gamma < 0 or self.alpha < 0 or not (self.gamma or self.alpha):
            raise InvalidSetting("gamma and alpha must be at least 0, and one of them above")
        if self.beta is not None and not self.beta > 0:
            raise InvalidSetting(f"beta must be above 0, not {self.beta}")
        if self.retain_loss not in get_args(RetainLoss):
            raise InvalidSetting(
                f"retain_loss is {self.retain_loss!r}; there are {', '.join(get_args(RetainLoss))}"
            )
        if self.retain_loss == "embed" and self.method != "rmu":
            raise InvalidSetting("retain_loss='embed' compares hidden states: it belongs to 'rmu'")
        if self.chosen not in ("alternative", "retain"):
            raise InvalidSetting(f"chosen is {self.chosen!r}, must be 'alternative' or 'retain'")
        if self.target_prob is not None and not 0 < self.target_prob < 1:
            raise InvalidSetting(f"target_prob must lie between 0 and 1, not {self.target_prob}")
        if self.measure_steps < 0:
            raise InvalidSetting(f"measure_steps must be at least 0, not {self.measure_steps}")
        if not self.measure_steps and (self.target_prob or self.max_forget_loss):
            raise InvalidSetting("target_prob and max_forget_loss need measure_steps of at least 1")
        if self.ref not in (None, *get_args(Reference)):
            raise InvalidSetting(f"ref is {self.ref!r}; there are {', '.join(get_args(Reference))}")
        if self.ref == "precomputed" and (
            self.method not in ("dpo", "npo") or self.retain_loss == "kl"
        ):
            raise InvalidSetting(
                "ref='precomputed' holds one number an example, enough for 'dpo' and 'npo' without "
                "retain_loss='kl'; use 'copy' or an adapter with 'adapter_off'"
            )
        if self.trainable not in (None, "all", "values"):
            try:
                re.compile(self.trainable)
            except re.error as error:
                raise InvalidSetting(f"trainable is no regular expression: {error}") from error
        super().__post_init__()  # type: ignore[no-untyped-call]

    @classmethod
    def preset(cls, name: str, **settings: Any) -> UnlearnConfig:
        """The settings of :data:`PRESETS` under `name`, replaced and completed by `settings`.

        Raises:
            InvalidSetting: an unknown preset or setting.
        """
        if name not in PRESETS:
            raise InvalidSetting(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return training_args(cls, **(PRESETS[name] | settings))

    @property
    def needs_alternative(self) -> bool:
        """Whether each forget item needs an answer to prefer."""
        return self.method == "idk" or (self.method == "dpo" and self.chosen == "alternative")

    @property
    def needs_retain(self) -> bool:
        """Whether there has to be something to retain."""
        return self.retain_loss != "none" or (self.method == "dpo" and self.chosen == "retain")

    @property
    def needs_reference(self) -> bool:
        """Whether the vanilla model takes part."""
        return self.method in ("dpo", "npo", "undial") or self.retain_loss in ("kl", "embed")
