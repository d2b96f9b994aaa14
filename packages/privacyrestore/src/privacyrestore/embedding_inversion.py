"""Embedding inversion: weights of spans whose signal looks like the message, by gradient descent.

The weights are relaxed to a simplex by a softmax and reproduce the message through the client's own
arithmetic, so that any such arithmetic can be inverted, also the per-head one of the authors' code,
for which least squares has no closed form (arXiv 2406.01394, section 6, names such an attack).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lipogram.errors import InvalidSetting
from lipogram.llm import rng
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server_view import ServerView

_RATE = 0.2
_SPREAD = 0.5
_BETAS = (0.9, 0.999)


def inverted(view: ServerView, *, steps: int = 150, restarts: int = 2, seed: int = 0) -> Tensor:
    """[B, G] float64: simplex weights a that maximise ⟨c, Rᵀa⟩ / ‖Rᵀa‖.

    For a fixed message that is to minimise ‖c − ẑ(a)‖.

    Args:
        view: of B messages.
        steps: of Adam, from 0.2 falling to 0.
        restarts: starts of each message: even weights, and random ones; the best end counts.
        seed: of the random starts.

    Raises:
        InvalidSetting: steps or restarts below 1.
    """

    def likeness(weights: Tensor) -> Tensor:
        dot = (weights * view.correlations).sum(-1)
        squared = ((weights @ view.gram) * weights).sum(-1)
        return dot / squared.clamp_min(1e-12).sqrt()

    return _ascended(likeness, view.correlations.shape, steps, restarts, seed)


def inverted_per_head(
    bank: RestorationBank,
    messages: Tensor,
    *,
    steps: int = 150,
    restarts: int = 2,
    seed: int = 0,
) -> Tensor:
    """[B, G] float64: weights for messages whose part at each head has length 1, as the authors'.

    Their evaluation divides each head's Σ w_j r_jk by its own norm; such a message does not lie in
    the bank's span. Maximises Σ_k ⟨y_k, ẑ_k(a)⟩.

    Args:
        bank: public.
        messages: [B, n].
        steps: as :func:`inverted`.
        restarts: as there.
        seed: as there.

    Raises:
        InvalidSetting: messages of another width, or as :func:`inverted`.
    """
    if messages.ndim != 2 or messages.shape[1] != bank.n:
        raise InvalidSetting(f"messages must be [B, {bank.n}], got {list(messages.shape)}")
    heads = bank.sites_of(messages.double())
    vectors = bank.vectors.double()

    def likeness(weights: Tensor) -> Tensor:
        signals = torch.einsum("...g,gkd->...kd", weights, vectors)
        return (normalize(signals, dim=-1) * heads).sum((-1, -2))

    return _ascended(likeness, torch.Size([len(messages), len(vectors)]), steps, restarts, seed)


def _ascended(
    likeness: Callable[[Tensor], Tensor], shape: torch.Size, steps: int, restarts: int, seed: int
) -> Tensor:
    if steps < 1 or restarts < 1:
        raise InvalidSetting(f"steps {steps} and restarts {restarts} must be at least 1")
    free = _SPREAD * torch.randn(
        restarts, *shape, generator=rng("inversion", seed), dtype=torch.float64
    )
    free[0] = 0
    # Adam by hand: importing torch.optim's compiles for longer than all of this takes.
    mean, square = torch.zeros_like(free), torch.zeros_like(free)
    for step in range(1, steps + 1):
        with torch.enable_grad():
            free.requires_grad_()
            (slope,) = torch.autograd.grad(likeness(free.softmax(-1)).sum(), free)
        free = free.detach()
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * slope
        square = _BETAS[1] * square + (1 - _BETAS[1]) * slope.square()
        scale = (square / (1 - _BETAS[1] ** step)).sqrt() + 1e-12
        rate = _RATE * (1 - (step - 1) / steps)
        free = free + rate * mean / (1 - _BETAS[0] ** step) / scale
    with torch.no_grad():
        weights = free.softmax(-1)
        best = likeness(weights).argmax(0)
        return weights[best, torch.arange(shape[0])]
