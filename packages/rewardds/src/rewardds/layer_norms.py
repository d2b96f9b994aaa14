"""Norms of single records' gradients, layer by layer, without the gradients where that is cheaper.

A linear layer's gradient of record i is G_iᵀA_i, with its output gradients G_i (t, o) and inputs
A_i (t, d). Its squared norm is ⟨G_iG_iᵀ, A_iA_iᵀ⟩ (t² numbers) or that of G_iᵀA_i itself (o·d
numbers); the smaller is formed, as in Bu et al., "Scalable and Efficient Training of Large
Convolutional Neural Networks with Differential Privacy", NeurIPS 2022 (mixed ghost clipping).
"""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def linear_norms(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """(b,) norms of the gradients of a weight (o, d) or, in GPT-2, (d, o), and of a bias (o,).

    Args:
        layer: `nn.Linear` or GPT-2's `Conv1D`.
        activations: of the inputs (b, ..., d), the first.
        backprops: (b, ..., o).
    """
    found: dict[Any, Tensor] = {}
    gradients = backprops.flatten(1, -2) if backprops.ndim > 2 else backprops[:, None]
    if layer.weight.requires_grad:
        inputs = activations[0].to(backprops.dtype)
        inputs = inputs.flatten(1, -2) if inputs.ndim > 2 else inputs[:, None]
        found[layer.weight] = _product_norms(gradients, inputs)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = torch.linalg.vector_norm(gradients.sum(1), dim=1)
    return found


def _product_norms(gradients: Tensor, inputs: Tensor) -> Tensor:
    """(b,) Frobenius norms of gradients[i]ᵀ inputs[i], for (b, t, o) and (b, t, d)."""
    t = gradients.shape[1]
    if gradients.shape[2] * inputs.shape[2] <= t * t:
        return torch.linalg.vector_norm(gradients.mT @ inputs, dim=(1, 2))
    products = (gradients @ gradients.mT) * (inputs @ inputs.mT)
    return products.sum((1, 2)).clamp(min=0).sqrt()


NORMS = GradSampleHooksFastGradientClipping.NORM_SAMPLERS | {
    nn.Linear: linear_norms,
    Conv1D: linear_norms,
}
