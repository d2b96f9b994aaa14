import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import delta_of, epsilon_of, mu_of
from privacyrestore.accounting import Release, spent

gaussian = st.builds(Release, st.floats(0.05, 20), st.floats(1e-9, 1e-3))
pure = st.floats(0.01, 100).map(lambda epsilon: Release(2 * epsilon, metric_epsilon=epsilon))


@given(st.lists(pure, max_size=6))
def test_pure_releases_add_up(releases):
    found = spent(releases)
    assert found.local_epsilon == pytest.approx(sum(each.local_epsilon for each in releases))
    assert found.metric_epsilon == pytest.approx(found.local_epsilon / 2)
    assert (found.releases, found.delta) == (len(releases), 0.0)


@given(st.integers(2, 30), st.floats(0.2, 8.0))
def test_gaussian_releases_compose_by_their_mu(count, epsilon):
    found = spent([Release(epsilon, 1e-6)] * count)
    mu = mu_of(epsilon, 1e-6) * math.sqrt(count)
    assert 0.99e-6 < delta_of(mu, found.local_epsilon) < 1e-6  # the grid's room, and no more
    assert epsilon < found.local_epsilon < count * epsilon
    plain, numbers = epsilon_of(mu, 1e-6), count * 2**14
    reach = 2 * (plain + math.log(2 * numbers / 1e-6) + 40)
    room = numbers * (reach + 4) / (24 * 4.0**17)  # as derived for noise on whole numbers
    assert found.local_epsilon == pytest.approx(plain + room, rel=1e-6)
    assert found.local_epsilon >= (plain + room) * (1 - 1e-12)


def test_two_gaussian_releases_by_brute_force():
    """The exact divergence of a discrete Gaussian in two dimensions, on a coarse grid."""
    sigma, moved, epsilon = 40, 23, 1.3
    reach = np.arange(-12 * sigma, 12 * sigma + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    weights /= weights.sum()
    still, other = np.pad(weights, (0, moved)), np.pad(weights, (moved, 0))
    once = np.maximum(still - math.exp(epsilon) * other, 0).sum()
    twice = (np.outer(still, still) - math.exp(epsilon) * np.outer(other, other)).clip(0).sum()
    mu = moved / sigma
    assert once == pytest.approx(delta_of(mu, epsilon), rel=5e-3)
    assert twice == pytest.approx(delta_of(mu * math.sqrt(2), epsilon), rel=5e-3)


@given(st.lists(st.one_of(gaussian, pure), max_size=6), st.one_of(gaussian, pure))
def test_one_release_more_never_costs_less_and_order_is_nothing(releases, more):
    before, after = spent(releases), spent([*releases, more])
    assert after.local_epsilon > before.local_epsilon
    assert after.local_epsilon >= more.local_epsilon * (1 - 1e-12)
    assert after.delta <= before.delta or not before.delta
    assert spent([more, *releases]).local_epsilon == pytest.approx(after.local_epsilon)


def test_both_kinds_add_their_epsilons():
    found = spent([Release(2.0, metric_epsilon=1.0), Release(3.0, 1e-5)])
    assert (found.local_epsilon, found.delta, found.metric_epsilon) == (5.0, 1e-5, None)
    assert found.sentence() == "2 releases, worst-case local ε 5 at δ = 1e-05"
    assert "metric" not in found.sentence()


def test_a_metric_sum_is_told_with_its_worst_case():
    found = spent([Release(2.0, metric_epsilon=1.0)])
    assert found.sentence() == "1 release, metric ε 1, worst-case local ε 2"


@pytest.mark.parametrize("unbounded", [Release(math.inf), Release(math.inf, 1e-6)])
def test_one_release_without_noise_is_no_bound(unbounded):
    for others in ([], [Release(2.0)], [Release(2.0, 1e-6)]):
        found = spent([*others, unbounded])
        assert math.isinf(found.local_epsilon)
        assert "no bound" in found.sentence()
    assert spent([]).local_epsilon == 0


def test_more_than_can_be_counted_is_no_bound():
    assert math.isinf(spent([Release(1e11, 1e-6)] * 2).local_epsilon)


@pytest.mark.parametrize(
    ("epsilon", "delta", "metric"),
    [
        (0, 0, None),
        (-1, 0, None),
        (math.nan, 0, None),
        (1, 1, None),
        (1, -0.1, None),
        (1, math.nan, None),
        (1, 0, 0.0),
        (1, 0, math.inf),
        (1, 0, math.nan),
    ],
)
def test_releases_that_are_none(epsilon, delta, metric):
    with pytest.raises(InvalidSetting):
        Release(epsilon, delta, metric)
