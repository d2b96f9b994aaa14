import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, kstest, norm

from lipogram.errors import InvalidSetting
from privacyrestore.guarantee import Guarantee
from privacyrestore.mechanisms import (
    Exact,
    Full,
    Gaussian,
    ScalarCompat,
    Subspace,
    make_mechanism,
)
from privacyrestore.noise_grid import Grid, gaussian_grid
from privacyrestore.payload import message_length

from .banks import loose_identity, random_bank

BANK = random_bank(loose_identity(), [(0, 0), (1, 2), (3, 3)], 9)
WIDE = random_bank(loose_identity(head_dim=64), [(0, 0), (1, 2), (3, 3)], 149)
ALL = [Full(30.0), Subspace(30.0), Gaussian(8.0, 1e-5), Exact(unsafe=True)]


def test_a_message_is_signal_and_that_noise():
    signal = WIDE.signal([3, 7, 90])
    found = torch.stack([Subspace(75.0).release(WIDE, signal, seed) for seed in range(4000)])
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


@pytest.mark.parametrize("seed", range(5))
def test_projection_on_the_basis_keeps_distances(seed):
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randperm(149, generator=draw)[: 2 + seed].tolist() for _ in range(2)]
    one, other = (WIDE.signal(each) for each in ids)
    apart = (WIDE.coordinates(one) - WIDE.coordinates(other)).norm()
    assert apart == pytest.approx(float((one - other).norm()), abs=1e-5)


def test_gaussian_noise_has_epsilon_and_delta_by_summation():
    """Over the integers that are released, moved apart as far as two rounded signals can be."""
    mechanism = Gaussian(3.0, 1e-4)
    signals = [BANK.coordinates(BANK.signal([i])).numpy() for i in range(9)]
    grid, sigma = gaussian_grid(BANK.rank, BANK.diameter * BANK.stretch, 3.0, 1e-4)
    assert mechanism.sigma(BANK) == grid.step * sigma
    rounded = [np.rint(each / grid.step) for each in signals]
    furthest = math.floor(BANK.diameter * BANK.stretch / grid.step + math.sqrt(BANK.rank))
    assert max(np.linalg.norm(a - b) for a in rounded for b in rounded) <= furthest
    reach = np.arange(-6 * sigma, 6 * sigma + furthest, dtype=np.float64)
    total = sigma * math.sqrt(2 * math.pi)  # the sum over all integers, to within exp(−10¹⁰)
    still, moved = (np.exp(-((reach - at) ** 2) / (2 * sigma**2)) / total for at in (0, furthest))
    for one, other in ((still, moved), (moved, still)):
        found = np.maximum(one - math.exp(3.0) * other, 0).sum()
        assert 0.99e-4 <= found <= 1e-4  # enough noise, and not more than that asks for


def test_gaussian_noise_is_whole_steps_around_the_rounded_signal():
    mechanism = Gaussian(6.0, 1e-5)
    grid, sigma = gaussian_grid(BANK.rank, BANK.diameter * BANK.stretch, 6.0, 1e-5)
    signal = BANK.signal([2, 4])
    found = torch.stack([mechanism.release(BANK, signal, seed) for seed in range(600)])
    steps = found / grid.step
    assert torch.equal(steps, steps.round())
    assert torch.equal(found.float().double(), found)
    noise = (steps - (BANK.coordinates(signal) / grid.step).round()) / sigma
    assert kstest(noise.flatten().numpy(), norm.cdf).pvalue > 1e-3


def test_gaussian_noise_that_no_grid_holds_is_refused_before_anything_is_released():
    mechanism = Gaussian(1e5, 1e-5)
    for refused in (mechanism.guarantee, lambda bank: mechanism.release(bank, bank.signal([0]))):
        with pytest.raises(InvalidSetting, match="so little noise"):
            refused(BANK)


@pytest.mark.parametrize("mechanism", ALL[:3])
def test_without_spans_the_message_is_noise_alone(mechanism):
    nothing, signal = torch.zeros(BANK.n, dtype=torch.float64), BANK.signal([1, 5])
    empty, full = (mechanism.release(BANK, each, 7) for each in (nothing, signal))
    sent = signal if mechanism.name == "full" else BANK.coordinates(signal)
    assert empty.norm() > 0
    assert torch.allclose(full - empty, sent, atol=0.01)  # a step or less


def test_a_basis_that_lengthens_gets_more_noise():
    """The check of a bank lets a basis pass that is orthonormal to five digits only."""
    loose = replace(BANK, basis=BANK.basis * (1 + 4e-6))
    assert loose.stretch == pytest.approx(1 + 4e-6, abs=5e-7)
    signals = [BANK.signal([i]) for i in range(9)]
    for one, other in itertools.combinations(signals, 2):
        apart = (loose.coordinates(one) - loose.coordinates(other)).norm()
        assert apart <= loose.stretch * (one - other).norm() * (1 + 1e-12)
    assert Gaussian(1.0, 1e-5).sigma(loose) > Gaussian(1.0, 1e-5).sigma(BANK)
    twice = SimpleNamespace(
        n=BANK.n, rank=BANK.rank, coordinates=BANK.coordinates, diameter=2.0, stretch=2.0
    )
    assert torch.equal(
        Subspace(6.0).release(twice, signals[0], 3), Subspace(3.0).release(BANK, signals[0], 3)
    )


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
        assert "worst-case" in said
        assert ("nothing is hidden" in said) == (mechanism.name == "none")
    assert "metric ε 3 " in Subspace(3.0).guarantee(BANK).sentence()
    assert "nothing is hidden" in ScalarCompat(75.0).guarantee(BANK).sentence()


def test_no_noise_is_said_to_be_none():
    signal = BANK.signal([0, 1])
    assert torch.equal(Exact(unsafe=True).release(BANK, signal), signal)
    with pytest.raises(InvalidSetting, match="unsafe=True"):
        Exact()
    with pytest.raises(InvalidSetting, match="unsafe=True"):
        make_mechanism("none")


def test_the_authors_evaluated_noise_is_one_number():
    signal = BANK.signal([0, 1])
    heads = signal.unflatten(0, (3, -1))
    alone = (heads / heads.norm(dim=1, keepdim=True)).flatten()  # each of length 1, as they have it
    moved = [ScalarCompat(75.0).release(BANK, signal, seed) - alone for seed in range(3000)]
    assert all(torch.allclose(each, each[0].expand_as(each), atol=1e-12) for each in moved)
    sizes = [float(each[0]) for each in moved]
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
