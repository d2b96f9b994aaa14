import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afl.client_stats import ClientStats
from afl.errors import BelowThreshold, TooFewClients
from afl.federation import Federation
from afl.fixed_point import StatsLayout
from afl.joint_vector import joint_vector
from afl.noise_shares import DEVIATIONS, NoiseGrid, NoiseShares
from afl.noisy_stats import release
from afl.privacy_unit import bounded, sensitivity_of
from afl.secure_sum import secure_sum
from lipogram.discrete_gaussian import noise_key
from lipogram.errors import InvalidFeatures, InvalidSetting
from lipogram.gaussian_mechanism import delta_of, mu_of, mu_on_grid, noise_std

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((300, 12)), rng.integers(0, 4, 300)
SHARES = NoiseShares(epsilon=1.0, delta=1e-5, shares=3)


def layout(noise=SHARES, clients=6, **changes):
    facts = {"n_features": 12, "classes": list(range(4)), "clip": 1.0, "most_rows": 100}
    return StatsLayout(**{**facts, "clients": clients, "noise": noise, **changes})


def silos(number=6):
    parts = np.array_split(np.argsort(Y), number)
    return {f"silo {i}": ClientStats.compute(X[p], Y[p], clip=1.0) for i, p in enumerate(parts)}


# ---------------------------------------------------------------------- what the noise is worth


def weights(sigma, reach):
    x = np.arange(-reach, reach + 1)
    made = np.exp(-(x**2) / (2 * sigma**2))
    return made / made.sum()


def summed(sigma, shares, reach):
    total = weights(sigma, reach)
    for _ in range(shares - 1):
        total = np.convolve(total, weights(sigma, reach))
    return total


@pytest.mark.parametrize("shares", [2, 3, 6])
@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0])
def test_a_sum_of_discrete_gaussians_is_nearly_one(sigma, shares):
    """The bound of the documentation, from Poisson's summation, at σ where it can be seen."""
    made = summed(sigma, shares, 40)
    whole = weights(math.sqrt(shares) * sigma, 40 * shares)
    near = slice(len(made) // 2 - 8, len(made) // 2 + 9)
    off = np.abs(np.log(made[near] / whole[near])).max()
    tails = [
        sum(math.exp(-2 * (math.pi * sigma * j) ** 2 * k / (k + 1)) for j in range(1, 9))
        for k in range(1, shares)
    ]
    bound = sum(math.log((1 + 2 * e) / (1 - 2 * e)) for e in tails)
    assert 0 < off <= bound + 1e-12


@pytest.mark.parametrize("variance", [2.0, 30.0, 500.0])
def test_it_is_near_the_rounded_normal_distribution_where_that_is_compared(variance):
    from scipy.special import ndtr

    scale = math.sqrt(variance)
    x = np.arange(-int(6 * scale), int(6 * scale) + 1)
    rounded = ndtr((-np.abs(x) + 0.5) / scale) - ndtr((-np.abs(x) - 0.5) / scale)
    discrete = weights(scale, int(30 * scale))[len(weights(scale, int(30 * scale))) // 2 + x]
    ratio = np.log(rounded / discrete)
    assert (ratio >= -1 / (12 * variance)).all()
    assert (ratio <= x**2 / (24 * variance**2) + 1e-9).all()


def divergence(one, other, epsilon):
    return float(np.maximum(one - math.exp(epsilon) * other, 0).sum())


@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-3), (1.0, 1e-5), (4.0, 1e-6)])
def test_the_calibrated_sum_is_private_by_brute_force(shares, bits, epsilon, delta):
    variance = shares * 4.0**bits
    noise = summed(2.0**bits, shares, 12 * 2**bits)
    try:
        mu = mu_on_grid(1, variance, epsilon, delta)
    except InvalidSetting:
        assert bits == 2  # too coarse, and it says so
        return
    moved = int(mu * math.sqrt(variance))
    one, other = np.pad(noise, (moved, 0)), np.pad(noise, (0, moved))
    assert divergence(one, other, epsilon) <= delta
    assert divergence(other, one, epsilon) <= delta


def test_the_calibrated_sum_of_two_numbers_is_private_by_brute_force():
    epsilon, delta, bits = 1.0, 1e-4, 3
    noise = summed(2.0**bits, 2, 10 * 2**bits)
    steps = mu_on_grid(2, 2 * 4.0**bits, epsilon, delta) * math.sqrt(2 * 4.0**bits)
    a, b = int(0.6 * steps), int(0.8 * steps)
    still = np.outer(np.pad(noise, (0, a)), np.pad(noise, (0, b)))
    moved = np.outer(np.pad(noise, (a, 0)), np.pad(noise, (b, 0)))
    assert divergence(still, moved, epsilon) <= delta


@pytest.mark.parametrize("size", [1, 1000])
def test_the_gap_of_the_grid_is_the_derived_one(size):
    variance, epsilon, delta = 3 * 4.0**9, 1.0, 1e-5
    reach = 2 * (epsilon + math.log(2 * size / delta) + 40)
    left = epsilon - size * (reach + 4) / (24 * variance)
    mu = mu_on_grid(size, variance, epsilon, delta)
    assert delta_of(mu, left) <= delta * (math.exp(-size / (6 * variance)) - math.exp(-40))
    assert mu == pytest.approx(mu_of(left, delta), rel=1e-3)
    with pytest.raises(InvalidSetting, match="epsilon"):
        mu_on_grid(size, size / 100, epsilon, delta)


@pytest.mark.parametrize("size", [14, 3_000, 150_000])
@pytest.mark.parametrize("epsilon", [1e-4, 0.1, 1.0, 8.0, 1e6])
@pytest.mark.parametrize("shares", [1, 3, 50])
def test_the_grid_covers_the_sensitivity_and_its_own_rounding(size, epsilon, shares):
    noise = NoiseShares(epsilon=epsilon, delta=1e-5, shares=shares)
    grid = NoiseGrid(agreed=noise, size=size, clip=1.5, most_rows=1000, clients=60)
    in_steps = grid.sensitivity / grid.step + math.sqrt(size)
    assert in_steps <= grid.mu * math.sqrt(shares) * 2.0**grid.bits * (1 + 1e-12)
    assert grid.mu <= mu_of(epsilon, 1e-5) * (1 + 1e-9)
    # Hardly more noise than a trusted server would add.
    calibrated = noise_std(epsilon, 1e-5, sensitivity_of(1.5))
    assert calibrated < grid.sigma(shares) < calibrated * 1.001


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_errors_of_float_sums_are_within_what_is_allowed_for(chunks, seed):
    random = np.random.default_rng(seed)
    order, rows = random.permutation(300), X * random.uniform(0.1, 1e3)
    one = ClientStats.compute(rows, Y, clip=1.0)
    other = ClientStats(12, clip=1.0)
    for part in np.array_split(order, chunks):
        other.merge(ClientStats.compute(rows[part], Y[part], clip=1.0))
    grid = layout(most_rows=300).grid
    off = np.linalg.norm(joint_vector(one, range(4)) - joint_vector(other, range(4)))
    assert off <= grid.sensitivity - sensitivity_of(1.0)


def test_one_row_moves_the_integers_by_what_the_noise_covers():
    plan = layout()
    limit = plan.grid.mu * math.sqrt(3) * 2.0**plan.grid.bits
    whole = ClientStats.compute(X[:100], Y[:100], clip=1.0)
    with_all = plan.encode(whole, seed=1).view(np.int64)
    for row in range(0, 100, 7):
        kept = np.arange(100) != row
        less = plan.encode(ClientStats.compute(X[:100][kept], Y[:100][kept], clip=1.0), seed=1)
        moved = np.linalg.norm((with_all - less.view(np.int64)).astype(float))
        assert 0.5 * limit < moved <= limit


# ---------------------------------------------------------------------- what a cohort's sum is


@pytest.mark.parametrize("survivors", [3, 5])
def test_the_noise_of_the_survivors_has_the_told_variance(survivors):
    plan = layout(n_features=12, classes=[0], clients=5)
    none = ClientStats.compute(X[:0, :12], Y[:0], clip=1.0)
    names = [f"c{i}" for i in range(survivors)]
    drawn = []
    for seed in range(200):
        total = sum((plan.encode(none, seed=9 * seed + i) for i in range(survivors)), np.uint64(0))
        drawn.append(plan.grid.decode(total))
        claim = plan.decode(total, names).noise
    told = math.sqrt(survivors / 3) * noise_std(1.0, 1e-5, sensitivity_of(1.0))
    assert claim["sigma"] == pytest.approx(told, rel=1e-3)
    assert np.var(drawn) == pytest.approx(claim["sigma"] ** 2, rel=0.05)
    assert abs(np.mean(drawn)) < 5 * told / math.sqrt(np.size(drawn))


def test_a_masked_cohort_with_drop_outs_gives_a_private_sum():
    plan, made = layout(), silos()
    vectors = {name: plan.encode(stats) for name, stats in made.items()}
    least = plan.noise.least_survivors
    total, left = secure_sum(vectors, dropped=["silo 2"], minimum_cohort=least)
    stats = plan.decode(total, left)
    assert (stats.noise["epsilon"], stats.noise["shares"]) == (1.0, 3)
    exact = sum(joint_vector(s, range(4)) for n, s in made.items() if n in left)
    off = joint_vector(stats_without_claim(stats), range(4)) - exact
    assert np.abs(off).max() < 6 * stats.noise["sigma"]
    federation = Federation()
    federation.add("cohort", stats, members=left)
    assert federation.total().noise == stats.noise
    assert federation.solve(50.0).weight.isfinite().all()


def stats_without_claim(stats):
    plain = stats.copy()
    plain.noise = None
    return plain


def test_too_few_survivors_claim_nothing_and_open_nothing():
    plan = layout(NoiseShares(epsilon=1.0, delta=1e-5, shares=4, colluding=1))
    vectors = {name: plan.encode(stats) for name, stats in silos().items()}
    total = sum((vectors[f"silo {i}"] for i in range(4)), np.uint64(0))
    for survivors in ([], ["silo 0"] * 5, [f"silo {i}" for i in range(4)]):
        with pytest.raises(TooFewClients, match="from 5 on"):
            plan.decode(total, survivors)
    with pytest.raises((BelowThreshold, TooFewClients)):
        secure_sum(
            vectors,
            threshold=4,
            dropped=["silo 0", "silo 1"],
            minimum_cohort=plan.noise.least_survivors,
        )


def test_without_limit_the_head_is_the_one_without_noise():
    off = []
    exact = Federation(minimum_rows=1)
    for name, stats in silos().items():
        exact.add(name, stats)
    oracle = exact.solve(1.0).weight
    for epsilon in (10.0, 1e4, 1e10):
        plan = layout(NoiseShares(epsilon=epsilon, delta=1e-5, shares=3))
        vectors = {n: plan.encode(s, seed=i) for i, (n, s) in enumerate(silos().items())}
        total, left = secure_sum(vectors)
        noisy = Federation()
        noisy.add("cohort", plan.decode(total, left), members=left)
        off.append(float((noisy.solve(1.0).weight - oracle).norm() / oracle.norm()))
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-4
    assert noisy.n_rows == len(X)


def test_hidden_clients_share_the_noise_for_their_bound():
    noise = NoiseShares(epsilon=1e10, delta=1e-5, shares=3, unit="client", bound=20.0)
    plan, made = layout(noise), silos()
    total, left = secure_sum({n: plan.encode(s) for n, s in made.items()})
    stats = plan.decode(total, left)
    assert (stats.noise["unit"], stats.noise["bound"]) == ("client", 20.0)
    oracle = sum(joint_vector(bounded(s, 20.0), range(4)) for s in made.values())
    assert max(np.linalg.norm(joint_vector(s, range(4))) for s in made.values()) > 25
    found = plan.grid.decode(total)
    assert np.abs(found - oracle).max() < 6 * stats.noise["sigma"] + 1e-3
    assert np.abs(stats.counts - oracle[-4:]).max() <= 0.51  # counts of scaled sums are fractions
    limit = plan.grid.mu * math.sqrt(3) * 2.0**plan.grid.bits
    for stats in made.values():
        none = plan.encode(ClientStats.compute(X[:0], Y[:0], clip=1.0), seed=1).view(np.int64)
        moved = (plan.encode(stats, seed=1).view(np.int64) - none).astype(float)
        assert np.linalg.norm(moved) <= limit


def test_counts_below_zero_go_through_the_ring():
    plan = layout(most_rows=1)
    none = ClientStats.compute(X[:0], Y[:0], clip=1.0)
    total = sum((plan.encode(none, seed=i) for i in range(3)), np.uint64(0))
    values = plan.grid.decode(total)
    assert values[-4:].min() < -0.5
    assert plan.decode(total, "abc").counts.min() >= 0  # and are told as whole numbers


def test_without_a_seed_no_two_encodings_are_alike():
    plan, stats = layout(), silos()["silo 0"]
    assert not np.array_equal(plan.encode(stats), plan.encode(stats))
    assert np.array_equal(plan.encode(stats, seed=3), plan.encode(stats, seed=3))


# ---------------------------------------------------------------------- what is refused


def test_nothing_beyond_the_bounds_is_cut_off_silently(monkeypatch):
    grid = layout().grid
    for bad in (np.nan, np.inf, 100.1, -100.1):
        values = np.zeros(grid.size)
        values[1] = bad
        with pytest.raises(InvalidFeatures, match="number 1"):
            grid.encode(values, noise_key(0))
    for size in (DEVIATIONS, -DEVIATIONS):
        huge = np.full(grid.size, int(size * 2.0**grid.bits * 1.01), dtype=np.int64)
        monkeypatch.setattr("afl.noise_shares.discrete_gaussian", lambda *_, made=huge: made)
        with pytest.raises(InvalidFeatures, match="standard deviations"):
            grid.encode(np.zeros(grid.size), noise_key(0))


@given(st.floats(0.01, 100), st.integers(1, 10**6), st.integers(3, 5000), st.floats(0.01, 1e4))
def test_the_largest_sum_stays_in_the_ring_or_is_refused(clip, most_rows, clients, epsilon):
    noise = NoiseShares(epsilon=epsilon, delta=1e-5, shares=3)
    try:
        grid = NoiseGrid(agreed=noise, size=90, clip=clip, most_rows=most_rows, clients=clients)
    except InvalidSetting:
        return
    most = grid.bound / grid.step + DEVIATIONS * 2.0**grid.bits
    assert clients * most < 2.0**62


@pytest.mark.parametrize(
    "changes",
    [
        {"shares": 0},
        {"colluding": -1},
        {"epsilon": 0.0},
        {"delta": 1.0},
        {"unit": "client"},
        {"bound": 3.0},
        {"unit": "all"},
        {"shares": 7},  # more than there are clients
    ],
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(InvalidSetting):
        layout(NoiseShares(**{**asdict(SHARES), **changes}))


def test_as_many_clients_as_the_ring_holds_and_no_more():
    noise = NoiseShares(epsilon=1.0, delta=1e-5, shares=3)
    facts = {"agreed": noise, "size": 90, "clip": 1.0, "most_rows": 10**7}
    grid = NoiseGrid(**facts, clients=3)
    most = int(2.0**62 / (grid.bound / grid.step + DEVIATIONS * 2.0**grid.bits + 1))
    assert NoiseGrid(**facts, clients=most - 1).step == grid.step
    with pytest.raises(InvalidSetting, match="2\\^62"):
        NoiseGrid(**facts, clients=most + 1)


def test_little_noise_and_large_sums_do_not_fit_together():
    with pytest.raises(InvalidSetting, match="2\\^62"):
        layout(NoiseShares(epsilon=1e12, delta=1e-5, shares=3), most_rows=10**8)


def test_noise_does_not_go_on_noise_and_rows_are_those_agreed():
    plan = layout()
    stats = ClientStats.compute(X, Y, clip=1.0)
    with pytest.raises(InvalidFeatures, match="300 rows"):
        plan.encode(stats)
    noisy = release(silos()["silo 0"], epsilon=1.0, delta=1e-5, classes=range(4))
    with pytest.raises(InvalidFeatures, match="randomised"):
        plan.encode(noisy)


def test_a_layout_travels_as_a_mapping():
    told = asdict(layout())
    again = StatsLayout(**told)
    assert again == layout()
    assert again.grid.step == layout().grid.step
    stats = silos()["silo 1"]
    assert np.array_equal(again.encode(stats, seed=0), layout().encode(stats, seed=0))
    assert StatsLayout(**asdict(layout(None))).grid is None
    assert torch.is_tensor(layout(None).decode(layout(None).encode(stats)).cross)
