"""Long-tailed subsets of a data set."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.sample_labels import sample_labels
from lipogram.analytic.scenarios.class_order import ClassOrder, class_order, rows_by_class
from lipogram.analytic.scenarios.task import Indices
from lipogram.errors import InvalidSetting

Profile = Literal["exp", "step"]


def long_tailed_counts(
    n_classes: int, n_max: int, rho: float, profile: Profile = "exp"
) -> NDArray[np.int64]:
    r"""Class sizes of a long tail, largest first.

    Exponential: :math:`n_i = \max(1, \lfloor n_{max}\,\rho^{-i/(K-1)} \rfloor)`, `i` = 0..K-1.
    Step: the first :math:`\lceil K/2 \rceil` classes keep :math:`n_{max}`, the others
    :math:`\max(1, \lfloor n_{max}/\rho \rfloor)`.

    Args:
        n_classes: K, at least 1.
        n_max: size of the largest class, at least 1.
        rho: imbalance, the largest size over the smallest, at least 1.
        profile: "exp" or "step".

    Returns:
        (K,) int64.

    Raises:
        InvalidSetting: an argument outside these bounds.

    Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    arXiv 1906.07413, section 4.
    """
    if n_classes < 1 or n_max < 1:
        raise InvalidSetting(f"n_classes and n_max must be >= 1, got {n_classes} and {n_max}")
    if not (np.isfinite(rho) and rho >= 1):
        raise InvalidSetting(f"rho must be a finite ratio of largest to smallest >= 1, got {rho}")
    if profile == "exp":
        exponent = np.arange(n_classes) / max(n_classes - 1, 1)
    elif profile == "step":
        exponent = (np.arange(n_classes) >= (n_classes + 1) // 2).astype(np.float64)
    else:
        raise InvalidSetting(f"profile must be 'exp' or 'step', got {profile!r}")
    # The margin keeps a whole number whole where a platform's pow() is one unit short of it.
    sizes = np.floor(n_max / np.float64(rho) ** exponent * (1 + 1e-12))
    return np.maximum(sizes, 1).astype(np.int64)


def long_tailed(
    labels: ArrayLike,
    *,
    rho: float,
    profile: Profile = "exp",
    order: ClassOrder = None,
    n_max: int | None = None,
    seed: int = 0,
) -> Indices:
    """Positions to keep so that class sizes follow :func:`long_tailed_counts`.

    Compose it with a stream: `[task.within(kept) for task in class_incremental(labels[kept], …)]`.

    Args:
        labels: (n,) integers or strings.
        rho: imbalance, the largest class over the smallest.
        profile: "exp" or "step".
        order: which class becomes the largest, which the next, …: None for sorted classes,
            "descending" or "ascending" by present size, "shuffled", or the classes.
        n_max: size of the largest class; None takes the largest that every class can follow.
        seed: of the order when shuffled, and of the choice of samples within a class.

    Returns:
        Sorted int64 positions.

    Raises:
        InvalidLabels: labels that are neither integers nor strings, or none.
        InvalidSetting: a bad `rho`, `profile` or `order`, or an `n_max` too large for a class.
    """
    array = sample_labels(labels)
    rng = np.random.default_rng(seed)
    ordered = class_order(array, order, rng)
    rows = rows_by_class(array)
    available = np.array([len(rows[label]) for label in ordered])
    largest = int(available[0]) if n_max is None else n_max
    counts = long_tailed_counts(len(ordered), largest, rho, profile)
    while n_max is None and (counts > available).any():
        largest -= 1
        counts = long_tailed_counts(len(ordered), largest, rho, profile)
    for label, size, count in zip(ordered, available, counts, strict=True):
        if count > size:
            raise InvalidSetting(
                f"n_max={n_max} asks for {count} samples of class {label!r}, which has {size}: "
                "lower n_max or leave it out"
            )
    kept = [
        rng.permutation(rows[label])[:count] for label, count in zip(ordered, counts, strict=True)
    ]
    return np.sort(np.concatenate(kept))
