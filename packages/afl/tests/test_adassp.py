import math

import numpy as np
import pytest
import torch

from afl.adassp import EIGENVALUE_SHARE, adassp, noise_norm
from afl.client_stats import ClientStats
from afl.privacy_unit import sensitivity_of
from lipogram.analytic.datasets import digits
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import delta_of, mu_of

X, Y = digits()
STATS = ClientStats.compute(X, Y, clip=1.0)


def symmetric_noise(d, rng):
    upper = np.triu(rng.standard_normal((d, d)))
    return upper + np.triu(upper, 1).T


@pytest.mark.parametrize("d", [2, 20, 80])
def test_the_noise_bends_no_eigenvalue_further_than_its_bound(d):
    rng = np.random.default_rng(d)
    least = np.array([-np.linalg.eigvalsh(symmetric_noise(d, rng))[0] for _ in range(400)])
    assert (least > noise_norm(1.0, d, 0.05)).mean() <= 0.05
    assert least.mean() <= 2 * math.sqrt(d)  # the bound on the mean, before concentration
    assert noise_norm(1.0, 256, 0.025) < math.sqrt(256 * math.log(2 * 256**2 / 0.05))


def test_the_bound_is_not_far_above_what_happens():
    rng = np.random.default_rng(0)
    least = [-np.linalg.eigvalsh(symmetric_noise(80, rng))[0] for _ in range(50)]
    assert noise_norm(1.0, 80, 0.05) < 1.35 * np.mean(least)


def test_one_row_moves_the_smallest_eigenvalue_by_clip_squared_at_most():
    whole = float(torch.linalg.eigvalsh(STATS.reweight().gram)[0])
    for row in range(0, 200, 10):
        kept = np.arange(len(X)) != row
        less = ClientStats.compute(X[kept], Y[kept], clip=1.0).reweight().gram
        assert abs(whole - float(torch.linalg.eigvalsh(less)[0])) <= 1.0 + 1e-9


def test_the_two_releases_together_cost_what_was_asked():
    epsilon, delta = 1.0, 1e-5
    noisy, _ = adassp(STATS, epsilon=epsilon, delta=delta, classes=range(10), seed=0)
    of_sums = sensitivity_of(1.0) / noisy.noise["sigma"]
    of_eigenvalue = mu_of(epsilon, delta) * math.sqrt(EIGENVALUE_SHARE)
    assert delta_of(math.hypot(of_sums, of_eigenvalue), epsilon) == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize("epsilon", [1e-5, 0.2, 1.0, 8.0])
def test_the_system_is_positive_definite(epsilon):
    for seed in range(20):
        noisy, gamma = adassp(STATS, epsilon=epsilon, delta=1e-5, classes=range(10), seed=seed)
        assert float(torch.linalg.eigvalsh(noisy.reweight().gram)[0]) + gamma > 0


def test_without_limit_it_is_the_head_without_noise():
    kept = X[:, X.std(0) > 0.05]
    stats = ClientStats.compute(kept, Y, clip=1.0)
    noisy, gamma = adassp(stats, epsilon=1e9, delta=1e-5, classes=range(10), seed=0)
    assert gamma < 1e-2
    plain = stats.solve(1e-6).weight[:, [stats.classes.index(c) for c in range(10)]]
    off = (noisy.solve(max(gamma, 1e-6)).weight - plain).norm() / plain.norm()
    assert float(off) < 1e-2


def test_bad_settings_are_refused():
    with pytest.raises(InvalidSetting, match="clip"):
        adassp(ClientStats.compute(X, Y), epsilon=1.0, delta=1e-5, classes=range(10))
    with pytest.raises(InvalidSetting, match="rho"):
        adassp(STATS, epsilon=1.0, delta=1e-5, classes=range(10), rho=2.0)
    with pytest.raises(InvalidSetting, match="epsilon"):
        adassp(STATS, epsilon=0.0, delta=1e-5, classes=range(10))
