"""The recursion ends where the sums end, whatever the batches."""

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("gamma", [1e-2, 1.0])
def test_it_goes_on_from_sums_as_if_it_had_seen_their_rows(gamma: float) -> None:
    half = len(X) // 2
    sums = ClassStatistics(D, pooled=True).update(X[:half], Y[:half])
    went_on = RecursiveRidge.of_sums(sums.reweight(), gamma, sums.classes)
    solved = sums.solve(gamma).weight
    assert float((went_on.weight - solved).abs().max() / solved.abs().max()) <= 1e-10
    assert went_on.gamma == gamma
    for i in range(half, len(X), 7):
        went_on.update(X[i : i + 7], Y[i : i + 7])
    summed = sums.update(X[half:], Y[half:]).solve(gamma)
    assert list(went_on.classes) == sums.classes
    assert float((went_on.weight - summed.weight).abs().max() / summed.weight.abs().max()) <= 1e-8
    told = went_on.solution()
    assert told.weight is went_on.weight
    assert bool((told.intercept == 0).all())
    assert told.intercept.shape == (5,)


def test_going_on_leaves_the_sums_alone() -> None:
    sums = ClassStatistics(D, pooled=True).update(X, Y)
    before = sums.reweight()
    RecursiveRidge.of_sums(sums.reweight(), 0.1, sums.classes).update(X[:50], Y[:50])
    assert torch.equal(sums.reweight().gram, before.gram)
    assert torch.equal(sums.reweight().cross, before.cross)


@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_a_row_of_a_weight_is_scaled_and_so_is_its_target(weight: float) -> None:
    recursive = RecursiveRidge(D, 0.1).update(X[:200], Y[:200])
    recursive.update(X[200:300] * weight**0.5, Y[200:300], target=weight**0.5)
    each = np.where(np.arange(300) < 200, 1.0, weight)
    sums = ClassStatistics(D, pooled=True).declare(recursive.classes)
    summed = sums.update(X[:300], Y[:300], sample_weight=each).solve(0.1).weight
    assert float((recursive.weight - summed).abs().max() / summed.abs().max()) <= 1e-8


def test_a_declared_class_has_a_column_of_zeros() -> None:
    recursive = RecursiveRidge(D, 0.1).update(X[:50], np.zeros(50, dtype=int))
    recursive.declare([7, 0]).update(X[50:60], np.ones(10, dtype=int))
    np.testing.assert_array_equal(recursive.classes, [0, 7, 1])
    assert bool((recursive.weight[:, 1] == 0).all())
    assert bool((recursive.weight[:, 2] != 0).any())
    with pytest.raises(InvalidLabels):
        recursive.declare(["a"])


def test_gamma_must_be_positive() -> None:
    with pytest.raises(InvalidSetting):
        RecursiveRidge(D, 0.0)
