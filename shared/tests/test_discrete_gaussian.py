import time

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from lipogram.discrete_gaussian import Stream, discrete_gaussian, noise_key
from lipogram.errors import InvalidSetting


@pytest.mark.parametrize("sigma", [1, 2, 3, 5, 8])
def test_each_integer_comes_as_often_as_its_weight(sigma):
    size = 300_000
    reach = 4 * sigma
    weights = np.exp(-(np.arange(-20 * sigma, 20 * sigma + 1) ** 2) / (2 * sigma**2))
    inside = weights[16 * sigma : 24 * sigma + 1] / weights.sum()
    drawn = discrete_gaussian(noise_key(sigma), size, sigma)
    near = drawn[np.abs(drawn) <= reach]
    seen = np.append(np.bincount(near + reach, minlength=2 * reach + 1), size - near.size)
    expected = size * np.append(inside, 1 - inside.sum())
    assert chisquare(seen, expected).pvalue > 1e-3


def test_with_many_bits_it_is_the_normal_distribution():
    drawn = discrete_gaussian(noise_key(0), 300_000, 2**40) / 2.0**40
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert drawn.var() == pytest.approx(1, rel=0.02)
    low = discrete_gaussian(noise_key(0), 50_000, 2**40) & 0xFF
    assert chisquare(np.bincount(low, minlength=256)).pvalue > 1e-3  # the last bits are there


def test_small_draws_have_the_same_distribution_as_large_ones():
    drawn = (
        np.concatenate([discrete_gaussian(noise_key(s), 3, 2**30) for s in range(5000)]) / 2.0**30
    )
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.reshape(-1, 3).T) - np.eye(3)).max() < 0.05


def test_a_key_gives_one_draw_and_without_a_seed_none_is_alike():
    assert np.array_equal(*(discrete_gaussian(noise_key(7), 50, 2**20) for _ in range(2)))
    one, other = (discrete_gaussian(noise_key(), 50, 2**20) for _ in range(2))
    assert not np.array_equal(one, other)
    assert discrete_gaussian(noise_key(1), 0, 2**20).shape == (0,)


def test_numbers_below_a_limit_are_uniform():
    limits = np.full(90_000, 3 * 2**62, dtype=np.uint64)  # a remainder would be biased by a third
    drawn = Stream(noise_key(0)).below(limits)
    assert (drawn < limits).all()
    assert chisquare(np.bincount((drawn >> np.uint64(62)).astype(int), minlength=3)).pvalue > 1e-3


def test_what_a_vector_needs_comes_in_seconds():
    start = time.perf_counter()
    discrete_gaussian(noise_key(), 150_000, 2**30)
    assert time.perf_counter() - start < 5  # 0.1 s where this was written


@pytest.mark.parametrize("sigma", [0, 2**56 + 1, 2.0])
def test_a_sigma_beyond_a_word_is_refused(sigma):
    with pytest.raises(InvalidSetting, match="sigma"):
        discrete_gaussian(noise_key(), 5, sigma)
