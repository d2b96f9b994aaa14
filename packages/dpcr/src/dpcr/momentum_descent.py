"""Stochastic gradient descent with momentum, as ``torch.optim.SGD`` computes it.

That one loads torch's compiler with its first step: six seconds of computing, which is longer than
a small network trains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MomentumDescent:
    """Steps ``v ← m v + (∇ + w θ)``, ``θ ← θ − lr v`` for all parameters that have a gradient.

    Args:
        parameters: θ by name. ``momentum``: m. ``weight_decay``: w.

    Attributes:
        velocities: v by name, of the parameters that have been moved.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, momentum: float, weight_decay: float
    ) -> None:
        self.parameters = dict(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move along the present gradients."""
        moved = {n: p for n, p in self.parameters.items() if p.grad is not None}
        if not moved:
            return
        values = [p.detach() for p in moved.values()]
        gradients = [p.grad for p in moved.values() if p.grad is not None]
        pulls = torch._foreach_add(gradients, values, alpha=self.weight_decay)
        for name, pull in zip(moved, pulls, strict=True):
            if name not in self.velocities:
                self.velocities[name] = torch.zeros_like(pull)
        velocities = [self.velocities[name] for name in moved]
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, pulls)
        torch._foreach_add_(values, velocities, alpha=-lr)
