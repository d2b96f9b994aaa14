import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import Spent, delta_of, epsilon_of, mu_of, noise_std


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 5.0])
def test_delta_is_the_integral_of_what_the_densities_differ_by(mu, epsilon):
    def excess(x):
        return max(norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x), 0.0)

    edge = epsilon / mu + mu / 2
    oracle = quad(excess, edge, edge + 40, limit=500)[0]
    assert delta_of(mu, epsilon) == pytest.approx(oracle, rel=1e-6, abs=1e-14)


@given(st.floats(0.01, 20), st.floats(1e-10, 0.1))
def test_calibration_and_accounting_are_inverse(epsilon, delta):
    mu = mu_of(epsilon, delta)
    assert delta_of(mu, epsilon) <= delta
    assert delta_of(mu * (1 + 1e-6), epsilon) > delta
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-5)


@given(st.floats(0.05, 0.99), st.floats(1e-9, 1e-3))
def test_it_needs_less_than_the_classical_bound(epsilon, delta):
    classical = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    assert noise_std(epsilon, delta, 1.0) < classical


def test_releases_compose_exactly():
    spent = Spent()
    for _ in range(4):
        spent = spent.and_then(2.0, 1.0)
    assert spent.mu == pytest.approx(1.0)  # four with sigma 2 are one with sigma 1
    assert spent.epsilon(1e-5) == pytest.approx(epsilon_of(1.0, 1e-5))
    assert Spent().epsilon(1e-5) == 0


@pytest.mark.parametrize(("epsilon", "delta"), [(1e-13, 1e-15), (1e-9, 1e-12)])
def test_more_than_can_be_calibrated_is_refused_and_not_promised(epsilon, delta):
    with pytest.raises(InvalidSetting, match="raise one of them"):
        mu_of(epsilon, delta)


def test_no_limit_stays_within_what_is_accounted_for():
    assert Spent(mu_of(1e12, 1e-5)).epsilon(1e-5) > 0


def test_tails_stay_finite():
    assert 0 < noise_std(1e-3, 1e-12, 1.0) < 1e5
    assert noise_std(500.0, 1e-12, 1.0) > 0
    assert delta_of(1e-3, 10.0) == 0.0
    assert np.isfinite(epsilon_of(100.0, 1e-12))


@pytest.mark.parametrize(
    ("epsilon", "delta", "sensitivity"),
    [(0, 1e-5, 1), (-1, 1e-5, 1), (math.nan, 1e-5, 1), (1, 0, 1), (1, 1, 1), (1, 1e-5, 0)],
)
def test_bad_settings_are_refused(epsilon, delta, sensitivity):
    with pytest.raises(InvalidSetting):
        noise_std(epsilon, delta, sensitivity)
