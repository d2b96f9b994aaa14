import numpy as np
import pytest

from afl.baselines import FedAvg, accuracy, standardised, train_by_rounds
from afl.partitions import dirichlet_partition, iid_partition
from lipogram.analytic.datasets import digits
from lipogram.errors import InvalidSetting

X, Y = digits()
TRAIN, TEST = np.arange(1797) % 4 > 0, np.arange(1797) % 4 == 0


def trained(parts, **settings):
    train, test = standardised(X[TRAIN], X[TEST])
    weight = train_by_rounds(train, Y[TRAIN], parts, 10, FedAvg(**settings))
    return weight, accuracy(weight, test, Y[TEST])


def test_fedprox_without_its_term_is_fedavg():
    parts = iid_partition(Y[TRAIN], 5)
    plain, prox, pulled = (trained(parts, rounds=3, mu=mu)[0] for mu in (0.0, 0.0, 0.1))
    assert np.array_equal(plain, prox)
    assert np.abs(pulled).sum() < np.abs(plain).sum()


def test_one_client_with_one_batch_descends_the_gradient():
    n = int(TRAIN.sum())
    weight, _ = trained([np.arange(n)], rounds=2, epochs=1, batch_size=n, lr=1.0)
    rows = np.hstack([standardised(X[TRAIN], X[TEST])[0], np.ones((n, 1))])
    oracle = np.zeros((65, 10))
    for _ in range(2):
        odds = np.exp(rows @ oracle)
        share = odds / odds.sum(1, keepdims=True)
        oracle -= rows.T @ (share - np.eye(10)[Y[TRAIN]]) / n
    assert np.allclose(weight, oracle, atol=1e-5)


def test_clients_without_rows_take_no_part():
    parts = iid_partition(Y[TRAIN], 3)
    with_empty = [*parts, np.zeros(0, dtype=np.int64)]
    assert np.array_equal(trained(parts, rounds=1)[0], trained(with_empty, rounds=1)[0])


def test_skewed_clients_are_measured_against_its_own_even_ones():
    even = trained(iid_partition(Y[TRAIN], 100))[1]
    skewed = trained(dirichlet_partition(Y[TRAIN], 100, 0.01, min_size=0))[1]
    assert even > 0.88
    assert skewed < even + 0.02


@pytest.mark.parametrize(
    "settings", [{"rounds": 0}, {"lr": 0.0}, {"mu": -1.0}, {"participation": 0.0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        FedAvg(**settings)
