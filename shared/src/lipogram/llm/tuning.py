"""What training with transformers, PEFT and TRL needs to work anywhere, a CPU included."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch

from lipogram.errors import InvalidSetting, MissingExtra
from lipogram.llm.architecture import describe

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import TrainingArguments

Arguments = TypeVar("Arguments", bound="TrainingArguments")
Target = Literal["all-linear", "attn", "mlp"]

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "warmup_ratio": "warmup_steps",
}


def training_args(cls: type[Arguments], **settings: Any) -> Arguments:
    """Arguments of a trainer that run on this machine and report to no service.

    Without an accelerator training runs on the CPU in float32; `bf16=True` asks for autocast there.
    Names that transformers has given up, such as `gradient_checkpointing`, are taken for the new.

    Args:
        cls: `TrainingArguments`, or TRL's `SFTConfig`, `DPOConfig`, ...
        settings: of `cls`.

    Raises:
        InvalidSetting: a setting that `cls` does not have, or an old and a new name of one.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    chosen: dict[str, Any] = {}
    for name, value in settings.items():
        new = _RENAMED.get(name, name)
        current = new if new in known else name  # before the renaming
        if current not in known:
            raise InvalidSetting(f"{cls.__name__} has no setting {name!r}")
        if current in chosen:
            raise InvalidSetting(f"{name!r} and {new!r} are one setting: give one of them")
        chosen[current] = value
    if "activation_checkpointing" in known and "gradient_checkpointing" in known:
        # TRL sets its default under the old name, of which transformers then warns.
        default = bool(known["gradient_checkpointing"].default)
        chosen.setdefault("activation_checkpointing", default)
    return cls(**(anywhere() | chosen))


def anywhere() -> dict[str, Any]:
    """Settings of any `TrainingArguments` that suit this machine: no service, no missing device."""
    settings: dict[str, Any] = {"report_to": "none"}
    if not torch.accelerator.is_available():
        settings |= {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    return settings


def lora_config(
    model: Any, r: int = 8, alpha: int = 16, dropout: float = 0.0, target: Target = "all-linear"
) -> LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on a model's linear layers, the head left out.

    Args:
        model: the model that will be wrapped.
        r: rank, at least 1.
        alpha: an adapter is scaled by alpha / r.
        dropout: on its input, in [0, 1).
        target: every linear layer of the blocks, or those of attention or of the MLP.

    Raises:
        InvalidSetting: a setting outside its range.
        MissingExtra: peft is not installed.
        UnsupportedArchitecture: "attn" or "mlp" for a model that cannot be described.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", "pip install peft") from error
    if r < 1 or alpha < 1 or not 0 <= dropout < 1:
        raise InvalidSetting(
            f"r = {r}, alpha = {alpha}, dropout = {dropout}: r >= 1, alpha >= 1, 0 <= dropout < 1"
        )
    if target not in get_args(Target):
        raise InvalidSetting(f"target is {target!r}; there are {', '.join(get_args(Target))}")
    conv1d = any(type(module).__name__ == "Conv1D" for module in model.modules())
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target if target == "all-linear" else _linear(model, target),
        fan_in_fan_out=conv1d,
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
    )


def prepare_lora(model: Any, config: LoraConfig, *, checkpointing: bool) -> PeftModel:
    """Put a fresh adapter on `model`, in place; only the adapter is then trainable.

    Args:
        model: its own weights stay as they are, bit for bit.
        config: see :func:`lora_config`.
        checkpointing: whether activation checkpointing will be on. The input of the first block
            then has to require gradients, or nothing below the last recomputed block would train.

    Raises:
        MissingExtra: peft is not installed.
    """
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise MissingExtra("peft", "pip install peft") from error
    from lipogram.llm.quiet import quiet

    with quiet():
        adapted = get_peft_model(model, config)
    if checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def _linear(model: Any, group: str) -> list[str]:
    """Paths, inside a block, of the matrices of a group; PEFT matches them as endings."""
    architecture = describe(model)
    parts = architecture.parts(group, range(architecture.n_layers))
    matrices = [part for part in parts if getattr(part.module, "weight", torch.empty(0)).ndim == 2]
    return sorted({re.sub(r"^.*?\.\d+\.", "", part.name) for part in matrices})
