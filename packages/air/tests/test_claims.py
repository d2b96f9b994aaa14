"""What the README claims of real data, and where it says that AIR does not help."""

import numpy as np
import pytest
from numpy.typing import NDArray

from air import AIRClassifier
from lipogram.analytic.datasets import digits
from lipogram.analytic.metrics import accuracy, balanced_accuracy
from lipogram.analytic.scenarios import class_incremental, long_tailed_counts
from lipogram.analytic.sources import features_of
from lipogram.assets import find

SEEDS = range(10)


def long_tailed_digits(seed: int, rho: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions for training, 100 to 100/rho a digit, and for testing, all beyond the first 100."""
    rng = np.random.default_rng(seed)
    _, labels = digits()
    train, test = [], []
    for digit, n in enumerate(long_tailed_counts(10, 100, rho)):
        members = rng.permutation(np.flatnonzero(labels == digit))
        train.append(members[:n])
        test.append(members[100:])
    return np.concatenate(train), np.concatenate(test)


def gains(rho: float, gamma: float, buffer_size: int) -> NDArray[np.float64]:
    rows, labels = digits()
    gained = []
    for seed in SEEDS:
        train, test = long_tailed_digits(seed, rho)
        head = AIRClassifier(gamma=gamma, buffer_size=buffer_size, seed=seed)
        air = balanced_accuracy(
            labels[test], head.fit(rows[train], labels[train]).predict(rows[test])
        )
        ridge = balanced_accuracy(labels[test], head.reweight("none").predict(rows[test]))
        gained.append(air - ridge)
    return np.asarray(gained)


def test_rare_digits_gain() -> None:
    gained = gains(rho=100, gamma=1.0, buffer_size=512)
    assert gained.mean() >= 0.08
    assert gained.min() >= 0.02


def test_balanced_digits_gain_nothing() -> None:
    np.testing.assert_array_equal(gains(rho=1, gamma=1.0, buffer_size=256)[:2], 0)


def test_little_is_gained_with_a_mild_tail_a_small_ridge_and_a_large_buffer() -> None:
    assert abs(gains(rho=10, gamma=0.01, buffer_size=2048)[:3].mean()) < 0.02


def test_class_order_does_not_change_a_single_prediction() -> None:
    rows, labels = digits()
    train, test = long_tailed_digits(0, 100)
    predictions = []
    for order in ("descending", "ascending", "shuffled"):
        head = AIRClassifier(gamma=1.0, buffer_size=256)
        for task in class_incremental(labels[train], increment=2, order=order):
            mine = train[task.train]
            head.partial_fit(rows[mine], labels[mine])
        predictions.append(head.predict(rows[test]))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    np.testing.assert_array_equal(predictions[0], predictions[2])


@pytest.mark.parametrize("gamma", [100.0, 300.0])
def test_rare_drawings_gain_and_overall_accuracy_stays(gamma: float) -> None:
    if not all(map(find, ("openclipart", "efficientnet-lite0"))):
        pytest.skip("the drawings are not here: `make demo` brings them")
    balanced, overall = [], []
    for seed in range(5):
        data = features_of("openclipart", seed=seed)
        head = AIRClassifier(gamma=gamma, buffer_size=None).fit(data.train, data.train_labels)
        air = head.predict(data.test)
        ridge = head.reweight("none").predict(data.test)
        balanced.append(
            balanced_accuracy(data.test_labels, air) - balanced_accuracy(data.test_labels, ridge)
        )
        overall.append(accuracy(data.test_labels, air) - accuracy(data.test_labels, ridge))
    assert np.mean(balanced) >= 0.02
    assert np.mean(overall) >= -0.02
