"""What a guarantee for one record is worth for someone who has several.

Computed from the mechanisms, not by multiplying ε: how many of a group's records a Poisson sample
holds is binomial, and the privacy loss of that mixture is composed like any other
(:mod:`rewardds.privacy_loss`). It is also what clipping a record's pairs one by one really costs:
k pairs of a record are a group of k.
"""

from __future__ import annotations

from collections.abc import Sequence

from lipogram.analytic.settings import positive
from rewardds.accounting import epsilon
from rewardds.privacy_loss import AnyRelease

SIZES = (1, 2, 5, 10)


def group_epsilons(
    releases: Sequence[AnyRelease], delta: float, sizes: Sequence[int] = SIZES
) -> dict[int, float]:
    """ε at δ of all releases together for groups of so many records.

    Raises:
        InvalidSetting: a δ outside (0, 1), a size that is no whole number from 1.
    """
    return {size: epsilon(releases, delta, group=size) for size in sizes}


def largest_group(
    releases: Sequence[AnyRelease], delta: float, limit: float, *, most: int = 64
) -> int:
    """How many records someone may have and still be protected at an ε of `limit`; 0 for none.

    Args:
        releases: mechanisms on the same records.
        delta: δ.
        limit: ε, above 0.
        most: where the search ends.

    Raises:
        InvalidSetting: as above; a limit not above 0.
    """
    positive("limit", limit)

    def protected(size: int) -> bool:
        return epsilon(releases, delta, group=size) <= limit

    low, high = 0, 1
    while high <= most and protected(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if protected(middle) else (low, middle)
    return low
