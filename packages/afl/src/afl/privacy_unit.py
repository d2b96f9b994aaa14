"""What a release hides: one row, or all that a client has.

**row**: neighbours differ by one row, added or removed. It moves ``(half of G, B·Q, B²·counts)`` by
``√(B⁴ + B²·B² + B⁴) = √3·B²`` at most, since half of a symmetric matrix, each entry once, is no
longer than the whole.

**client**: neighbours differ by all rows of one client, there or not. Its vector is scaled down to
a public length C where it is longer, so C is the most that it moves a sum. A vector of n rows is no
longer than ``n·√3·B²``: C of that size leaves clients of n rows as they are. Scaling by f weighs
each row of the client by f, in G, Q and counts alike, so that a head from scaled sums is the head
of weighted rows; counts are then no whole numbers, and are carried as weights.

Scaling to a length is a projection onto a ball and brings no two vectors further apart. What hides
clients thus hides their rows too: one row moves it by ``min(√3·B², 2C)`` at most. What hides rows
bounds nothing for a client, who may have any number of them.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from afl.client_stats import ClientStats
from afl.joint_vector import check_unweighted, clip_of, joint_vector
from lipogram.analytic.settings import one_of, positive
from lipogram.errors import InvalidSetting

Unit = Literal["row", "client"]
SAFE = 1 - 1e-9  # scaled vectors stay below the bound whatever their norm was rounded to


def sensitivity_of(clip: float) -> float:
    """Most by which one row of norm ``clip`` or less moves ``(half of G, B·Q, B²·counts)``."""
    return math.sqrt(3.0) * clip**2


def check_unit(unit: str, bound: float | None) -> None:
    """Raise InvalidSetting unless a bound comes with the unit client, and only with it."""
    one_of("unit", unit, get_args(Unit))
    if unit == "client":
        if bound is None:
            raise InvalidSetting("to hide a client, name the bound on the length of its sums")
        positive("bound", bound)
    elif bound is not None:
        raise InvalidSetting("a bound on a client's sums is for the unit client")


def moves(unit: str, clip: float, bound: float | None = None) -> dict[str, float]:
    """Most by which one row, and one client, moves what hides a unit; ∞ where nothing bounds it.

    Args:
        unit: row or client.
        clip: B.
        bound: C, for clients.

    Raises:
        InvalidSetting: see :func:`check_unit`.
    """
    check_unit(unit, bound)
    if bound is None:
        return {"row": sensitivity_of(clip), "client": math.inf}
    return {"row": min(sensitivity_of(clip), 2 * bound), "client": bound}


def norm_of(stats: ClientStats) -> float:
    """Length of ``(half of G, B·Q, B²·counts)``.

    Raises:
        InvalidSetting: see :func:`afl.joint_vector.clip_of`.
    """
    return float(np.linalg.norm(joint_vector(stats, stats.classes)))


def bounded(stats: ClientStats, bound: float) -> ClientStats:
    """One client's statistics with a vector of length ``bound`` at most.

    Longer ones are scaled down: G, Q and the weights of the rows by one factor; the number of rows
    stays.

    Args:
        stats: of one client, pooled, with a clip, of rows without weights.
        bound: C > 0, the same for all clients.

    Raises:
        InvalidSetting: a bound that is not positive, no clip, weights, or noise.
    """
    positive("bound", bound)
    clip_of(stats)
    check_unweighted(stats)
    norm = norm_of(stats)
    if norm <= bound * SAFE:
        return stats
    factor = bound * SAFE / norm
    made = type(stats).from_parts(
        stats.gram_packed * factor,
        stats.cross * factor,
        stats.counts,
        stats.classes,
        n_features=stats.n_features,
        mass=stats.mass * factor,
        space=stats.space,
        clip=stats.clip,
        feature_map=stats.feature_map,
    )
    made.rounding = stats.rounding
    return made
