"""How far unlearning moved the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import PatchMismatch, UnsupportedArchitecture
from lipogram.llm.architecture import Architecture, GroupParameter, describe
from lipogram.llm.wrappers import is_adapted

MEASURED = ("values", "keys", "attn_qk", "attn_vo", "norms", "embed", "head")


def weight_change(vanilla: Any, unlearned: Any) -> dict[str, float]:
    """Mean relative change ‖W' − W‖/‖W‖ (Frobenius) over the tensors of each parameter group.

    Args:
        vanilla: the model before.
        unlearned: the model after; or a PEFT model whose adapter is the change, over `vanilla`.

    Returns:
        By group; a group that shares its tensors with another (tied embeddings) or that the
        architecture cannot tell apart is left out.

    Raises:
        PatchMismatch: an adapter whose change of the weights cannot be written as a sum.
    """
    before, after = describe(vanilla), describe(unlearned)
    deltas = _adapter_deltas(unlearned)
    found: dict[str, float] = {}
    for group in MEASURED:
        if group == "head" and before.tied:
            continue
        try:
            pairs = list(zip(before.parameters(group), after.parameters(group), strict=True))
        except UnsupportedArchitecture:
            continue
        changes = []
        for first, second in pairs:
            norm = float(first.value.float().norm())
            if norm:
                changes.append(float(_change(first, second, deltas).norm()) / norm)
        if changes:
            found[group] = float(np.mean(changes))
    return found


def value_vector_change(vanilla: Any, unlearned: Any) -> dict[str, dict[str, float]]:
    """How far the value vectors of each layer moved (arXiv 2406.11614, §4).

    Returns:
        {layer: {"cosine": mean cosine similarity of the m value vectors before and after, "lowest
        cosine": of the one that turned most, "distance": mean L2 distance}}; empty for mixtures of
        experts, whose value vectors are spread.

    Raises:
        PatchMismatch: see :func:`weight_change`.
    """
    before, after = describe(vanilla), describe(unlearned)
    deltas = _adapter_deltas(unlearned)
    found = {}
    for layer in range(before.n_layers if before.mlp_width else 0):
        first, second = (_values(architecture, layer) for architecture in (before, after))
        change = _change(first, second, deltas)
        old = first.value.float()
        axis = 1 if first.dim == 1 else 0  # a value vector is a column; in a Conv1D a row
        cosine = torch.cosine_similarity(old, old + change, dim=axis)
        found[str(layer)] = {
            "cosine": float(cosine.mean()),
            "lowest cosine": float(cosine.min()),
            "distance": float(change.norm(dim=axis).mean()),
        }
    return found


def _values(architecture: Architecture, layer: int) -> GroupParameter:
    parameters = architecture.parameters("values", [layer])
    return next(parameter for parameter in parameters if parameter.parameter.ndim == 2)


def _change(first: GroupParameter, second: GroupParameter, deltas: dict[str, Tensor]) -> Tensor:
    change = second.value.float() - first.value.float()
    delta = deltas.get(first.name)
    if delta is None:
        return change
    if first.index is not None:
        delta = delta.index_select(first.dim, first.index.to(delta.device))
    return change + delta.float()


def _adapter_deltas(model: Any) -> dict[str, Tensor]:
    """What adapters add to each weight, by the weight's name."""
    return dict(_deltas(model)) if hasattr(model, "peft_config") else {}


def _deltas(model: Any) -> Iterator[tuple[str, Tensor]]:
    for part in describe(model).parts("all"):
        module: Any = part.module
        if not is_adapted(module):
            continue
        if any(getattr(module, "use_dora", {}).values()) or not hasattr(module, "get_delta_weight"):
            raise PatchMismatch(
                f"{part.name}: this adapter ({type(module).__name__}) does not simply add to the "
                "weights; merge it into a model of its own to compare weights"
            )
        total = sum(module.get_delta_weight(name) for name in module.active_adapters)
        yield f"{part.name}.weight", total.detach()
