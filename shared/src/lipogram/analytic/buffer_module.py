"""Feature maps as float32 modules, in the part of Python that TorchScript understands."""

import torch
from torch import Tensor, nn


class RandomMap(nn.Module):
    """``φ(z B)`` of a :class:`lipogram.analytic.buffer.RandomBuffer`."""

    weight: Tensor

    def __init__(self, weight: Tensor, activation: str) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d_in) to (n, d_out)."""
        projected = features @ self.weight
        if self.activation == "relu":
            return torch.relu(projected)
        if self.activation == "gelu":
            return torch.nn.functional.gelu(projected)
        if self.activation == "tanh":
            return torch.tanh(projected)
        return projected


class GaussianMap(nn.Module):
    """Kernel features of a :class:`lipogram.analytic.buffer.GaussianKernelBuffer`."""

    centres: Tensor

    def __init__(self, centres: Tensor, sigma: float) -> None:
        super().__init__()
        self.register_buffer("centres", centres)
        self.precision = 1 / (2 * sigma**2)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d_in) to (n, m)."""
        norms = features.square().sum(1, keepdim=True) + self.centres.square().sum(1)
        squared = norms - 2 * features @ self.centres.T
        return torch.exp(-self.precision * torch.relu(squared))
