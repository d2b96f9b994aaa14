"""How much one row of each class weighs in the loss: rules from class sizes to weights.

The analytic imbalance rectifier (AIR; Fang et al., arXiv 2408.10349) uses ``π_y = 1/N_y``: every
class
that was seen contributes equally. The other rules are its neighbours: ``N_y^-β`` reaches from plain
ridge (β = 0) to AIR (β = 1), and the effective number of samples ``(1 − b)/(1 − b^N_y)`` is that of
Cui et al. (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.labels import Label
from lipogram.errors import InvalidSetting

Rule = str | float | Mapping[Label, float] | Callable[[NDArray[np.float64]], NDArray[np.float64]]
Normalise = Literal["seen", "slots", "none"]


def class_weights(
    sizes: NDArray[np.float64],
    rule: Rule = "balanced",
    *,
    classes: Sequence[Label] = (),
    min_count: float = 1,
) -> NDArray[np.float64]:
    """Weight π_y of one row of each class, (k,); 0 for a class without rows.

    Args:
        sizes: N_y (k,), rows of each class (summed sample weights where rows are weighted).
        rule: ``"balanced"`` for 1/N, ``"none"`` for 1, a number β for N^-β, ``"effective:b"`` for
            (1 − b)/(1 − b^N) with 0 < b < 1, a mapping from labels to weights, or a function of the
            sizes.
        classes: labels in the order of ``sizes``, for a mapping.
        min_count: sizes below it count as it, so that one stray row does not weigh as much as a
            class.

    Raises:
        InvalidSetting: an unknown rule, a label without a weight, or weights that are not finite
            and non-negative.
    """
    counted = np.maximum(sizes, min_count)
    if callable(rule):
        weights = np.asarray(rule(counted.copy()), dtype=np.float64)
    elif isinstance(rule, Mapping):
        missing = [
            label for label, n in zip(classes, sizes, strict=True) if n and label not in rule
        ]
        if missing:
            raise InvalidSetting(f"class_weight has no weight for class {missing[0]!r}")
        weights = np.array([rule.get(label, 0.0) for label in classes], dtype=np.float64)
    elif isinstance(rule, str):
        weights = _named(counted, rule)
    else:
        weights = counted ** -_exponent(rule)
    if weights.shape != sizes.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise InvalidSetting(
            f"class_weight gave {weights!r}: one finite number of at least 0 for each of "
            f"{len(sizes)} classes"
        )
    return np.where(sizes > 0, weights, 0.0)


def normalisation(
    weights: NDArray[np.float64], classes: Sequence[Label], normalise: Normalise = "seen"
) -> float:
    """Common factor c on the weights; the ridge then works as γ/c would.

    ``"seen"`` makes the mean weight of the classes seen 1. ``"slots"`` counts every integer from 0
    to the largest label as a class, as the authors' code does. ``"none"`` is 1.

    Raises:
        InvalidSetting: an unknown name, or "slots" with labels that are no non-negative integers.
    """
    total = float(weights.sum())
    if normalise == "none" or total == 0:
        return 1.0
    if normalise == "seen":
        return float(np.count_nonzero(weights)) / total
    if normalise == "slots":
        if any(not isinstance(label, int) or label < 0 for label in classes):
            raise InvalidSetting('normalize="slots" needs labels 0, 1, 2, …; use "seen"')
        return (max(int(label) for label in classes) + 1) / total
    raise InvalidSetting(f"normalize is {normalise!r}, it must be seen, slots or none")


def check_rule(rule: Rule) -> None:
    """Raise InvalidSetting for a rule that no class sizes could make sense of."""
    class_weights(np.ones(0), rule)


def _named(sizes: NDArray[np.float64], rule: str) -> NDArray[np.float64]:
    if rule == "balanced":
        return 1 / sizes
    if rule == "none":
        return np.ones_like(sizes)
    name, _, number = rule.partition(":")
    try:
        b = float(number) if name == "effective" else float("nan")
    except ValueError:
        b = float("nan")
    if not 0 < b < 1:
        raise InvalidSetting(
            f'class_weight is {rule!r}: use "balanced", "none", "effective:0.999", a number, '
            "a mapping or a function"
        )
    return (1 - b) / -np.expm1(sizes * np.log(b))


def _exponent(rule: object) -> float:
    if isinstance(rule, (int, float, np.integer, np.floating)) and not isinstance(rule, bool):
        beta = float(rule)
        if np.isfinite(beta):
            return beta
    raise InvalidSetting(
        f"class_weight is {rule!r}: a number must be finite (1 is AIR, 0 is plain ridge)"
    )
