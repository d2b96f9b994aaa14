"""The attacks on a message: exact cases, oracles, and the figures that the method is judged by."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from privacyrestore.likelihood_recovery import most_likely
from privacyrestore.mechanisms import Exact, Full, Gaussian, ScalarCompat, Subspace
from privacyrestore.recovery_scores import recovery, set_scores
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server_view import in_its_span, noise_law, simulated_view
from privacyrestore.span_attacks import RECOVERY_ATTACKS, guess
from privacyrestore.span_prior import SpanPrior, indicators
from privacyrestore.span_recovery import least_squares, likeliest, non_negative

from .banks import loose_identity, random_bank

M = 149


def drawn_sets(n, n_spans=M, size=5, seed=0):
    draw = np.random.default_rng(seed)
    return [tuple(int(i) for i in draw.choice(n_spans, size, replace=False)) for _ in range(n)]


@pytest.fixture(scope="module")
def wide():
    """149 random unit directions in 22,400 dimensions, as a 7B model's bank at the start."""
    sites = [(layer, head) for layer in range(32) for head in range(32)][:175]
    return random_bank(loose_identity(32, 32, 128), sites, M)


def small(n_spans=12, width=16, seed=0, **settings):
    return random_bank(
        loose_identity(4, 4, width), [(0, 0), (2, 1)], n_spans, seed=seed, **settings
    )


def recalls(bank, mechanism, sets, attacks=RECOVERY_ATTACKS, **settings):
    view = simulated_view(bank, mechanism, sets, **settings)
    true = indicators(sets, len(bank.vocabulary))
    prior = SpanPrior.of(drawn_sets(2000, len(bank.vocabulary), seed=9), len(bank.vocabulary))
    return {
        attack: recovery(guess(attack, view, prior, true.sum(1)), true, prior.frequencies).recall
        for attack in attacks
    }


@pytest.mark.parametrize(
    ("mechanism", "expected", "within"),
    [
        (Subspace(75.0), 0.68, 0.05),
        (Subspace(149.0), 0.98, 0.025),
        (Full(1000.0), 0.77, 0.05),
        (Full(75.0), 0.06, 0.03),
    ],
)
def test_recovery_is_that_of_an_independent_simulation(wide, mechanism, expected, within):
    """The figures of five spans of 149 in noise, which another program has given before."""
    found = recalls(wide, mechanism, drawn_sets(150))
    for attack, recall in found.items():
        if not attack.endswith("unknown"):
            assert recall.value == pytest.approx(expected, abs=within), attack


@pytest.mark.parametrize("mechanism", [Exact(unsafe=True), ScalarCompat(75.0)])
def test_without_noise_every_attack_recovers_every_set(wide, mechanism):
    for attack, recall in recalls(wide, mechanism, drawn_sets(60)).items():
        assert recall.value == 1.0, attack


def test_a_mean_of_fresh_releases_tells_more(wide):
    sets = drawn_sets(100)
    once, often = (
        recalls(wide, Subspace(75.0), sets, ["likelihood"], releases=releases)["likelihood"]
        for releases in (1, 4)
    )
    assert often.low > once.high
    assert often.value > 0.97


def test_what_is_sent_in_the_banks_own_coordinates_is_what_the_whole_bank_sends():
    bank = small()
    short = in_its_span(bank)
    assert (short.n, short.rank, short.diameter) == (bank.rank, bank.rank, bank.diameter)
    for mechanism in (Subspace(40.0), Gaussian(40.0, 1e-5)):
        for spans in ((), (3,), (1, 2, 7)):
            whole = mechanism.release(bank, bank.signal(spans), 5)
            torch.testing.assert_close(
                mechanism.release(short, short.signal(spans), 5), whole, rtol=0, atol=1e-3
            )


def test_non_negative_weights_are_scipys():
    bank = small(n_spans=20)
    view = simulated_view(bank, Subspace(60.0), drawn_sets(30, 20, 3))
    ours = non_negative(view)
    for row, message in enumerate(view.coordinates.numpy()):
        theirs, _ = nnls(view.rows.T.numpy(), message)
        np.testing.assert_allclose(ours[row].numpy(), theirs, atol=1e-6)


def test_least_squares_is_numpys():
    view = simulated_view(small(), Subspace(60.0), drawn_sets(9, 12, 3))
    theirs = np.linalg.lstsq(view.rows.T.numpy(), view.coordinates.T.numpy(), rcond=None)[0]
    np.testing.assert_allclose(least_squares(view).numpy(), theirs.T, atol=1e-9)


def brute(view, prior, size):
    """The posterior over all sets of given sizes, written out."""
    best, kept = -np.inf, None
    n = len(view.groups)
    rows = view.rows[view.groups].numpy()
    found = []
    for row, message in enumerate(view.coordinates.numpy()):
        best, kept = -np.inf, None
        for j in size if isinstance(size, range) else [int(size[row])]:
            for spans in itertools.combinations(range(n), j):
                z = rows[list(spans)].sum(0)
                z /= np.linalg.norm(z)
                squared = ((message - z) ** 2).sum() + float(view.outside[row])
                value = float(view.log_density(torch.tensor(squared)))
                value += sum(float(prior.log_odds[s]) for s in spans)
                if isinstance(size, range):
                    value += float(prior.size_terms[j])
                if value > best:
                    best, kept = value, spans
        found.append(kept)
    return indicators(found, n)


@pytest.mark.parametrize("mechanism", [Subspace(25.0), Full(80.0), Gaussian(40.0, 1e-4)])
def test_the_search_finds_the_best_of_all_sets(mechanism):
    bank = small(n_spans=9)
    sets = [s[: 1 + i % 3] for i, s in enumerate(drawn_sets(24, 9, 3))]
    prior = SpanPrior.of([(0, 1), (0, 2), (0, 3, 4), (5,), (6, 7, 8), (0, 1, 2)], 9)
    view = simulated_view(bank, mechanism, sets)
    sizes = indicators(sets, 9).sum(1)
    agree = (most_likely(view, prior, sizes) == brute(view, prior, sizes)).all(1)
    assert agree.double().mean() > 0.95  # a search; it may miss
    free = (most_likely(view, prior) == brute(view, prior, range(1, 5))).all(1)
    assert free.double().mean() > 0.9


def test_the_prior_decides_where_the_message_says_nothing():
    bank = small()
    sets = drawn_sets(20, 12, 3)
    view = simulated_view(bank, Subspace(1e-4), sets)
    prior = SpanPrior.of([(2, 5, 9)] * 30 + drawn_sets(20, 12, 3, seed=4), 12)
    chosen = most_likely(view, prior, torch.full((20,), 3))
    assert (chosen == indicators([(2, 5, 9)], 12)).all()


def test_of_spans_with_one_vector_the_more_frequent_is_guessed():
    whole = small(n_spans=3)
    bank = RestorationBank(
        whole.vectors, whole.sites, tuple("abcdef"), (0, 0, 0, 1, 1, 2), whole.model
    )
    prior = SpanPrior.of([(1,), (1,), (0,), (4,), (5,)], 6)
    view = simulated_view(bank, Exact(unsafe=True), [(0, 3), (2, 4), (5,)])
    for attack in RECOVERY_ATTACKS[:-1]:
        chosen = guess(attack, view, prior, torch.tensor([2, 2, 1]))
        assert (chosen == indicators([(1, 4), (1, 4), (5,)], 6)).all(), attack
    scores = likeliest(torch.tensor([[3.0, 2.0, 1.0]]), view.groups, prior, torch.tensor([4]))
    assert (scores == indicators([(1, 4, 5, 0)], 6)).all()  # each vector once, then again


def test_two_spans_of_one_vector_count_twice():
    whole = small(n_spans=2)
    bank = RestorationBank(whole.vectors, whole.sites, tuple("abc"), (0, 0, 1), whole.model)
    sets = [(0, 1, 2)]
    view = simulated_view(bank, Exact(unsafe=True), sets)
    prior = SpanPrior.of([(0,), (1,), (2,), (0, 2)], 3)
    assert bool(most_likely(view, prior).all())


def test_the_noise_law_is_that_of_the_noise():
    """Densities against moments: E‖x‖² of the law equals that of the draws."""
    bank = small()
    for mechanism in (Full(50.0), Gaussian(50.0, 1e-5)):
        law = noise_law(bank, mechanism)
        size = bank.n if isinstance(mechanism, Full) else bank.rank
        radius = torch.linspace(1e-3, 20, 200_001, dtype=torch.float64)
        log_p = law(radius**2) + (size - 1) * radius.log()
        p = (log_p - log_p.max()).exp()
        expected = float((p * radius**2).sum() / p.sum())
        zero = torch.zeros(bank.n, dtype=torch.float64)
        drawn = [float(mechanism.release(bank, zero, i).square().sum()) for i in range(300)]
        assert np.mean(drawn) == pytest.approx(expected, rel=0.06)
    many = noise_law(bank, Full(50.0), 4)(torch.tensor(1.0))
    assert float(many) == pytest.approx(-4 * 50.0**2 / (2 * (bank.n + 1)))


def test_rows_do_not_depend_on_each_other():
    bank, sets = small(), drawn_sets(70, 12, 3)
    prior = SpanPrior.of(sets, 12)
    view = simulated_view(bank, Subspace(40.0), sets)
    part = simulated_view(bank, Subspace(40.0), sets[:20])
    torch.testing.assert_close(view.coordinates[:20], part.coordinates)
    sizes = torch.full((70,), 3)
    torch.testing.assert_close(
        most_likely(view, prior, sizes)[:20], most_likely(part, prior, sizes[:20])
    )


def test_weights_that_differ_lower_what_equal_ones_explain():
    bank, sets = small(n_spans=30, width=64), drawn_sets(60, 30, 4)
    skewed = [(8.0, 1.0, 1.0, 0.3)] * 60
    prior, true = SpanPrior.of(sets, 30), indicators(sets, 30)
    found = []
    for weights in (None, skewed):
        view = simulated_view(bank, Subspace(60.0), sets, weights)
        scores = set_scores(guess("likelihood", view, prior, true.sum(1)), true)
        found.append(float(scores["recall"].mean()))
    assert found[1] < found[0]
