"""Which spans are in a message: by correlation, by least squares, by non-negative least squares.

The rules that need no knowledge of the noise. A message is a sum of a few of the bank's vectors,
scaled and noised, so what restores it in the server also tells its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from privacyrestore.server_view import ServerView
from privacyrestore.span_prior import SpanPrior

_SWEEPS = 500
_TOLERANCE = 1e-9


def dictionary(view: ServerView) -> Tensor:
    """[B, G]: the cosine of each vector of the bank with the message, up to the message's norm."""
    return view.correlations / view.rows.norm(dim=1)


def least_squares(view: ServerView) -> Tensor:
    """[B, G]: the weights a of least ‖Rᵀa − c‖, and of those the shortest."""
    return view.coordinates @ torch.linalg.pinv(view.rows)


def non_negative(view: ServerView) -> Tensor:
    """[B, G]: the weights a ≥ 0 of least ‖Rᵀa − c‖, by coordinate descent on the Gram matrix.

    Converges for any bank; where its vectors are dependent, to one of the solutions.
    """
    gram = view.gram
    weights = torch.zeros_like(view.correlations)
    slope = -view.correlations  # of half the squared error
    scale = view.correlations.abs().amax().clamp_min(1e-300)
    for _ in range(_SWEEPS):
        largest = torch.zeros((), dtype=torch.float64)
        for vector in range(len(gram)):
            curvature = gram[vector, vector]
            new = (weights[:, vector] - slope[:, vector] / curvature).clamp_min(0)
            step = new - weights[:, vector]
            weights[:, vector] = new
            slope.addr_(step, gram[vector])
            largest = torch.maximum(largest, (step.abs() * curvature).amax())
        if largest <= _TOLERANCE * scale:
            break
    return weights


def likeliest(scores: Tensor, groups: Tensor, prior: SpanPrior, sizes: Tensor) -> Tensor:
    """[B, M] bool: the guess of the given size that scores of the bank's vectors suggest.

    Vectors are taken by falling score, and of each the span that is most frequent before. Once all
    vectors are used, the second most frequent follow, and so on.

    Args:
        scores: [B, G] float64.
        groups: [M] int64, the vector of each span.
        prior: the attacker's.
        sizes: [B] int64, how many spans to guess.
    """
    place = _place_in_group(groups, prior)
    frequent = prior.frequencies.argsort(descending=True, stable=True)
    order = scores[:, groups[frequent]].argsort(dim=1, descending=True, stable=True)
    order = frequent[order]
    order = order.gather(1, place[order].argsort(dim=1, stable=True))
    chosen = torch.arange(len(groups)) < sizes[:, None]
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def _place_in_group(groups: Tensor, prior: SpanPrior) -> Tensor:
    """[M] int64: how many spans of the same vector are more frequent than each."""
    frequent = prior.frequencies.argsort(descending=True, stable=True)
    same = groups[frequent][:, None] == groups[frequent]
    place = torch.empty_like(groups)
    place[frequent] = same.tril(-1).sum(1)
    return place
