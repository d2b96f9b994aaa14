"""A test part for what is published without one."""

import numpy as np
from numpy.typing import NDArray

from lipogram.errors import InvalidSetting


def held_out(labels: NDArray[np.int64], *, test_share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) True for what is tested on: the same share of each class, at least one.

    Args:
        labels: (n,) classes.
        test_share: share of each class.
        seed: of the draw.

    Raises:
        InvalidSetting: a share outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise InvalidSetting(f"test_share is {test_share}, it must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: max(1, round(test_share * len(members)))]] = True
    return test
