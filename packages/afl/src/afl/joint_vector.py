"""The one vector on which noise lies: ``(half of G, B·Q, B²·counts)`` for rows of norm B or less.

With these factors a row of norm B weighs alike in all three parts, ``B²`` in each, and noise of one
standard deviation hides them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from afl.client_stats import ClientStats
from lipogram.analytic.labels import Label
from lipogram.errors import IncompatibleFeatures, InvalidSetting

Vector = NDArray[np.float64]


def clip_of(stats: ClientStats) -> float:
    """B of statistics that noise can hide.

    Raises:
        InvalidSetting: no clip, one second moment a class, or noise that is there already.
    """
    if stats.clip is None:
        raise InvalidSetting("noise hides rows of a known size: make the statistics with a clip")
    if stats.per_class or stats.noise is not None:
        raise InvalidSetting("noise is for pooled statistics of unweighted rows, and once")
    return stats.clip


def check_unweighted(stats: ClientStats) -> None:
    """Raise InvalidSetting where rows have weights: one row may weigh anything then."""
    if (stats.mass != stats.counts).any():
        raise InvalidSetting("noise is for pooled statistics of unweighted rows, and once")


def joint_vector(stats: ClientStats, classes: Sequence[Label]) -> Vector:
    """``(half of G, B·Q, B²·counts)``, (d(d+1)/2 + dk + k,) float64.

    Q lies class after class, each (d,). Weighted rows count by their weights.

    Args:
        stats: pooled, with a clip.
        classes: k labels, in the order of the vector.

    Raises:
        InvalidSetting: see :func:`clip_of`.
        IncompatibleFeatures: a class that is not in the list.
    """
    clip, labels = clip_of(stats), list(classes)
    if outside := [label for label in stats.classes if label not in labels]:
        raise IncompatibleFeatures(f"class {outside[0]!r} is not in the list of classes")
    sums, counts = np.zeros((len(labels), stats.n_features)), np.zeros(len(labels))
    where = [labels.index(label) for label in stats.classes]
    sums[where], counts[where] = stats.sums.cpu().numpy(), stats.mass
    return np.concatenate([stats.gram_packed.numpy(), clip * sums.ravel(), clip**2 * counts])


def from_joint_vector(
    values: Vector, classes: Sequence[Label], *, n_features: int, clip: float, **facts: Any
) -> ClientStats:
    """Statistics of a noisy vector; counts become whole numbers of at least 0.

    Args:
        values: see :func:`joint_vector`.
        classes: k labels.
        n_features: d.
        clip: B.
        facts: space, feature_map and noise of :class:`ClientStats`.
    """
    d, labels = n_features, list(classes)
    half = d * (d + 1) // 2
    of_gram, of_sums, of_counts = np.split(values, [half, half + d * len(labels)])
    return ClientStats.from_parts(
        torch.from_numpy(of_gram),
        torch.from_numpy(of_sums.reshape(len(labels), d) / clip).T,
        np.rint(of_counts / clip**2).clip(min=0).astype(np.int64),
        labels,
        n_features=d,
        clip=clip,
        **facts,
    )
