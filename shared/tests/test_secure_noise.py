import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import beta, gamma, kstest

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.secure_noise import (
    add_gaussian,
    bernoulli,
    gamma_ball,
    gaussian,
    grid_step,
    secure_stream,
    uniforms,
)


class Words:
    """A stream that says these words in turn, for ever."""

    def __init__(self, *words):
        self.said = words
        self.at = 0

    def words(self, size):
        found = [self.said[(self.at + each) % len(self.said)] for each in range(size)]
        self.at += size
        return np.array(found, dtype=np.uint64)


def draws(size, epsilon, count, seed=0):
    stream = secure_stream(seed)
    return np.stack([gamma_ball(stream, size, epsilon) for _ in range(count)])


def test_noise_has_the_law_of_the_paper():
    noise = draws(149, 75.0, 20_000)
    lengths = np.linalg.norm(noise, axis=1)
    assert lengths.mean() == pytest.approx(149 / 75, rel=0.01)
    assert lengths.var() == pytest.approx(149 / 75**2, rel=0.05)
    assert np.abs((noise / lengths[:, None]).mean(0)).max() <= 0.02
    assert kstest(lengths, gamma(149, scale=1 / 75).cdf).pvalue > 0.01


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_length_and_direction_have_their_laws_and_nothing_to_do_with_each_other(size):
    """Together they are the density ∝ exp(−ε‖x‖), whose ratio for two signals is the bound."""
    noise = draws(size, 4.0, 8000, seed=size)
    lengths = np.linalg.norm(noise, axis=1)
    assert kstest(lengths, gamma(size, scale=1 / 4.0).cdf).pvalue > 1e-3
    for along in {0, size - 1}:
        part = noise[:, along] / lengths
        assert abs(np.sign(part).mean()) < 0.05
        if size > 1:
            assert kstest(part**2, beta(0.5, (size - 1) / 2).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(part, lengths)[0, 1]) < 0.05


def test_likelihoods_of_two_signals_stay_within_the_metric_bound():
    """In two dimensions, in every cell of a histogram, and near the bound in some."""
    epsilon, apart = 1.5, np.array([0.8, 0.6])
    noise = draws(2, epsilon, 60_000)
    cells = [np.histogram2d(*(noise + at).T, bins=9, range=[[-3, 4]] * 2)[0] for at in (0, apart)]
    seen = (cells[0] > 400) & (cells[1] > 400)
    ratio = np.abs(np.log(cells[0][seen] / cells[1][seen]))
    bound = epsilon * np.linalg.norm(apart)
    assert ratio.max() <= bound + 4 * math.sqrt(2 / 400)
    assert ratio.max() > 0.7 * bound


def test_uniforms_are_uniform_and_never_0_or_1():
    drawn = uniforms(secure_stream(1), 200_000)
    assert kstest(drawn, "uniform").pvalue > 1e-3
    for word in (0, 2**64 - 1):
        assert 0 < uniforms(Words(word), 1)[0] < 1
        noise = gamma_ball(Words(word), 3, 1.0)
        assert np.isfinite(noise).all()
        assert np.abs(noise).max() > 0


def test_every_call_has_a_key_of_its_own_from_the_system(monkeypatch):
    keys = []

    def told(size):
        keys.append(size)
        return bytes([len(keys)]) * size

    monkeypatch.setattr("secrets.token_bytes", told)
    one, other = (gamma_ball(secure_stream(), 5, 1.0) for _ in range(2))
    assert keys == [32, 32]
    assert not np.array_equal(one, other)


def test_no_seed_of_a_library_has_a_part_in_it():
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        found.append(gamma_ball(secure_stream(), 5, 1.0))
    assert not np.array_equal(*found)
    before = torch.get_rng_state()
    gamma_ball(secure_stream(), 5, 1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_gaussian_noise_has_its_law_on_the_grid():
    std = 0.7
    noise = gaussian(secure_stream(3), 300_001, std)  # not a multiple of the chunk
    assert kstest(noise / std, "norm").pvalue > 1e-3
    steps = noise / grid_step(std)
    assert np.array_equal(steps, np.rint(steps))
    assert (steps % 2 != 0).mean() == pytest.approx(0.5, abs=0.01)  # the finest step is in use
    assert 2**24 <= std / grid_step(std) < 2**25
    low, high = noise[:150_000], noise[150_000:300_000]
    assert abs(np.corrcoef(low, high)[0, 1]) < 0.01


def test_the_tails_have_their_digits():
    """A word of few leading digits takes another; the last bit of a word is the sign."""
    word = 2**20
    (drawn,) = gaussian(Words(word, 2**63), 1, 1.0)
    assert drawn == pytest.approx(-ndtri((2**19 + 0.5) * 2.0**-64), abs=1e-7)
    (negative,) = gaussian(Words(word + 1, 2**63), 1, 1.0)
    assert negative == -drawn
    (next_word,) = gaussian(Words(word, 0), 1, 1.0)
    assert next_word != drawn
    (farthest,) = gaussian(Words(0, 0), 1, 1.0)
    assert 13 < farthest < 14
    (middle,) = gaussian(Words(2**64 - 1), 1, 1.0)
    assert abs(middle) < 1e-7


def test_noisy_sums_are_sums_and_noise_and_keep_their_kind():
    sums = [torch.randn(3, 5), torch.full((200_000,), 2.0, dtype=torch.float64), torch.tensor(1.5)]
    kept = [each.clone() for each in sums]
    noisy = add_gaussian(sums, 0.5, 1.0, stream=secure_stream(1))
    for before, given, after in zip(kept, sums, noisy, strict=True):
        assert torch.equal(before, given)
        assert (after.shape, after.dtype, after.device) == (given.shape, given.dtype, given.device)
    noise = (noisy[1] - sums[1]).numpy()
    assert noise.mean() == pytest.approx(0.0, abs=0.005)
    assert noise.std() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("std", [0.999999 * 2**-3, 0.6])  # at one, room for rounding crosses a 2^k
def test_the_bits_of_a_noisy_sum_tell_nothing_of_the_sum(std):
    """Whatever the sum: all multiples of one step, the odd ones too, and none between them."""
    step = grid_step(std)
    for value in (0.0, step / 3, step, 1 / 3, math.pi):
        (noisy,) = add_gaussian([torch.full((4000,), value, dtype=torch.float64)], std, 1e-4)
        steps = noisy / step
        assert torch.equal(steps, steps.round())
        assert 0.4 < (steps % 2).mean() < 0.6


def test_the_noise_grows_by_what_rounding_adds_to_the_sensitivity():
    size, std = 400_000, 1.0
    sensitivity = grid_step(std) * math.sqrt(size)  # as much as rounding: noise has to double
    (noisy,) = add_gaussian(
        [torch.zeros(size, dtype=torch.float64)], std, sensitivity, stream=secure_stream(2)
    )
    assert noisy.std().item() == pytest.approx(2.0, rel=0.01)
    halves = add_gaussian(
        [torch.zeros(size // 2, dtype=torch.float64)] * 2, std, sensitivity, stream=secure_stream(2)
    )
    assert torch.cat(halves).std().item() == pytest.approx(2.0, rel=0.01)
    assert not torch.equal(*halves)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**28])
def test_sums_that_noise_cannot_hide_are_refused(value):
    with pytest.raises(NotFinite, match="clip"):
        add_gaussian([torch.zeros(2), torch.tensor([1.0, value])], 1.0, 1.0)


@pytest.mark.parametrize(("std", "sensitivity"), [(0.0, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_noise_of_no_size_is_refused(std, sensitivity):
    with pytest.raises(InvalidSetting):
        add_gaussian([torch.zeros(2)], std, sensitivity)


def test_two_noisy_sums_have_nothing_to_do_with_each_other():
    torch.manual_seed(0)
    one = add_gaussian([torch.zeros(100)], 1.0, 1.0)[0]
    torch.manual_seed(0)
    assert not torch.equal(one, add_gaussian([torch.zeros(100)], 1.0, 1.0)[0])


def test_coins_fall_with_their_probability():
    coins = bernoulli(secure_stream(4), 400_000, 0.02)
    assert coins.mean() == pytest.approx(0.02, rel=0.05)
    assert bernoulli(secure_stream(), 1000, 1.0).all()
    assert not bernoulli(secure_stream(), 1000, 0.0).any()
    edge = 2**62  # 1/4 of all words
    assert bernoulli(Words(edge - 1, edge), 2, 0.25).tolist() == [True, False]
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidSetting):
            bernoulli(secure_stream(), 1, wrong)
