"""How far two next-token distributions are apart; rows of probabilities in, one number a row out.

All are computed in the precision of their input, which is float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from lipogram.errors import InvalidSetting

Divergence = Callable[[Tensor, Tensor], Tensor]
TOP = 10


def cosine(p: Tensor, q: Tensor) -> Tensor:
    """1 - cos(p, q), of non-negative vectors in [0, 1]: the paper's distance (section 3.2).

    Written as half the squared distance of the unit vectors, which loses no digits where both point
    the same way.
    """
    unit_p = p / p.norm(dim=-1, keepdim=True)
    unit_q = q / q.norm(dim=-1, keepdim=True)
    return 0.5 * (unit_p - unit_q).square().sum(-1)


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, in [0, 1] (Lin 1991)."""
    middle = 0.5 * (p + q)
    return (0.5 * (_relative(p, middle) + _relative(q, middle)) / math.log(2)).clamp(0, 1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of p from q in nats, from 0; q is kept above 1e-12."""
    return _relative(p, q.clamp_min(1e-12)).clamp_min(0)


def tv(p: Tensor, q: Tensor) -> Tensor:
    """Total variation, half the L1 distance, in [0, 1]."""
    return 0.5 * (p - q).abs().sum(-1)


def l2(p: Tensor, q: Tensor) -> Tensor:
    """Euclidean distance, in [0, sqrt(2)]."""
    return (p - q).norm(dim=-1)


def agree(p: Tensor, q: Tensor) -> Tensor:
    """0 where both have the same most probable token, else 1."""
    return (p.argmax(-1) != q.argmax(-1)).to(p.dtype)


def topk_cosine(p: Tensor, q: Tensor) -> Tensor:
    """Cosine distance over the tokens that are among the ten most probable of either."""
    k = min(TOP, p.shape[-1])
    kept = (p >= p.topk(k).values[..., -1:]) | (q >= q.topk(k).values[..., -1:])
    return cosine(p * kept, q * kept)


def _relative(p: Tensor, q: Tensor) -> Tensor:
    return (p.xlogy(p) - p.xlogy(q)).sum(-1)


RANGES: dict[str, tuple[Divergence, float]] = {
    "cosine": (cosine, 1.0),
    "js": (js, 1.0),
    "kl": (kl, math.inf),
    "tv": (tv, 1.0),
    "l2": (l2, math.sqrt(2)),
    "agree": (agree, 1.0),
    "topk_cosine": (topk_cosine, 1.0),
}


def divergence(name: str | Divergence) -> Divergence:
    """A divergence by its name; a function of two (B, V) tensors is itself.

    Raises:
        InvalidSetting: an unknown name; the message lists those there are.
    """
    if callable(name):
        return name
    if name not in RANGES:
        raise InvalidSetting(f"no divergence {name!r}; there are {', '.join(RANGES)}")
    return RANGES[name][0]


def check_threshold(name: str | Divergence, threshold: float) -> None:
    """A threshold that the divergence can reach, or a negative one (never write early).

    Raises:
        InvalidSetting: NaN, or above the divergence's range.
    """
    highest = math.inf if callable(name) else RANGES[name][1]
    if math.isnan(threshold) or threshold > highest:
        raise InvalidSetting(
            f"the threshold is {threshold}; {name if isinstance(name, str) else 'this divergence'} "
            f"reaches from 0 to {highest:.4g}, and below 0 nothing is written before the end"
        )
