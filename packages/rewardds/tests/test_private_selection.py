import math

import numpy as np
import pytest

from lipogram.errors import InvalidSetting
from lipogram.secure_noise import secure_stream
from rewardds.accounting import BoundedRelease, Release, epsilon
from rewardds.private_selection import RandomStopping, choose


def permute_and_flip(totals, epsilon):
    """The law of the choice, by going through all orders of the candidates."""
    import itertools

    chance = np.exp(-epsilon * (max(totals) - np.array(totals)))
    law = np.zeros(len(totals))
    orders = list(itertools.permutations(range(len(totals))))
    for order in orders:
        left = 1.0
        for at in order:
            law[at] += left * chance[at] / len(orders)
            left *= 1 - chance[at]
    return law


def noisy_max(totals, epsilon, draws=200_000):
    rng = np.random.default_rng(0)
    noisy = np.array(totals) + rng.exponential(1 / epsilon, (draws, len(totals)))
    return np.bincount(noisy.argmax(axis=1), minlength=len(totals)) / draws


def chosen(scores, epsilon, draws=4000, **how):
    stream = secure_stream(5)
    found = [choose(scores, epsilon, stream=stream, **how)[0] for _ in range(draws)]
    return np.bincount(found, minlength=len(scores)) / draws


def test_the_choice_has_the_law_of_report_noisy_max():
    scores = [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0], [0.2, 0.0, 0.0], [0.9, 0.9, 0.9]]
    totals = [1.5, 3.0, 0.2, 2.7]
    law = permute_and_flip(totals, 0.8)
    np.testing.assert_allclose(noisy_max(totals, 0.8), law, atol=0.005)
    np.testing.assert_allclose(chosen(scores, 0.8), law, atol=0.03)


def test_one_record_changes_no_chance_by_more_than_its_epsilon():
    """Exactly, over the law: for a record that may score anything from 0 to 1 everywhere."""
    rng = np.random.default_rng(1)
    largest = 0.0
    for _ in range(200):
        totals = rng.uniform(0, 3, 4)
        other = totals + rng.choice([0.0, 1.0, rng.uniform()], 4)
        ratio = np.log(permute_and_flip(totals, 0.7) / permute_and_flip(other, 0.7))
        largest = max(largest, np.abs(ratio).max())
    assert 0.6 < largest <= 0.7 + 1e-12


def test_scores_count_in_units_of_their_bound_and_are_cut_to_it():
    scores = np.array([[1.5, 0.0], [0.3, 0.3]])
    np.testing.assert_allclose(
        chosen(2 * scores, 1.0, bound=2.0), chosen(scores, 1.0, bound=1.0), atol=1e-12
    )
    np.testing.assert_allclose(
        chosen([[9.0, -5.0], [math.nan, 0.6]], 1.0), permute_and_flip([1.0, 0.6], 1.0), atol=0.03
    )


def test_a_choice_costs_its_epsilon_and_many_are_far_from_the_best():
    index, cost = choose([[0.0] * 100, [1.0] * 100], 5.0)
    assert index == 1
    assert cost == BoundedRelease(5.0)
    even = chosen([[0.0] * 50, [1.0] * 50], 1e-6)
    assert even[0] == pytest.approx(0.5, abs=0.05)


def test_choices_that_are_none_are_refused():
    for scores in ([], [0.1, 0.2], np.zeros((0, 3))):
        with pytest.raises(InvalidSetting, match="shape"):
            choose(scores, 1.0)
    for values in ({"epsilon": 0.0}, {"epsilon": math.inf}, {"epsilon": 1.0, "bound": 0.0}):
        with pytest.raises(InvalidSetting):
            choose([[0.1]], **values)


@pytest.mark.parametrize("eta", [-0.5, 0.0, 1.0, 2.5])
def test_the_number_of_trials_has_its_law(eta):
    """Definition 1 of the paper, by its binomial series."""
    gamma, stream = 0.2, secure_stream(3)
    search = RandomStopping(eta, gamma)
    k = np.arange(1, 2000)
    if eta == 0:
        law = (1 - gamma) ** k / (k * math.log(1 / gamma))
    else:
        from scipy.special import gammaln, gammasgn

        log = gammaln(k + eta) - gammaln(k + 1) - gammaln(eta) + k * math.log(1 - gamma)
        law = np.exp(log) * gammasgn(eta) / (gamma**-eta - 1)
    assert law.sum() == pytest.approx(1.0, abs=1e-9)
    assert search.mean == pytest.approx((k * law).sum(), rel=1e-9)
    drawn = np.array([search.draw(stream) for _ in range(4000)])
    assert drawn.min() == 1
    for most in (1, 2, 5, 12):
        assert (drawn <= most).mean() == pytest.approx(law[:most].sum(), abs=0.03)


def test_a_search_of_pure_trials_costs_2_plus_eta_times_as_much():
    """Corollary 3 of the paper, and Liu & Talwar's three for the geometric number."""
    for eta in (0.0, 1.0):
        cost = RandomStopping(eta, 1e-6).cost([BoundedRelease(4.0)], 1e-9)
        assert cost.epsilon == pytest.approx((2 + eta) * 4.0, rel=0.03)
        assert cost.delta == 1e-9


def test_the_cost_of_a_search_is_that_of_the_theorem():
    """Written out for one Gaussian, whose divergence at λ is λ/2σ²."""
    sigma, eta, gamma, delta = 5.0, 0.0, 0.1, 1e-6
    orders = np.linspace(1.01, 250, 40_000)
    one = orders / (2 * sigma**2)
    mean = (1 / gamma - 1) / math.log(1 / gamma)
    extra = ((1 - 1 / orders) * one + math.log(1 / gamma) / orders).min() * (1 + eta)
    search = one + extra + math.log(mean) / (orders - 1)
    true = (search + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min()
    found = RandomStopping(eta, gamma).cost([Release(sigma, 1.0, 1)], delta)
    assert true <= found.epsilon <= true * 1.01


def test_a_search_costs_more_than_a_trial_and_less_than_its_mean_number():
    trial = [Release(1.0, 0.01, 1000)]
    costs = [RandomStopping(0.0, gamma).cost(trial, 1e-6).epsilon for gamma in (0.5, 0.1, 0.01)]
    assert epsilon(trial, 1e-6) < costs[0] < costs[1] < costs[2]
    search = RandomStopping(0.0, 0.01)
    assert costs[2] < epsilon(trial * round(search.mean), 1e-6)


def test_searches_that_nothing_covers_are_refused():
    search = RandomStopping()
    with pytest.raises(InvalidSetting, match="not covered"):
        search.cost([BoundedRelease(1.0, 1e-9)], 1e-6)
    with pytest.raises(InvalidSetting, match="no noise"):
        search.cost([Release(0.0, 0.1, 1)], 1e-6)
    with pytest.raises(InvalidSetting, match="delta"):
        search.cost([Release(1.0, 0.1, 1)], 0.0)
    for values in ((-1.0, 0.1), (math.inf, 0.1), (0.0, 0.0), (0.0, 1.0), (math.nan, 0.1)):
        with pytest.raises(InvalidSetting):
            RandomStopping(*values)


def test_the_number_of_trials_is_drawn_from_the_system():
    drawn = {RandomStopping(0.0, 0.001).draw() for _ in range(200)}
    assert len(drawn) > 5
