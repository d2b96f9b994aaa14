"""Poisson samples of records, cut into batches that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipogram.discrete_gaussian import Stream
from lipogram.secure_noise import bernoulli


def sample(stream: Stream, size: int, rate: float) -> list[int]:
    """Places below `size`, each taken or not by a coin of its own, in order; possibly none.

    Args:
        stream: random words that nobody else can know.
        size: records at hand.
        rate: probability of each coin, in [0, 1].

    Raises:
        InvalidSetting: a rate outside [0, 1].
    """
    return [int(place) for place in np.flatnonzero(bernoulli(stream, size, rate))]


def physical_batches(places: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """The places of one sample in batches of at most `size`, alike in length: little padding.

    A sum over records does not depend on how they are cut, so neither does privacy.

    Args:
        places: of the sampled records.
        lengths: tokens of every record, sampled or not.
        size: records a batch, at least 1.
    """
    ordered = sorted(places, key=lambda place: -lengths[place])
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
