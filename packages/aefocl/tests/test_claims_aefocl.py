"""What is claimed of rare classes on real digits, and what a budget costs and saves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aefocl import AEFOCLClassifier
from lipogram.analytic.datasets import digits
from lipogram.analytic.metrics import balanced_accuracy
from lipogram.analytic.scenarios import long_tailed_counts
from lipogram.errors import FewPseudoFeatures

SEEDS = range(10)
Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


def long_tailed_digits(seed: int, rho: float) -> tuple[Rows, Rows]:
    """Rows for training, 100 to 100/rho a digit, and for testing, all beyond the first 100."""
    rng = np.random.default_rng(seed)
    rows, labels = digits()
    train, test = [], []
    for digit, n in enumerate(long_tailed_counts(10, 100, rho)):
        members = rng.permutation(np.flatnonzero(labels == digit))
        train.append(members[:n])
        test.append(members[100:])
    a, b = np.concatenate(train), np.concatenate(test)
    return (rows[a], labels[a]), (rows[b], labels[b])


def heads(
    seed: int, rho: float = 100, gamma: float = 1.0, budget: int | None = None
) -> tuple[float, float]:
    """Balanced accuracy of the balanced and of the plain head."""
    (x, y), (test, truth) = long_tailed_digits(seed, rho)
    head = AEFOCLClassifier(gamma=gamma, buffer_size=512, budget=budget, seed=seed).fit(x, y)
    return (
        balanced_accuracy(truth, head.predict(test)),
        balanced_accuracy(truth, head.predict(test, balanced=False)),
    )


def test_rare_digits_gain_with_every_seed() -> None:
    gained = np.array([np.subtract(*heads(seed)) for seed in SEEDS])
    assert gained.mean() >= 0.06
    assert gained.min() >= 0.02


def test_a_budget_of_32_costs_less_than_two_points() -> None:
    exact = np.mean([heads(seed)[0] for seed in SEEDS])
    with pytest.warns(FewPseudoFeatures, match=r"32.*512"):
        few = np.mean([heads(seed, budget=32)[0] for seed in SEEDS])
    assert abs(exact - few) <= 0.02


def test_balanced_digits_have_one_head() -> None:
    (x, y), (test, _) = long_tailed_digits(0, 1)
    head = AEFOCLClassifier(gamma=1.0, buffer_size=128).fit(x, y)
    np.testing.assert_array_equal(
        head.decision_function(test), head.decision_function(test, balanced=False)
    )


def test_a_tiny_ridge_is_promised_nothing() -> None:
    gained = np.array([np.subtract(*heads(seed, gamma=0.01)) for seed in SEEDS])
    assert gained.min() < 0.06  # some seed gains less than the mean with gamma 1


def test_a_budget_of_64_draws_320_rows_instead_of_thousands() -> None:
    sizes = (1500, 600, 238, 95, 38, 15)
    y = np.repeat(np.arange(6), sizes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 8))[y] + rng.standard_normal((len(y), 8))
    exact = AEFOCLClassifier(buffer_size=32).fit(x, y)
    few = AEFOCLClassifier(buffer_size=32, budget=64).fit(x, y)
    assert exact.drawn_count_.sum() == sum(1500 - n for n in sizes) == 6514
    assert few.drawn_count_.sum() == 320
    np.testing.assert_array_equal(few.pseudo_count_, exact.pseudo_count_)
