"""What a model must be for the gradient of one record to be cut without touching another's.

Everything is looked at before the first record is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from opacus.validators import ModuleValidator  # type: ignore[import-untyped]
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rewardds.errors import InadmissibleModel

HEADS = r"(^|\.)(lora_\w+|modules_to_save|score|head)(\.|$)"
"""Paths of adapters and of the heads on top of them."""


def admit(model: nn.Module, *, full: bool = False) -> None:
    """Let a model pass, or say all that stands in the way.

    Args:
        model: in any mode; it is not changed.
        full: whether parameters outside adapters and heads may be trained too.

    Raises:
        InadmissibleModel: nothing to train; batch normalisation, also frozen; a trainable parameter
            with two names, not in float32 or float64, or (without `full`) outside adapters and
            heads; gradient checkpointing; an auxiliary loss of a mixture of experts; a layer that
            Opacus cannot train; weights that are quantised and trainable.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise InadmissibleModel("no parameter of this model is trainable: put an adapter on it")
    found = [
        *_mixing(model),
        *_tied(model),
        *_recomputing(model),
        *_expert_losses(model),
        *_types(trainable),
        *_unsupported(model),
    ]
    outside = [name for name, _ in trainable if not re.search(HEADS, name)]
    if outside and not full:
        found.append(
            f"{_some(outside)} would be trained beside adapters and heads: freeze them, or ask for "
            "full=True (and grad='ghost')"
        )
    if found:
        raise InadmissibleModel("this model cannot be trained privately: " + "; ".join(found))


def _mixing(model: nn.Module) -> list[str]:
    named = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not named:
        return []
    return [f"{_some(named)} normalise over the records of a batch: use GroupNorm or LayerNorm"]


def _tied(model: nn.Module) -> list[str]:
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names[parameter.data_ptr(), parameter.shape].append(name)
    tied = [" = ".join(each) for each in names.values() if len(each) > 1]
    if not tied:
        return []
    return [f"{_some(tied)} are one parameter: freeze it, or load with tie_word_embeddings=False"]


def _recomputing(model: nn.Module) -> list[str]:
    on = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if not on:
        return []
    return [
        "gradient checkpointing runs layers twice, and their gradients are found for neither run: "
        "call model.gradient_checkpointing_disable() and take smaller physical batches"
    ]


def _expert_losses(model: nn.Module) -> list[str]:
    if not getattr(getattr(model, "config", None), "output_router_logits", False):
        return []
    return [
        "its experts are balanced by a loss over all records of a batch: set "
        "config.output_router_logits = False"
    ]


def _types(trainable: list[tuple[str, nn.Parameter]]) -> list[str]:
    wrong = [
        f"{name} ({str(p.dtype).removeprefix('torch.')})"
        for name, p in trainable
        if p.dtype not in (torch.float32, torch.float64)
    ]
    if not wrong:
        return []
    return [f"{_some(wrong)} must be float32 to be cut to a norm; frozen weights need not be"]


def _unsupported(model: nn.Module) -> list[str]:
    found = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own or isinstance(module, _BatchNorm):
            continue
        validator: Any = ModuleValidator.VALIDATORS.get(type(module))
        reasons = [str(error) for error in validator(module)] if validator else []
        if any(True for _ in module.buffers()):
            reasons.append("it has buffers")
        if reasons:
            found.append(f"{name} ({type(module).__name__}): {', '.join(reasons)}")
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
