import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, kstest, norm

from lipogram.errors import InvalidSetting
from privacyrestore.guarantee import Guarantee
from privacyrestore.mechanisms import (
    BITS,
    Exact,
    Full,
    Gaussian,
    ScalarCompat,
    Subspace,
    make_mechanism,
)
from privacyrestore.payload import message_length
from privacyrestore.secure_noise import MOST_STEPS, Grid, gamma_ball, secure_stream, uniforms

from .banks import loose_identity, random_bank

BANK = random_bank(loose_identity(), [(0, 0), (1, 2), (3, 3)], 9)
WIDE = random_bank(loose_identity(head_dim=64), [(0, 0), (1, 2), (3, 3)], 149)
ALL = [Full(30.0), Subspace(30.0), Gaussian(8.0, 1e-5), Exact(unsafe=True)]


def test_noise_has_the_law_of_the_paper():
    draws = np.stack([gamma_ball(stream, 149, 75.0) for stream in [secure_stream()] * 20_000])
    lengths = np.linalg.norm(draws, axis=1)
    assert lengths.mean() == pytest.approx(149 / 75, rel=0.01)
    assert lengths.var() == pytest.approx(149 / 75**2, rel=0.05)
    assert np.abs((draws / lengths[:, None]).mean(0)).max() <= 0.02
    assert kstest(lengths, gamma(149, scale=1 / 75).cdf).pvalue > 0.01


def test_a_message_is_signal_and_that_noise():
    signal = WIDE.signal([3, 7, 90])
    found = torch.stack([Subspace(75.0).release(WIDE, signal) for _ in range(4000)])
    lengths = (found - WIDE.coordinates(signal)).norm(dim=1)
    assert kstest(lengths.numpy(), gamma(WIDE.rank, scale=1 / 75).cdf).pvalue > 1e-3
    assert (found.mean(0) - WIDE.coordinates(signal)).abs().max() < 0.02


def test_no_seed_has_a_part_in_it():
    for mechanism in ALL[:3]:
        found = []
        for _ in range(2):
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            found.append(mechanism.release(BANK, BANK.signal([1])))
        assert not torch.equal(*found)
        fixed = [mechanism.release(BANK, BANK.signal([1]), randomness=5) for _ in range(2)]
        assert torch.equal(*fixed)


@pytest.mark.parametrize("mechanism", ALL)
@pytest.mark.parametrize("ids", [[], [0], [0, 3, 8]])
def test_messages_have_the_public_shape_whatever_the_spans(mechanism, ids):
    message = mechanism.release(BANK, BANK.signal(ids))
    assert message.shape == (message_length(BANK, mechanism.name),)
    assert torch.isfinite(message).all()
    assert mechanism.restore(BANK, message).shape == (BANK.n,)


@pytest.mark.parametrize("mechanism", ALL[:2])
@given(ids=st.lists(st.integers(0, 8), max_size=4, unique=True))
@settings(max_examples=20)
def test_released_numbers_lie_on_the_public_grid_and_are_exact_in_float32(mechanism, ids):
    message = mechanism.release(BANK, BANK.signal(ids))
    grid = Grid.fitting(len(message), mechanism.epsilon)
    steps = message / grid.step
    assert torch.equal(steps, steps.round())
    assert steps.abs().max() <= grid.half
    assert torch.equal(message.float().double(), message)


@given(st.integers(1, 30_000), st.floats(1e-3, 1e7))
def test_the_grid_is_fine_wide_and_exact(size, epsilon):
    grid = Grid.fitting(size, epsilon)
    assert math.log2(grid.step) == int(math.log2(grid.step))
    assert grid.half <= 2**24
    assert grid.half * grid.step >= 1 + gamma(size, scale=1 / epsilon).isf(1e-15)
    coarse = 1e-3 * size / epsilon * MOST_STEPS < 4 * (1 + size / epsilon)
    assert grid.step <= 1e-3 * size / epsilon or coarse


def test_clipping_and_rounding():
    grid = Grid(0.5, 4)
    assert grid.rounded(np.array([0.2, 0.3, -9.0, 9.0])).tolist() == [0.0, 0.5, -2.0, 2.0]


@pytest.mark.parametrize("seed", range(5))
def test_projection_on_the_basis_keeps_distances(seed):
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randperm(149, generator=draw)[: 2 + seed].tolist() for _ in range(2)]
    one, other = (WIDE.signal(each) for each in ids)
    apart = (WIDE.coordinates(one) - WIDE.coordinates(other)).norm()
    assert apart == pytest.approx(float((one - other).norm()), abs=1e-5)


def test_likelihoods_of_two_signals_stay_within_the_metric_bound():
    # In two dimensions, from a histogram: log p(y|a) − log p(y|b) ≤ ε‖a − b‖ in every cell.
    bank = random_bank(loose_identity(1, 1, 2), [(0, 0)], 2)
    epsilon, n = 1.5, 60_000
    a, b = bank.signal([0]), bank.signal([1])
    counts = []
    for signal in (a, b):
        mean = bank.coordinates(signal).numpy()
        stream = secure_stream()
        draws = np.stack([mean + gamma_ball(stream, 2, epsilon) for _ in range(n)])
        counts.append(np.histogram2d(*draws.T, bins=8, range=[[-3, 3]] * 2)[0])
    seen = (counts[0] > 300) & (counts[1] > 300)
    ratio = np.log(counts[0][seen] / counts[1][seen])
    bound = epsilon * float((a - b).norm())
    assert np.abs(ratio).max() <= bound + 0.25
    assert np.abs(ratio).max() > 0.5 * bound


def test_gaussian_noise_has_epsilon_and_delta_by_integration():
    mechanism = Gaussian(3.0, 1e-4)
    sigma, delta_distance = mechanism.sigma(BANK), BANK.diameter
    x = np.linspace(-12 * sigma, 12 * sigma + delta_distance, 400_001)
    excess = norm.pdf(x, delta_distance, sigma) - math.exp(3.0) * norm.pdf(x, 0, sigma)
    found = np.trapezoid(np.maximum(excess, 0), x)
    assert found <= 1e-4
    assert found >= 0.99e-4  # and not more noise than that asks for


def test_gaussian_noise_is_whole_steps_around_the_rounded_signal():
    mechanism = Gaussian(6.0, 1e-5)
    step = mechanism.sigma(BANK) / 2**BITS
    signal = BANK.signal([2, 4])
    found = torch.stack([mechanism.release(BANK, signal) for _ in range(600)])
    assert torch.allclose(found / step, (found / step).round(), atol=1e-6)
    noise = (found - BANK.coordinates(signal)) / mechanism.sigma(BANK)
    assert kstest(noise.flatten().numpy(), norm.cdf).pvalue > 1e-3


def test_rounding_is_counted_in_the_sensitivity():
    signals = [BANK.signal([i]) for i in range(9)]
    step = Gaussian(6.0, 1e-5).sigma(BANK) / 2**BITS
    rounded = [torch.round(BANK.coordinates(z) / step) * step for z in signals]
    furthest = max(float((a - b).norm()) for a in rounded for b in rounded)
    assert furthest <= BANK.diameter + math.sqrt(BANK.rank) * step


def test_what_each_promises():
    assert Subspace(3.0).guarantee(BANK) == Guarantee(
        "subspace", 3.0, BANK.diameter, 3.0 * BANK.diameter
    )
    assert Gaussian(4.0, 1e-6).guarantee(BANK).local_epsilon == 4.0
    for mechanism in (Exact(unsafe=True), ScalarCompat(75.0)):
        assert math.isinf(mechanism.guarantee(BANK).local_epsilon)
    for mechanism in ALL:
        said = mechanism.guarantee(BANK).sentence()
        assert "private" not in said
        assert ("worst-case" in said) == (mechanism.name != "none")


def test_no_noise_is_said_to_be_none():
    signal = BANK.signal([0, 1])
    assert torch.equal(Exact(unsafe=True).release(BANK, signal), signal)
    with pytest.raises(InvalidSetting, match="unsafe=True"):
        Exact()
    with pytest.raises(InvalidSetting, match="unsafe=True"):
        make_mechanism("none")


def test_the_authors_evaluated_noise_is_one_number():
    signal = BANK.signal([0, 1])
    moved = ScalarCompat(75.0).release(BANK, signal) - signal
    assert torch.allclose(moved, moved[0].expand_as(moved), atol=1e-12)
    sizes = [float(ScalarCompat(75.0).release(BANK, signal)[0] - signal[0]) for _ in range(3000)]
    assert kstest(np.abs(sizes), "expon", args=(0, 1 / 75)).pvalue > 1e-3
    assert abs(np.mean(np.sign(sizes))) < 0.1
    with pytest.raises(ValueError, match="mechanism"):
        message_length(BANK, "scalar-compat")


@pytest.mark.parametrize("epsilon", [0, -1.0, math.inf, math.nan, True, "3", None])
def test_impossible_epsilons(epsilon):
    for make in (Full, Subspace, ScalarCompat, lambda value: Gaussian(value, 1e-5)):
        with pytest.raises(InvalidSetting, match=r"epsilon|mu"):
            make(epsilon)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "laplace", "epsilon": 1.0}, "no mechanism"),
        ({"name": "subspace"}, "needs an epsilon"),
        ({"name": "gaussian", "epsilon": 1.0}, "needs a delta"),
        ({"name": "gaussian", "epsilon": 1.0, "delta": 0.0}, "delta"),
        ({"name": "full", "epsilon": 1.0, "delta": 0.1}, "no delta"),
    ],
)
def test_mechanisms_that_are_none(arguments, said):
    with pytest.raises(InvalidSetting, match=said):
        make_mechanism(**arguments)


@pytest.mark.parametrize("mechanism", [*ALL, ScalarCompat(75.0)])
def test_signals_that_are_none(mechanism):
    unit = BANK.signal([0])
    for bad in (2 * unit, unit[:-1], unit[None], unit * math.nan, unit * 0.5):
        with pytest.raises(InvalidSetting, match="a signal"):
            mechanism.release(BANK, bad)


def test_uniforms_are_never_0_or_1():
    drawn = uniforms(secure_stream(), 200_000)
    assert 0 < drawn.min()
    assert drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-3
