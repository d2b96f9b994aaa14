"""Gradients of single records and their norms, layer by layer, beside what Opacus has of them.

A linear layer's gradient of record i is G_iᵀA_i, with its output gradients G_i (t, o) and inputs
A_i (t, d). Its squared norm is ⟨G_iG_iᵀ, A_iA_iᵀ⟩ (t² numbers) or that of G_iᵀA_i itself (o·d
numbers); the smaller is formed, as in Bu et al., "Scalable and Efficient Training of Large
Convolutional Neural Networks with Differential Privacy", NeurIPS 2022 (mixed ghost clipping).

A norm that is too small lets a record's gradient pass the clipping norm, so squares are added by
`Tensor.sum`, which adds in pairs: on a CPU `vector_norm` and `einsum` add one after the other, and
of two million squares in float32 miss 1e-4 and 1e-3 of the norm.
"""

from __future__ import annotations

from typing import Any

from opacus.grad_sample import (  # type: ignore[import-untyped]
    GradSampleHooks,
    GradSampleHooksFastGradientClipping,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ROUNDING = 2.0**-23
"""Of the sum of magnitudes, what rounding may take from a sum of products that nearly cancel."""


def squared_norms(samples: Tensor) -> Tensor:
    """(b,) float32 or float64 squared norms of (b, ...)."""
    kept = samples if samples.element_size() >= 4 else samples.float()
    return kept.square().flatten(1).sum(1)


def linear_norms(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """(b,) norms of the gradients of a weight (o, d) or, in GPT-2, (d, o), and of a bias (o,).

    Args:
        layer: `nn.Linear` or GPT-2's `Conv1D`.
        activations: of the inputs (b, ..., d), the first.
        backprops: (b, ..., o).
    """
    found: dict[Any, Tensor] = {}
    gradients = _by_position(backprops)
    if layer.weight.requires_grad:
        inputs = _by_position(activations[0].to(backprops.dtype))
        found[layer.weight] = _product_norms(gradients, inputs)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = squared_norms(gradients.sum(1)).sqrt()
    return found


def conv1d_samples(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[Any, Tensor]:
    """(b, d, o) and (b, o): gradients of GPT-2's `Conv1D`; arguments as above."""
    found: dict[Any, Tensor] = {}
    gradients = _by_position(backprops)
    if layer.weight.requires_grad:
        found[layer.weight] = _by_position(activations[0].to(backprops.dtype)).mT @ gradients
    if layer.bias.requires_grad:
        found[layer.bias] = gradients.sum(1)
    return found


def _by_position(values: Tensor) -> Tensor:
    """(b, t, d) of (b, ..., d)."""
    return values.flatten(1, -2) if values.ndim > 2 else values[:, None]


def _product_norms(gradients: Tensor, inputs: Tensor) -> Tensor:
    """(b,) Frobenius norms of gradients[i]ᵀ inputs[i], for (b, t, o) and (b, t, d)."""
    t = gradients.shape[1]
    if gradients.shape[2] * inputs.shape[2] <= t * t:
        return squared_norms(gradients.mT @ inputs).sqrt()
    products = (gradients @ gradients.mT).mul_(inputs @ inputs.mT).flatten(1)
    return (products.sum(1) + ROUNDING * products.abs().sum(1)).clamp(min=0).sqrt()


SAMPLES = GradSampleHooks.GRAD_SAMPLERS | {Conv1D: conv1d_samples}
NORMS = GradSampleHooksFastGradientClipping.NORM_SAMPLERS | {
    nn.Linear: linear_norms,
    Conv1D: linear_norms,
}
