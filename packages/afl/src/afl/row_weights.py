"""Weights of rows by class, decided when a head is solved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from afl.client_stats import ClientStats
from lipogram.analytic.labels import Label
from lipogram.errors import InvalidSetting


def row_weights(
    stats: ClientStats, class_weight: str | Mapping[Label, float]
) -> NDArray[np.float64]:
    """Weight of a row of each class, (k,).

    Args:
        stats: with one second moment a class.
        class_weight: a weight for each label, or ``"balanced"`` for ``n / (k N_y)``.

    Raises:
        InvalidSetting: pooled statistics, a class without a weight, or another name.
    """
    if not stats.per_class:
        raise InvalidSetting(
            "class weights need one second moment a class: clients send them with per_class=True"
        )
    counts = stats.counts
    if class_weight == "balanced":
        seen = max(int((counts > 0).sum()), 1)
        return np.where(counts > 0, counts.sum() / (seen * np.maximum(counts, 1)), 0.0)
    if not isinstance(class_weight, Mapping):
        raise InvalidSetting(
            f'class_weight is {class_weight!r}, it must be "balanced" or a weight a class'
        )
    missing = [label for label in stats.classes if label not in class_weight]
    if missing:
        raise InvalidSetting(f"there is no weight for class {missing[0]!r}")
    return np.array([class_weight[label] for label in stats.classes], dtype=float)
