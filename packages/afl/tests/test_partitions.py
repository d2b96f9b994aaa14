import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afl.partitions import dirichlet_partition, iid_partition, shard_partition
from lipogram.errors import InvalidSetting

Y = np.random.default_rng(0).integers(0, 10, 4000)


def exactly_once(parts, n):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))


@settings(max_examples=30)
@given(
    st.integers(1, 300),
    st.floats(1e-3, 1e3),
    st.integers(0, 5),
    st.integers(0, 2**32 - 1),
)
def test_every_row_has_one_client_and_every_client_its_rows(clients, alpha, least, seed):
    parts = dirichlet_partition(Y, clients, alpha, min_size=least, seed=seed, max_tries=3)
    assert len(parts) == clients
    exactly_once(parts, 4000)
    assert min(map(len, parts)) >= least


def test_hopeless_settings_end():
    start = time.perf_counter()
    parts = dirichlet_partition(Y, 1000, 0.005, min_size=2)
    exactly_once(parts, 4000)
    assert min(map(len, parts)) >= 2
    assert time.perf_counter() - start < 20


def test_alpha_sets_the_skew():
    def classes_a_client(alpha):
        parts = dirichlet_partition(Y, 20, alpha)
        return np.mean([len(np.unique(Y[part])) for part in parts])

    assert classes_a_client(0.01) < 3 < 9 < classes_a_client(100.0)
    even = dirichlet_partition(Y, 20, 1e5)
    shares = np.array([np.bincount(Y[part], minlength=10) / len(part) for part in even])
    assert np.abs(shares - np.bincount(Y) / 4000).max() < 0.05


@settings(max_examples=30)
@given(st.integers(10, 60), st.integers(1, 10), st.booleans(), st.integers(0, 99))
def test_clients_hold_as_many_classes_as_asked(clients, shards, balanced, seed):
    parts = shard_partition(Y, clients, shards, balanced=balanced, seed=seed)
    exactly_once(parts, 4000)
    assert {len(np.unique(Y[part])) for part in parts} == {shards}


def test_full_clients_get_nothing_more():
    parts = dirichlet_partition(Y, 4, 0.05, seed=5)
    largest = np.bincount(Y).max()
    assert max(map(len, parts)) < 1000 + largest  # full at n/clients, then at most one class more


def test_labels_may_be_words_and_draws_repeat():
    words = np.array(["bus", "car", "tram"])[Y % 3]
    for draw in (
        lambda seed: dirichlet_partition(words, 7, 0.1, seed=seed),
        lambda seed: shard_partition(words, 7, 2, seed=seed),
        lambda seed: iid_partition(words, 7, seed=seed),
    ):
        again = [a.tolist() for a in draw(3)]
        assert again == [a.tolist() for a in draw(3)]
        assert again != [a.tolist() for a in draw(4)]
        exactly_once(draw(3), 4000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dirichlet_partition(Y, 3000, 0.1, min_size=2), "6000 rows"),
        (lambda: dirichlet_partition(Y, 10, 0.0), "alpha"),
        (lambda: dirichlet_partition(Y, 0, 0.1), "clients"),
        (lambda: shard_partition(Y, 5, 1), "no place for 10"),
        (lambda: shard_partition(Y, 5, 11), "shards"),
        (lambda: shard_partition(Y, 3000, 2), r"class \d has \d+ rows for"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InvalidSetting, match=message):
        call()
