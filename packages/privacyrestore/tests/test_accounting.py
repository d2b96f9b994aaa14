import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import delta_of, mu_of
from privacyrestore.accounting import Release, spent


@given(st.lists(st.floats(0.01, 100), max_size=6))
def test_pure_releases_add_up(epsilons):
    found = spent([Release(epsilon) for epsilon in epsilons])
    assert found.local_epsilon == pytest.approx(sum(epsilons))
    assert (found.releases, found.delta) == (len(epsilons), 0.0)


@given(st.integers(1, 30), st.floats(0.2, 8.0))
def test_gaussian_releases_compose_by_their_mu(count, epsilon):
    found = spent([Release(epsilon, 1e-6)] * count)
    mu = mu_of(epsilon, 1e-6) * math.sqrt(count)
    assert delta_of(mu, found.local_epsilon) == pytest.approx(1e-6, rel=1e-3)
    assert epsilon <= found.local_epsilon * (1 + 1e-9)
    assert found.local_epsilon <= count * epsilon * (1 + 1e-9)  # never worse than adding up


def test_both_kinds_add_their_epsilons():
    found = spent([Release(2.0), Release(3.0, 1e-5)])
    assert (found.local_epsilon, found.delta) == (5.0, 1e-5)


def test_one_release_without_noise_is_no_bound():
    found = spent([Release(2.0), Release(math.inf)])
    assert math.isinf(found.local_epsilon)
    assert "no bound" in found.sentence()
    assert spent([]).local_epsilon == 0


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0), (-1, 0), (math.nan, 0), (1, 1), (1, -0.1)])
def test_releases_that_are_none(epsilon, delta):
    with pytest.raises(InvalidSetting):
        Release(epsilon, delta)
