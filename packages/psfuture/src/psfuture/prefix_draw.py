"""How many words a training sentence is cut after."""

from __future__ import annotations

import math
import random
import re

from lipogram.errors import InvalidSetting

_FRACTION = re.compile(r"fraction:(0?\.\d+|1(?:\.0*)?)")


def draw_prefix(dist: str, source: int, target: int, key: str) -> int:
    """Number of source words j that a sentence is cut after.

    Args:
        dist: "uniform": j ~ U{1..n}. "multipath": what a wait-k reader has read at some target
            word, j = min(n, k + t - 1) with k ~ U{1..n}, t ~ U{1..m} (Elbayad et al. 2020).
            "fraction:F": always the first F of the words, rounded up, 0 < F <= 1.
        source: words n of the source, at least 1.
        target: words m of the target, at least 1.
        key: what the draw depends on, and nothing else.

    Raises:
        InvalidSetting: another `dist`.
    """
    drawn = random.Random(key)
    if dist == "uniform":
        return drawn.randint(1, source)
    if dist == "multipath":
        return min(source, drawn.randint(1, source) + drawn.randint(1, target) - 1)
    found = _FRACTION.fullmatch(dist)
    if found is None or not float(found[1]):
        raise InvalidSetting(
            f"prefix_dist is {dist!r}; there are uniform, multipath and fraction:F with 0 < F <= 1"
        )
    return max(1, math.ceil(float(found[1]) * source))
