"""The bound of one training: exact p-values, coverage on mechanisms of known ε, and power."""

import functools
import math

import numpy as np
import pytest
from scipy.optimize import brentq, linprog
from scipy.stats import binom, norm

from lipogram.errors import InvalidSetting, NotFinite
from rewardds import one_run_audit
from rewardds.one_run_audit import (
    audit_one_run,
    epsilon_lower_bound,
    highest_bound,
    one_run_p_value,
)


@pytest.fixture
def remembered(monkeypatch):
    """Simulations ask for the same few bounds again and again."""
    once = functools.cache(epsilon_lower_bound)
    monkeypatch.setattr(one_run_audit, "epsilon_lower_bound", once)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize(("guesses", "correct"), [(40, 31), (40, 40), (17, 3), (1, 1)])
def test_without_delta_it_is_the_binomial_tail(epsilon, guesses, correct):
    tail = binom.sf(correct - 1, guesses, 1 / (1 + math.exp(-epsilon)))
    ours = one_run_p_value(50, guesses, correct, epsilon=epsilon, delta=0)
    assert ours == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize("delta", [1e-3, 0.01, 0.05])
@pytest.mark.parametrize(("m", "guesses", "correct"), [(30, 20, 16), (30, 30, 29), (12, 12, 4)])
def test_delta_costs_what_the_worst_leak_could_gain(m, guesses, correct, delta):
    """With F leaked guesses, E F ≤ 2mδ, no distribution of F makes v right guesses likelier."""
    epsilon = 0.9
    right = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    leaked = np.arange(correct + 1)
    gain = right.sf(correct - leaked - 1)  # P[W + F >= v | F]
    worst = linprog(
        -gain,
        A_ub=[leaked],
        b_ub=[2 * m * delta],
        A_eq=[np.ones_like(leaked)],
        b_eq=[1],
    )
    ours = one_run_p_value(m, guesses, correct, epsilon=epsilon, delta=delta)
    assert ours >= -worst.fun - 1e-9
    if 2 * m * delta <= 1:  # beyond, the formula is larger than it would have to be
        assert ours == pytest.approx(-worst.fun, rel=1e-7)


def test_p_values_grow_with_epsilon_and_delta_and_fall_with_right_guesses():
    grid = np.array(
        [
            [
                [one_run_p_value(60, 40, v, epsilon=e, delta=d) for v in range(0, 41, 4)]
                for d in (0, 1e-4, 1e-2, 0.2)
            ]
            for e in (0, 0.5, 2, 9)
        ]
    )
    assert (np.diff(grid, axis=0) >= -1e-12).all()
    assert (np.diff(grid, axis=1) >= -1e-12).all()
    assert (np.diff(grid, axis=2) <= 1e-12).all()
    assert (grid[..., 0] == 1).all()  # no right guess proves nothing


def test_the_bound_is_where_the_p_value_is_one_minus_confidence():
    for delta in (0, 1e-3):
        bound = epsilon_lower_bound(100, 80, 70, delta=delta, confidence=0.9)
        for step, refuted in ((-1e-5, True), (1e-5, False)):
            p = one_run_p_value(100, 80, 70, epsilon=bound + step, delta=delta)
            assert (p <= 0.1) is refuted
    accuracy = 0.05 ** (1 / 200)  # q^200 = 5 %
    expected = math.log(accuracy / (1 - accuracy))
    assert highest_bound(200) == pytest.approx(expected, abs=1e-5)
    assert highest_bound(200, delta=1e-3) < expected
    assert epsilon_lower_bound(100, 80, 40, delta=0) == 0
    assert epsilon_lower_bound(100, 80, 70, delta=1) == 0


def coins_of(generator, m):
    return generator.random(m) < 0.5


def flipped(generator, coins, epsilon):
    """Randomised response: (ε, 0)-DP and no less."""
    truthful = generator.random(len(coins)) < 1 / (1 + math.exp(-epsilon))
    return np.where(truthful, coins, ~coins).astype(float)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_bounds_of_randomised_response_hold(epsilon, remembered):
    generator, wrong, found = np.random.default_rng(0), 0, []
    for _ in range(1500):
        coins = coins_of(generator, 200)
        found.append(audit_one_run(flipped(generator, coins, epsilon), coins, delta=0).epsilon)
        wrong += found[-1] > epsilon
    assert wrong / 1500 <= 0.05
    assert np.mean(found) >= 0.6 * epsilon  # and they are not holding for nothing


def exact_epsilon(sigma, delta):
    """ε of N(0, σ²) added to a count (Balle & Wang, ICML 2018, theorem 8)."""

    def excess(epsilon):
        return (
            norm.cdf(0.5 / sigma - epsilon * sigma)
            - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
            - delta
        )

    return brentq(excess, 0, 100)


@pytest.mark.parametrize(("sigma", "delta"), [(2.0, 1e-5), (0.7, 1e-2), (0.4, 1e-3)])
def test_bounds_of_gaussian_noise_hold(sigma, delta, remembered):
    epsilon, generator, found = exact_epsilon(sigma, delta), np.random.default_rng(1), []
    for _ in range(800):
        coins = coins_of(generator, 200)
        scores = coins + sigma * generator.normal(size=200)
        found.append(audit_one_run(scores, coins, delta=delta).epsilon)
    assert (np.array(found) > epsilon).mean() <= 0.05
    if sigma == 0.4:
        assert np.mean(found) > 1.3


def test_a_mechanism_that_uses_its_delta_up_is_not_accused(remembered):
    """With probability δ all coins are shown, else each is told by randomised response."""
    epsilon, delta, generator = 0.5, 0.2, np.random.default_rng(2)
    held, naive = 0, 0
    for _ in range(1000):
        coins = coins_of(generator, 60)
        shown = generator.random() < delta
        scores = coins.astype(float) if shown else flipped(generator, coins, epsilon)
        held += audit_one_run(scores, coins, delta=delta).epsilon > epsilon
        naive += audit_one_run(scores, coins, delta=0).epsilon > epsilon
    assert held / 1000 <= 0.05
    assert naive / 1000 > 0.15


def test_several_numbers_of_guesses_share_one_confidence(remembered):
    """Scores that are noise: each number of guesses is another chance to be misled."""
    generator, wrong = np.random.default_rng(3), 0
    tried = tuple(range(4, 101, 8))
    for _ in range(1200):
        coins = coins_of(generator, 100)
        scores = generator.normal(size=100)
        wrong += audit_one_run(scores, coins, delta=0, guesses=tried).epsilon > 0
    assert wrong / 1200 <= 0.05


def test_guesses_are_the_highest_and_the_lowest_scores():
    coins = np.array([True] * 50 + [False] * 50)
    found = audit_one_run(np.arange(100)[::-1], coins, delta=1e-6, guesses=[11])
    assert (found.canaries, found.guesses, found.correct) == (100, 11, 11)
    level = highest_bound(100, 11, delta=1e-6, confidence=0.95)
    assert found.epsilon == found.highest == level > 0
    assert (found.delta, found.confidence) == (1e-6, 0.95)
    assert audit_one_run(np.arange(100), coins, delta=0).correct == 0
    clear = audit_one_run([math.inf] * 50 + [-math.inf] * 50, coins, delta=0)
    assert (clear.guesses, clear.correct) == (100, 100)
    # Half of the canaries are told for sure, the others not: the few guesses give the bound.
    mixed = np.where(np.arange(100) % 4, 0.0, np.where(coins, 1.0, -1.0))
    order = np.random.default_rng(0).permutation(100)
    assert audit_one_run(mixed[order], coins[order], delta=0).guesses < 100


def test_equal_scores_tell_nothing():
    generator = np.random.default_rng(5)
    coins = coins_of(generator, 200)
    assert audit_one_run(np.zeros(200), coins, delta=0).epsilon < 0.2


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: audit_one_run([1, 2, 3], [True, False], delta=0), r"\(3,\).*\(2,\)"),
        (lambda: audit_one_run([1], [True], delta=0), "two canaries"),
        (lambda: audit_one_run([1, 2], [1, 0], delta=0), "int64"),
        (lambda: audit_one_run([1, 2], [True, False], delta=1.5), "1.5"),
        (lambda: audit_one_run([1, 2], [True, False], delta=math.nan), "nan"),
        (lambda: audit_one_run([1, 2], [True, False], delta=0, confidence=1), "confidence is 1"),
        (lambda: audit_one_run([1, 2], [True, False], delta=0, guesses=[3]), "3.*at most 2"),
        (lambda: audit_one_run([1, 2], [True, False], delta=0, guesses=[]), "empty"),
        (lambda: one_run_p_value(5, 6, 1, epsilon=1, delta=0), "6.*at most 5"),
        (lambda: one_run_p_value(5, 4, 5, epsilon=1, delta=0), "5.*at most 4"),
        (lambda: one_run_p_value(5, 4, 2, epsilon=-1, delta=0), "-1"),
        (lambda: epsilon_lower_bound(5, 4, 2, delta=0, confidence=0), "confidence is 0"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(InvalidSetting, match=named):
        call()


def test_a_nan_score_is_named():
    with pytest.raises(NotFinite, match=r"1 scores.*canary 1"):
        audit_one_run([0.5, math.nan, 1], [True, False, True], delta=0)
