"""What noisy statistics say about their noise: made, read with suspicion, and joined.

A claim names the unit that is hidden (a row or a client), ε, δ and the σ of the noise on ``(half of
G, B·Q, B²·counts)``. Two further facts go with some: ``bound``, C, where the unit is a client, and
``shares``, m, where the noise is a sum of shares: then the claim holds against whoever sees only
the sum, if m or more of those who are in it added their share and tell it to nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from afl.errors import RejectedUpload
from lipogram.analytic.settings import one_of, positive, whole
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import LARGEST_MU, delta_of, epsilon_of, mu_of

Claim = dict[str, Any]
NUMBERS = ("epsilon", "delta", "sigma")


def claim_of(
    unit: str,
    epsilon: float,
    delta: float,
    sigma: float,
    *,
    shares: int | None = None,
    bound: float | None = None,
) -> Claim:
    """A claim as JSON values."""
    made: Claim = {"unit": unit, "epsilon": epsilon, "delta": delta, "sigma": sigma}
    if bound is not None:
        made["bound"] = bound
    if shares is not None:
        made["shares"] = shares
    return made


def read_claim(told: Any, clip: float | None) -> Claim | None:
    """A claim that came with a message, if it can be true.

    Whether the noise was added cannot be seen; that so little of it is not worth what is claimed
    can: ``δ`` of a Gaussian release with the told σ must be no more than the told one.

    Args:
        told: what came.
        clip: B of the statistics.

    Raises:
        RejectedUpload: no claim, or one that its own σ belies.
    """
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise RejectedUpload("what the message claims about its noise is malformed")
    try:
        numbers = [positive(name, told[name]) for name in NUMBERS]
        unit = one_of("unit", told["unit"], ("row", "client"))
        bound = positive("bound", told["bound"]) if unit == "client" else None
        shares = whole("shares", told["shares"]) if "shares" in told else None
    except (InvalidSetting, KeyError):
        raise RejectedUpload("what the message claims about its noise is malformed") from None
    claim = claim_of(unit, *numbers, shares=shares, bound=bound)
    if set(claim) != set(told) or clip is None or claim["delta"] >= 1:
        raise RejectedUpload("what the message claims about its noise is malformed")
    sensitivity = bound if bound is not None else math.sqrt(3.0) * clip**2
    mu = sensitivity / claim["sigma"]
    if mu > LARGEST_MU * (1 + 1e-9) or delta_of(mu * (1 - 1e-9), claim["epsilon"]) > claim["delta"]:
        raise RejectedUpload(
            f"noise of σ {claim['sigma']:g} does not give a {unit} the claimed ε "
            f"{claim['epsilon']:g} at δ {claim['delta']:g}"
        )
    return claim


def joint_claim(claims: Iterable[Claim | None]) -> Claim | None:
    """What a sum of different rows (of different clients, where these are hidden) claims.

    Each unit lies in one part, so the weakest part speaks for all: the largest ε, δ, bound and
    number of shares. None where a part claims nothing, or the parts hide different units.
    """
    parts = list(claims)
    held = [part for part in parts if part is not None]
    if not held or len(held) < len(parts) or len({part["unit"] for part in held}) > 1:
        return None
    made = claim_of(
        held[0]["unit"],
        max(part["epsilon"] for part in held),
        max(part["delta"] for part in held),
        math.hypot(*(part["sigma"] for part in held)),
    )
    for fact in ("bound", "shares"):
        if any(fact in part for part in held):
            made[fact] = max(part.get(fact, 0) for part in held)
    return made


def composed_claim(claims: Iterable[Claim]) -> Claim | None:
    """What several releases of one client's data, each of which hides the client, claim together.

    Gaussian releases compose to ``μ = √Σμ_i²``; ε is told at the largest δ.
    """
    held = list(claims)
    joint = joint_claim(held)
    if joint is None or len(held) == 1:
        return joint
    mu = math.hypot(*(mu_of(part["epsilon"], part["delta"]) for part in held))
    if mu > LARGEST_MU:
        return None
    return joint | {"epsilon": max(joint["epsilon"], epsilon_of(mu, joint["delta"]))}
