import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from afl import wire
from afl.client_stats import ClientStats
from afl.dp_plan import plan
from afl.errors import RejectedUpload
from afl.federation import Federation
from afl.noisy_stats import release, standard_normals
from afl.privacy_unit import sensitivity_of
from lipogram.analytic.datasets import digits
from lipogram.analytic.sources import features_of
from lipogram.discrete_gaussian import noise_key
from lipogram.errors import IncompatibleFeatures, InvalidSetting
from lipogram.gaussian_mechanism import noise_std

X, Y = digits()
FALSE = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}


def vector(stats):
    b = stats.clip
    counts = np.zeros(2)
    counts[stats.classes] = stats.counts
    sums = np.zeros((2, stats.n_features))
    sums[stats.classes] = stats.sums.numpy()
    return np.concatenate([stats.gram_packed.numpy(), b * sums.ravel(), b**2 * counts])


@given(arrays(np.float64, (6, 4), elements=st.floats(-1e3, 1e3)), st.floats(0.01, 10))
def test_one_row_moves_the_release_by_its_sensitivity_at_most(rows, clip):
    labels = np.array([0, 1, 0, 1, 1, 0])
    whole = ClientStats.compute(rows, labels, clip=clip)
    less = ClientStats.compute(rows[1:], labels[1:], clip=clip)
    assert np.linalg.norm(vector(whole) - vector(less)) <= sensitivity_of(clip) * (1 + 1e-5)


def test_the_bound_is_reached():
    one = ClientStats.compute([[1.5, 0, 0]], [0], clip=1.5)
    none = ClientStats.compute(np.zeros((0, 3)), [], clip=1.5)
    moved = np.linalg.norm(vector(one) - vector(none))
    assert moved == pytest.approx(sensitivity_of(1.5))


def test_the_noise_has_the_calibrated_variance():
    stats = ClientStats.compute(np.zeros((50, 3)), [0] * 50, clip=2.0)
    sigma = noise_std(1.0, 1e-5, sensitivity_of(2.0))
    drawn = [release(stats, epsilon=1.0, delta=1e-5, classes=[0, 1], seed=s) for s in range(2000)]
    grams = np.stack([each.gram_packed.numpy() for each in drawn])
    sums = np.stack([each.sums.numpy().ravel() for each in drawn])
    assert grams.var() == pytest.approx(sigma**2, rel=0.05)
    assert sums.var() == pytest.approx((sigma / 2) ** 2, rel=0.05)
    assert drawn[0].noise["sigma"] == sigma


def test_without_a_seed_no_two_releases_are_alike():
    stats = ClientStats.compute(X, Y, clip=1.0)
    made = [release(stats, epsilon=1.0, delta=1e-5, classes=range(10)) for _ in range(2)]
    assert made[0].digest != made[1].digest


def test_less_privacy_comes_ever_nearer_to_the_head_without_noise():
    stats = ClientStats.compute(X, Y, clip=1.0)
    plain = Federation()
    plain.add("a", stats)
    oracle = plain.solve(1.0).weight
    off = []
    for epsilon in (10.0, 1e4, 1e8):
        noisy = Federation()
        made = release(stats, epsilon=epsilon, delta=1e-5, classes=range(10), seed=0)
        noisy.add("a", wire.from_bytes(wire.to_bytes(made)).stats)
        off.append(float((noisy.solve(1.0).weight - oracle).norm() / oracle.norm()))
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-2


def test_what_cannot_be_hidden_is_refused():
    stats = ClientStats.compute(X, Y, clip=1.0)
    settings = {"epsilon": 1.0, "delta": 1e-5, "classes": range(10)}
    for bad in (
        ClientStats.compute(X, Y),
        ClientStats.compute(X, Y, clip=1.0, per_class=True),
        ClientStats(64, clip=1.0).update(X, Y, sample_weight=np.full(len(X), 0.5)),
        release(stats, **settings),
    ):
        with pytest.raises(InvalidSetting):
            release(bad, **settings)
    with pytest.raises(IncompatibleFeatures, match="class 9"):
        release(stats, **{**settings, "classes": range(9)})


def test_sums_claim_privacy_only_where_all_of_them_have_it():
    exact = ClientStats.compute(X, Y, clip=1.0)
    settings = {"delta": 1e-5, "classes": range(10)}
    one, other = (release(exact, epsilon=e, seed=i, **settings) for i, e in enumerate((1.0, 3.0)))
    assert (one + exact).noise is None
    assert (exact + one).noise is None
    both = (one + other).noise
    assert both["epsilon"] == 3.0
    assert both["sigma"] == pytest.approx(np.hypot(one.noise["sigma"], other.noise["sigma"]))
    assert one.noise["epsilon"] == 1.0
    with pytest.raises(InvalidSetting, match="randomised"):
        one.update(X, Y)


@pytest.mark.parametrize(
    "claim",
    [
        {"unit": "row"},
        FALSE | {"epsilon": -1.0},
        FALSE | {"unit": "all"},
        FALSE | {"x": 1},
        3,
        "no",
    ],
)
def test_a_malformed_claim_is_refused(claim):
    stats = ClientStats.compute(X, Y)
    stats.noise = claim
    with pytest.raises(RejectedUpload):
        wire.from_bytes(wire.to_bytes(stats))


def test_the_cipher_gives_normal_numbers():
    drawn = standard_normals(noise_key(1), 50_000)
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert np.array_equal(drawn[:9], standard_normals(noise_key(1), 9))


def test_the_plan_shows_what_privacy_costs():
    table = plan(features_of("digits"), epsilons=(0.1, 1e6), widths=(16, 64, 512))
    assert [row[0] for row in table.rows] == [16, 64]
    for row in table.rows:
        assert row[3] < row[4] + 1e-9
        assert row[4] == pytest.approx(row[2], abs=0.05)
