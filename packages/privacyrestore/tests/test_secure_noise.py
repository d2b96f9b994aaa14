import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, gamma, kstest

from privacyrestore.secure_noise import gamma_ball, secure_stream, uniforms


class Words:
    """A stream that says one word for ever."""

    def __init__(self, word):
        self.word = word

    def words(self, size):
        return np.full(size, self.word, dtype=np.uint64)


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
