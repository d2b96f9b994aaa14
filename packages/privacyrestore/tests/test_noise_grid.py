import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gamma

from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import mu_of
from privacyrestore.noise_grid import (
    EXACT_STEPS,
    LEAST_SIGMA,
    MOST_SIGMA,
    MOST_STEPS,
    Grid,
    gaussian_grid,
)


@given(st.integers(1, 30_000), st.floats(1e-3, 1e7))
def test_the_grid_is_fine_wide_and_exact(size, epsilon):
    grid = Grid.fitting(size, epsilon)
    assert math.frexp(grid.step)[0] == 0.5
    assert grid.half <= MOST_STEPS
    assert grid.half * grid.step >= 1 + gamma(size, scale=1 / epsilon).isf(1e-15)
    coarse = 1e-3 * size / epsilon * MOST_STEPS < 4 * (1 + size / epsilon)
    assert grid.step <= 1e-3 * size / epsilon or coarse


@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.integers(-20, 10))
def test_what_is_rounded_is_on_the_grid_near_and_exact_in_float32(numbers, exponent):
    grid = Grid(2.0**exponent, EXACT_STEPS)
    numbers = np.array(numbers)
    found = grid.rounded(numbers)
    assert np.array_equal(found / grid.step, np.rint(found / grid.step))
    assert np.array_equal(found.astype(np.float32).astype(np.float64), found)
    inside = np.abs(numbers) <= EXACT_STEPS * grid.step
    assert (np.abs(found - numbers)[inside] <= grid.step / 2).all()
    assert (np.abs(found[~inside]) == EXACT_STEPS * grid.step).all()


def test_clipping_and_rounding():
    grid = Grid(0.5, 4)
    assert grid.rounded(np.array([0.2, 0.3, -9.0, 9.0])).tolist() == [0.0, 0.5, -2.0, 2.0]


@given(
    st.integers(1, 2000),
    st.sampled_from([math.sqrt(2), 2.0]),
    st.floats(0.05, 500),
    st.floats(1e-12, 0.1),
)
def test_gaussian_noise_covers_distance_and_rounding_within_float32(size, distance, epsilon, delta):
    grid, sigma = gaussian_grid(size, distance, epsilon, delta)
    mu = mu_of(epsilon, delta)
    moved = distance / grid.step + math.sqrt(size)
    assert moved / mu <= sigma <= (moved / mu) * (1 + 1e-4 + 1e-4 / epsilon) + 1
    assert LEAST_SIGMA <= sigma <= MOST_SIGMA * 1.01
    assert math.frexp(grid.step)[0] == 0.5
    assert 1 / grid.step + 23 * sigma <= grid.half  # beyond 23 σ: less than once in 10¹¹⁴
    plain = distance / mu
    assert grid.step * sigma <= plain * (1 + 2.1 * math.sqrt(size) / (MOST_SIGMA * mu) + 1e-3)


@pytest.mark.parametrize(
    ("size", "epsilon", "delta", "said"),
    [
        (2**14, 1e-5, 1e-5, "so much noise"),
        (9, 1e5, 1e-5, "so little noise"),
        (2**14 + 1, 1.0, 1e-5, "size"),
        (9, -1.0, 1e-5, "epsilon"),
        (9, 1.0, 1.0, "delta"),
    ],
)
def test_noise_that_no_grid_holds_is_refused(size, epsilon, delta, said):
    with pytest.raises(InvalidSetting, match=said):
        gaussian_grid(size, 2.0, epsilon, delta)
