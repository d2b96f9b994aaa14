"""The recursion ends where the sums end, whatever the batches."""

import numpy as np
import pytest

from lipogram.analytic import ClassStatistics
from lipogram.analytic.recursion import RecursiveRidge
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting

D = 48
RNG = np.random.default_rng(0)
X = RNG.standard_normal((13 * D, D))
Y = RNG.integers(0, 5, len(X))


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("batch", [1, 16, len(X)])
def test_recursion_equals_accumulation(gamma: float, batch: int) -> None:
    recursive = RecursiveRidge(D, gamma)
    for i in range(0, len(X), batch):
        recursive.update(X[i : i + batch], Y[i : i + batch])
    summed = (
        ClassStatistics(D, pooled=True).declare(recursive.classes).update(X, Y).solve(gamma).weight
    )
    assert float((recursive.weight - summed).abs().max() / summed.abs().max()) <= 1e-8


def test_a_late_class_gets_a_column() -> None:
    order = np.argsort(Y == 4, kind="stable")
    recursive = RecursiveRidge(D, 0.1)
    for i in range(0, len(X), 50):
        recursive.update(X[order[i : i + 50]], Y[order[i : i + 50]])
    assert recursive.classes[-1] == 4
    summed = (
        ClassStatistics(D, pooled=True).declare(recursive.classes).update(X, Y).solve(0.1).weight
    )
    assert float((recursive.weight - summed).abs().max() / summed.abs().max()) <= 1e-8


@pytest.mark.parametrize(
    ("rows", "labels", "error"),
    [
        (np.full((1, D), np.nan), [0], InvalidFeatures),
        (X[:2, :3], [0, 1], InvalidFeatures),
        (X[:2], [0], InvalidFeatures),
        (X[:2], [0.5, 1], InvalidLabels),
    ],
)
def test_bad_batches_change_nothing(rows: object, labels: object, error: type[Exception]) -> None:
    recursive = RecursiveRidge(D, 1.0).update(X[:20], Y[:20])
    before = recursive.weight.clone()
    with pytest.raises(error):
        recursive.update(rows, labels)
    assert bool((recursive.weight == before).all())


def test_gamma_must_be_positive() -> None:
    with pytest.raises(InvalidSetting):
        RecursiveRidge(D, 0.0)
