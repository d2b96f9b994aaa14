"""ε against an integral that has no grid of losses, closed forms, and opacus."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtr

from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import epsilon_of
from rewardds import accounting
from rewardds.accounting import BoundedRelease, Release, calibrate, epsilon, renyi, renyi_epsilon
from rewardds.composition import composed_epsilon
from rewardds.errors import AccountantsDisagree, UnreachablePrivacy
from rewardds.privacy_loss import step_loss

MEDICAL = (0.557, 64 / 3364, 157)
# σ, sample rate, steps of each run; δ.
CASES = {
    "one run": ([MEDICAL], 1e-5),
    "two runs alike": ([MEDICAL, MEDICAL], 1e-5),
    "two runs": ([(0.8, 0.02, 500), (1.3, 0.05, 300)], 1e-6),
    "rare and heavy": ([(0.6, 0.004, 2000), (10.0, 1.0, 3)], 1e-9),
    "many steps": ([(2.0, 1e-3, 100_000)], 1e-7),
    "large batches": ([(1.0, 0.5, 3)], 1e-5),
    "few steps": ([(0.8, 0.05, 5)], 1e-5),
    "much noise": ([(30.0, 0.01, 100)], 1e-5),
}


def oracle(runs, delta, direction):
    """ε by a Fourier integral: with M the moments of the summed loss L, for any a > 0,

    E(1 − e^(ε−L))₊ = 1/2π ∫ M(s)·e^(−εs) / (s(s+1)) du over s = a + iu (the price of a call option,
    Carr & Madan 1999). M is a product of sums over x; losses are never put on a grid.
    """

    def log_moments(s):
        s = np.atleast_1d(np.asarray(s, dtype=complex))
        total = np.zeros(s.shape, dtype=complex)
        for sigma, p, steps in runs:
            reach = 14 * sigma
            x = np.arange(-reach, 1 + reach + 2 * (np.abs(s.real).max() + 1), sigma / 10)
            density = -((x / sigma) ** 2) / 2 - math.log(10 * math.sqrt(2 * math.pi))
            with np.errstate(divide="ignore"):
                absent = np.log1p(-p)
            loss = np.logaddexp(absent, math.log(p) + (2 * x - 1) / (2 * sigma**2))
            masses = density + loss if direction == "remove" else density
            losses = loss if direction == "remove" else -loss
            terms = masses + s[:, None] * losses
            top = terms.real.max(axis=1)
            total += steps * (top + np.log(np.exp(terms - top[:, None]).sum(axis=1)))
        return total

    line = np.geomspace(0.05, 400, 60)
    heights = np.array([log_moments(a)[0].real for a in line])
    a = line[np.argmin((heights - math.log(delta)) / line)]
    at = [log_moments(a * k)[0].real for k in (0.999, 1, 1.001)]
    width = 1 / math.sqrt((at[0] - 2 * at[1] + at[2]) / (0.001 * a) ** 2)
    u = width * np.linspace(0, 60, 2400)
    s = a + 1j * u
    moments = np.concatenate([log_moments(part) for part in np.array_split(s, 20)])

    def spent(level):
        values = (np.exp(moments - s * level) / (s * (s + 1))).real
        return np.trapezoid(values, u) / math.pi - delta

    return brentq(spent, 0, 100)


@pytest.mark.parametrize("name", CASES)
def test_epsilon_is_an_upper_bound_within_a_thousandth_of_the_integral(name):
    runs, delta = CASES[name]
    found = epsilon([Release(*run) for run in runs], delta)
    true = oracle(runs, delta, "remove")  # the larger one here, see the next test
    assert true * (1 - 2e-5) <= found <= true * 1.001


@pytest.mark.parametrize("name", ["two runs alike", "two runs", "many steps"])
def test_the_other_neighbour_is_bounded_as_well(name, monkeypatch):
    runs, delta = CASES[name]
    monkeypatch.setattr("rewardds.composition.DIRECTIONS", ("add",))
    found = composed_epsilon([Release(*run) for run in runs], delta)
    true = oracle(runs, delta, "add")
    assert true * (1 - 2e-5) <= found <= true * 1.001
    assert true < oracle(runs, delta, "remove")


@pytest.mark.parametrize(
    ("sigma", "p", "steps"), [(5.0, 1.0, 40), (0.3, 1.0, 1), (0.05, 1.0, 1), (200.0, 1.0, 7)]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-30])
def test_without_sampling_it_is_the_closed_form(sigma, p, steps, delta):
    true = epsilon_of(math.sqrt(steps) / sigma, delta)
    found = epsilon([Release(sigma, p, steps)], delta)
    assert true <= found <= true * 1.001 + 1e-4


@given(sigma=st.floats(0.3, 20), p=st.floats(1e-4, 0.9), delta=st.sampled_from([1e-4, 1e-6, 1e-9]))
@settings(max_examples=15, deadline=None)
def test_one_step_is_the_closed_form_of_both_neighbours(sigma, p, delta):
    found = epsilon([Release(sigma, p, 1)], delta)

    def spent(level, sign):
        """δ of one step, from normal distributions alone; sign −1 where the record is in Q."""
        if sign < 0 and -math.expm1(-level) >= p:
            return 0.0  # the loss never exceeds −ln(1−p)
        x = sigma**2 * math.log1p(math.expm1(sign * level) / p) + 0.5
        with_record = (1 - p) * ndtr(-x / sigma) + p * ndtr((1 - x) / sigma)
        if sign > 0:
            return with_record - math.exp(level) * ndtr(-x / sigma)
        below = (1 - p) * ndtr(x / sigma) + p * ndtr((x - 1) / sigma)
        return ndtr(x / sigma) - math.exp(level) * below

    true = max(
        brentq(lambda level, s=s: spent(level, s) - delta, 0, 200) if spent(0, s) > delta else 0.0
        for s in (1, -1)
    )
    assert true * (1 - 1e-6) - 1e-9 <= found <= true * 1.001 + 1e-4


def test_it_agrees_with_opacus_where_opacus_looks():
    """That accountant has one direction, and says how far above the truth it may be."""
    accountants = pytest.importorskip("opacus.accountants")
    runs, delta = CASES["one run"]
    theirs = accountants.PRVAccountant()
    theirs.history = list(runs)
    above = theirs.get_epsilon(delta, eps_error=0.05)
    assert above - 0.11 <= epsilon([Release(*run) for run in runs], delta) <= above


def test_it_agrees_with_dp_accounting_where_that_is_installed():
    library = pytest.importorskip("dp_accounting")
    theirs = library.pld.PLDAccountant()
    for sigma, p, steps in CASES["two runs"][0]:
        step = library.PoissonSampledDpEvent(p, library.GaussianDpEvent(sigma))
        theirs.compose(step, steps)
    ours = epsilon([Release(*run) for run in CASES["two runs"][0]], 1e-6)
    assert ours == pytest.approx(theirs.get_epsilon(1e-6), rel=0.005)


def test_two_runs_of_8_cost_10():
    """The example of the specification: neither 8 nor 16."""
    run = Release(*MEDICAL)
    assert epsilon([run], 1e-5) == pytest.approx(8.0, abs=0.05)
    assert epsilon([run, run], 1e-5) == pytest.approx(10.2, abs=0.05)
    assert epsilon([Release(0.593, 64 / 3364, 157)], 1e-5) < 8


def test_the_order_and_the_parts_of_a_run_do_not_matter():
    one, other = Release(0.8, 0.02, 500), Release(1.3, 0.05, 300)
    part = [Release(0.8, 0.02, 120), other, Release(0.8, 0.02, 380), Release(1.0, 1.0, 0)]
    assert epsilon(part, 1e-6) == epsilon([one, other], 1e-6)
    assert epsilon([other, one], 1e-6) == pytest.approx(epsilon([one, other], 1e-6), rel=1e-9)


def test_more_costs_more():
    base = epsilon([Release(1.0, 0.01, 100)], 1e-5)
    more = [(0.9, 0.01, 100), (1.0, 0.011, 100), (1.0, 0.01, 110)]
    assert all(epsilon([Release(*each)], 1e-5) > base for each in more)
    assert epsilon([Release(1.0, 0.01, 100)], 1e-6) > base
    assert epsilon([Release(1.0, 0.01, 100)], 1e-5, group=2) > base
    assert epsilon([Release(1.0, 0.01, 100), BoundedRelease(0.1)], 1e-5) > base


def test_nothing_costs_nothing_and_no_noise_everything():
    assert epsilon([], 1e-5) == 0.0
    assert renyi_epsilon([], 1e-5) == 0.0
    assert epsilon([Release(1.0, 0.1, 0), Release(0.0, 0.1, 0)], 1e-5) == 0.0
    assert epsilon([Release(1.0, 0.1, 5), Release(0.0, 0.1, 1)], 1e-5) == math.inf
    assert renyi_epsilon([Release(0.0, 0.1, 1)], 1e-5) == math.inf
    assert epsilon([Release(1e-3, 1.0, 1)], 1e-5) == math.inf
    assert epsilon([Release(10.0, 1e-6, 1)], 1e-5) == 0.0  # δ alone covers it


def test_what_is_only_known_by_its_epsilon_composes_as_well():
    """Of pure mechanisms by randomised response, of which all outcomes can be listed."""
    each, times, delta = 0.3, 4, 1e-3
    up = 1 / (1 + math.exp(-each))
    losses = [(2 * k - times) * each for k in range(times + 1)]
    masses = [math.comb(times, k) * up**k * (1 - up) ** (times - k) for k in range(times + 1)]

    def spent(level):
        pairs = zip(losses, masses, strict=True)
        return sum(m * max(-math.expm1(level - loss), 0) for loss, m in pairs) - delta

    true = brentq(spent, 0, 2)
    found = epsilon([BoundedRelease(each, 0.0, times)], delta)
    assert true - 1e-9 <= found <= true * 1.001
    with_delta = epsilon([BoundedRelease(each, delta / 8, times)], delta)
    assert found < with_delta < epsilon([BoundedRelease(each, delta / 5, times)], delta)
    assert epsilon([BoundedRelease(each, delta / 4, times)], delta) == math.inf
    assert epsilon([BoundedRelease(1.0)], 1e-9) == pytest.approx(1.0, rel=1e-3)
    assert epsilon([BoundedRelease(0.0)], 1e-9) <= 1e-6


def test_the_loss_of_a_step_on_the_grid_can_only_tell_more():
    """δ at every ε from it is at least that of the mechanism, and both masses stay."""
    size, release = 0.05, Release(0.9, 0.1, 1)
    for direction in ("remove", "add"):
        step = step_loss(release, direction, size, 1e-15)
        losses = (step.first + np.arange(len(step.masses))) * size
        assert step.masses.sum() + step.infinite == pytest.approx(1.0, abs=1e-12)
        assert (step.masses * np.exp(-losses)).sum() == pytest.approx(1.0, abs=1e-9)
        for level in (0.0, 0.012, 0.2, 0.7):
            ours = (step.masses * np.maximum(-np.expm1(level - losses), 0)).sum() + step.infinite
            x = np.linspace(-12, 13, 400_001)
            q = np.exp(-((x / 0.9) ** 2) / 2) / (0.9 * math.sqrt(2 * math.pi))
            p = 0.9 * q + 0.1 * np.exp(-(((x - 1) / 0.9) ** 2) / 2) / (0.9 * math.sqrt(2 * math.pi))
            p, q = (p, q) if direction == "remove" else (q, p)
            true = np.trapezoid(np.maximum(p - math.exp(level) * q, 0), x)
            assert true - 1e-9 <= ours <= true + size**2


def test_renyi_moments_equal_opacus_and_bound_from_above():
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = np.array([1.1, 1.5, 2.0, 3.0, 8.0, 40.0])
    for sigma, p, steps in ([0.557, 0.019, 157], [2.0, 0.3, 10], [1.0, 1.0, 3]):
        theirs = rdp.compute_rdp(q=p, noise_multiplier=sigma, steps=steps, orders=orders.tolist())
        np.testing.assert_allclose(renyi([Release(sigma, p, steps)], orders), theirs, rtol=1e-6)
    for runs, delta in CASES.values():
        releases = [Release(*run) for run in runs]
        assert renyi_epsilon(releases, delta) > epsilon(releases, delta)
    run = [Release(0.593, 64 / 3364, 157)]
    assert renyi_epsilon(run, 1e-5) == pytest.approx(8.0, abs=0.05)


def test_accountants_that_contradict_each_other_are_told(monkeypatch):
    monkeypatch.setattr(accounting, "composed_epsilon", lambda *_: 30.0)
    with pytest.raises(AccountantsDisagree, match=r"30.*Rényi"):
        epsilon([Release(*MEDICAL)], 1e-5)


@pytest.mark.parametrize("target", [0.1, 2.0, 8.0, 50.0])
def test_calibrated_noise_keeps_the_budget_and_wastes_little(target):
    runs = [(64 / 3364, 157), (64 / 3364, 100)]
    found = calibrate(target, 1e-5, runs)
    assert [(each.sample_rate, each.steps) for each in found] == runs
    assert found[0].sigma == found[1].sigma
    assert 0.998 * target <= epsilon(found, 1e-5) <= target


def test_calibration_knows_shares_and_what_was_spent():
    runs = [(0.02, 150), (0.02, 150)]
    found = calibrate(4.0, 1e-5, runs, shares=[1.0, 2.0])
    assert found[1].sigma == pytest.approx(2 * found[0].sigma)
    assert 3.99 <= epsilon(found, 1e-5) <= 4
    spent = [Release(1.0, 0.02, 100), BoundedRelease(0.5)]
    later = calibrate(4.0, 1e-5, runs, spent=spent)
    assert later[0].sigma > calibrate(4.0, 1e-5, runs)[0].sigma
    assert 3.99 <= epsilon([*spent, *later], 1e-5) <= 4
    with pytest.raises(UnreachablePrivacy, match="nothing is left"):
        calibrate(1.0, 1e-5, runs, spent=spent)


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(UnreachablePrivacy, match="not enough"):
        calibrate(1e-9, 1e-14, [(1.0, 10_000)])


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta):
    for call in (epsilon, renyi_epsilon):
        with pytest.raises(InvalidSetting, match="delta"):
            call([Release(1.0, 0.1, 1)], delta)
    with pytest.raises(InvalidSetting, match="delta"):
        calibrate(1.0, delta, [(0.1, 1)])


@pytest.mark.parametrize(
    ("sigma", "p", "steps"),
    [
        *((sigma, 0.1, 1) for sigma in (-1.0, math.nan, math.inf)),
        *((1.0, p, 1) for p in (0.0, 1.1, math.nan)),
        *((1.0, 0.1, steps) for steps in (-1, 1.5)),
    ],
)
def test_a_mechanism_that_is_none_is_refused(sigma, p, steps):
    with pytest.raises(InvalidSetting):
        Release(sigma, p, steps)


@pytest.mark.parametrize("values", [(-1.0, 0.0, 1), (math.inf, 0.0, 1), (1.0, 1.0, 1), (1, 0, 0.5)])
def test_a_bound_that_is_none_is_refused(values):
    with pytest.raises(InvalidSetting):
        BoundedRelease(*values)


def test_calls_that_say_nothing_are_refused():
    for wrong in ({"epsilon": -1.0}, {"epsilon": math.inf}, {"shares": [1.0, 2.0]}, {"runs": []}):
        with pytest.raises(InvalidSetting):
            calibrate(**({"epsilon": 1.0, "delta": 1e-5, "runs": [(0.1, 1)]} | wrong))
    with pytest.raises(InvalidSetting, match="group"):
        epsilon([Release(1.0, 0.1, 1)], 1e-5, group=0)
