import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

import afl.adassp as adassp_module
from afl import noisy_stats
from afl.adassp import EIGENVALUE_SHARE, adassp, noise_norm
from afl.client_stats import ClientStats
from afl.errors import ReplayedUpload
from afl.federation import Federation
from afl.joint_vector import from_joint_vector, joint_vector
from afl.noisy_stats import release
from afl.privacy_unit import bounded, moves, norm_of, sensitivity_of
from lipogram.analytic.datasets import digits
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import mu_of, noise_std

X, Y = digits()
ROWS = arrays(np.float64, (6, 4), elements=st.floats(-1e3, 1e3))
LABELS = np.array([0, 1, 0, 1, 1, 0])
ASKED = {"epsilon": 1.0, "delta": 1e-5, "classes": range(10)}


def vector(stats, classes=(0, 1)):
    return joint_vector(stats, classes)


@given(ROWS, st.floats(0.1, 10), st.floats(1e-3, 1e3))
def test_no_client_moves_a_sum_by_more_than_the_bound(rows, clip, bound):
    kept = bounded(ClientStats.compute(rows, LABELS, clip=clip), bound)
    assert np.linalg.norm(vector(kept)) <= bound
    assert kept.n_rows == 6
    none = ClientStats.compute(rows[:0], LABELS[:0], clip=clip)
    moved = np.linalg.norm(vector(kept) - vector(bounded(none, bound)))
    assert moved <= moves("client", clip, bound)["client"]


@given(ROWS, st.floats(0.1, 10), st.floats(1e-2, 1e3))
def test_what_hides_clients_is_moved_by_one_row_no_further_than_told(rows, clip, bound):
    whole = vector(bounded(ClientStats.compute(rows, LABELS, clip=clip), bound))
    less = vector(bounded(ClientStats.compute(rows[1:], LABELS[1:], clip=clip), bound))
    assert np.linalg.norm(whole - less) <= moves("client", clip, bound)["row"] * (1 + 1e-5)


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_the_bound_is_reached_and_not_undercut(factor):
    stats = ClientStats.compute(X, Y, clip=1.0)
    bound = factor * norm_of(stats)
    length = norm_of(bounded(stats, bound))
    assert length == pytest.approx(min(bound, norm_of(stats)), rel=1e-8)
    rows = 25
    part = ClientStats.compute(X[:rows], Y[:rows], clip=1.0)
    assert bounded(part, rows * sensitivity_of(1.0)) is part  # clients of so many rows stay whole


def test_scaled_sums_are_those_of_weighted_rows():
    stats = ClientStats.compute(X, Y, clip=1.0)
    held = bounded(stats, 0.25 * norm_of(stats))
    factor = float(held.mass.sum() / len(X))
    assert factor == pytest.approx(0.25, rel=1e-6)
    oracle = ClientStats(64, clip=1.0).update(X, Y, sample_weight=np.full(len(X), factor))
    assert torch.allclose(held.gram_packed, oracle.gram_packed)
    assert torch.allclose(held.sums, oracle.sums)
    assert np.allclose(held.mass, oracle.mass)
    assert np.array_equal(held.counts, oracle.counts)
    assert torch.allclose(held.solve(1.0).weight, stats.solve(1.0 / factor).weight)
    held.verify()


def test_the_vector_and_back():
    stats = ClientStats.compute(X, Y, clip=2.0)
    back = from_joint_vector(vector(stats, range(10)), range(10), n_features=64, clip=2.0)
    assert torch.allclose(back.gram_packed, stats.gram_packed)
    assert torch.allclose(back.cross, stats.cross[:, [stats.classes.index(c) for c in range(10)]])
    assert back.counts.tolist() == np.bincount(Y).tolist()


def test_a_client_that_hides_itself_claims_so_and_has_the_noise_for_it():
    stats = ClientStats.compute(X[:60], Y[:60], clip=1.0)
    sigma = noise_std(1.0, 1e-5, 40.0)
    drawn = [release(stats, **ASKED, unit="client", bound=40.0, seed=s) for s in range(300)]
    assert drawn[0].noise == {
        "unit": "client",
        "epsilon": 1.0,
        "delta": 1e-5,
        "sigma": sigma,
        "bound": 40.0,
    }
    off = np.stack(
        [d.gram_packed.numpy() - bounded(stats, 40.0).gram_packed.numpy() for d in drawn]
    )
    assert off.std() == pytest.approx(sigma, rel=0.01)
    assert drawn[0].counts.min() >= 0


def test_without_limit_a_hidden_client_sends_its_scaled_sums():
    stats = ClientStats.compute(X, Y, clip=1.0)
    for bound in (50.0, 3000.0):
        settings = {**ASKED, "epsilon": 1e12, "unit": "client", "bound": bound}
        noisy = release(stats, **settings, seed=0)
        exact = bounded(stats, bound)
        order = [noisy.classes.index(c) for c in exact.classes]
        assert torch.allclose(noisy.gram_packed, exact.gram_packed, atol=2e-2)
        assert torch.allclose(noisy.cross[:, order], exact.cross, atol=2e-2)
        # Counts are told as whole numbers, so those of scaled sums are off by half a row.
        assert np.abs(noisy.counts[order] - exact.mass).max() <= 0.51


def test_a_bound_goes_with_the_unit_client():
    stats = ClientStats.compute(X, Y, clip=1.0)
    for bad in (
        {"unit": "client"},
        {"unit": "row", "bound": 1.0},
        {"bound": 1.0},
        {"unit": "client", "bound": 0.0},
        {"unit": "all"},
    ):
        with pytest.raises(InvalidSetting):
            release(stats, **ASKED, **bad)
    weighted = ClientStats(64, clip=1.0).update(X, Y, sample_weight=np.full(len(X), 0.5))
    for bad in (ClientStats.compute(X, Y), weighted, release(stats, **ASKED)):
        with pytest.raises(InvalidSetting):
            bounded(bad, 1.0)


# ---------------------------------------------------------------------- in a federation


def clients(number, bound):
    parts = np.array_split(np.arange(len(X)), number)
    federation = Federation(client_bound=bound)
    sent = {f"c{i}": ClientStats.compute(X[p], Y[p], clip=1.0) for i, p in enumerate(parts)}
    for name, stats in sent.items():
        federation.add(name, stats)
    return federation, sent


def test_a_sum_that_hides_clients_is_one_of_bounded_ones():
    federation, sent = clients(5, 100.0)
    total = federation.total()
    oracle = sum(vector(bounded(stats, 100.0), range(10)) for stats in sent.values())
    assert np.allclose(vector(total, range(10)), oracle, rtol=1e-12)
    assert total.n_rows == len(X)
    federation.remove("c2", sent["c2"])
    never = Federation(client_bound=100.0)
    for name in ("c0", "c1", "c3", "c4"):
        never.add(name, sent[name])
    assert federation.digest == never.digest
    moved = np.linalg.norm(vector(federation.total(), range(10)) - vector(total, range(10)))
    assert moved <= 100.0 * (1 + 1e-12)


def test_one_client_moves_the_smallest_eigenvalue_by_no_more_than_is_hidden():
    """All its rows alike is what moves an eigenvalue of G most for the length of half of it."""
    for d in (2, 8, 64):
        one = ClientStats.compute(np.ones((50, d)), [0] * 50, clip=1.0)
        held = bounded(one, 10.0)
        top = float(torch.linalg.eigvalsh(held.reweight().gram)[-1])
        half = float(held.gram_packed.norm())
        assert top / half == pytest.approx(math.sqrt(2 * d / (d + 1)))
        assert top <= math.sqrt(2) * 10.0


def test_both_releases_of_a_head_that_hides_clients_cost_what_was_asked():
    federation, _ = clients(5, 100.0)
    settings = {**ASKED, "unit": "client", "bound": 100.0, "seed": 0}
    noisy, _ = adassp(federation.total(), **settings)
    of_sums = 100.0 / noisy.noise["sigma"]
    of_eigenvalue = mu_of(1.0, 1e-5) * math.sqrt(EIGENVALUE_SHARE)
    assert math.hypot(of_sums, of_eigenvalue) == pytest.approx(mu_of(1.0, 1e-5))
    assert (noisy.noise["unit"], noisy.noise["bound"]) == ("client", 100.0)


@pytest.mark.parametrize("unit", ["row", "client"])
def test_the_smallest_eigenvalue_is_blurred_by_what_a_unit_moves_it(monkeypatch, unit):
    """What a client moves it by is tested above; with noise of 0, γ tells the spread."""
    monkeypatch.setattr(adassp_module, "standard_normals", lambda _, size: np.zeros(size))
    monkeypatch.setattr(noisy_stats, "standard_normals", lambda _, size: np.zeros(size))
    epsilon, bound, rho = 5.0, 2.0 if unit == "client" else None, 0.05
    moved, whole = (math.sqrt(2) * 2.0, 2.0) if unit == "client" else (1.0, math.sqrt(3))
    mu = mu_of(epsilon, 1e-5)
    rows = int(12 * whole / mu)
    stats = ClientStats.compute(np.tile(np.eye(4), (rows, 1)), [0, 1] * 2 * rows, clip=1.0)
    settings = {"delta": 1e-5, "classes": [0, 1], "unit": unit, "bound": bound}
    noisy, gamma = adassp(stats, epsilon=epsilon, **settings)
    lower = noise_norm(noisy.noise["sigma"], 4, rho / 2) - gamma
    spread = moved / (mu * math.sqrt(EIGENVALUE_SHARE))
    assert 0 < lower < rows
    assert gamma > 0
    assert lower == pytest.approx(rows - spread * norm.ppf(1 - rho / 2))


def test_heads_hide_clients_only_where_each_was_bounded():
    federation, _ = clients(5, 100.0)
    with pytest.raises(InvalidSetting, match=r"100\.0.*asked for was 50\.0"):
        federation.solve_private(**ASKED, unit="client", bound=50.0)
    with pytest.raises(InvalidSetting, match="hides rows too"):
        federation.solve_private(**ASKED)
    assert not federation.ledger.claims("release")
    plain = Federation()
    plain.add("a", ClientStats.compute(X, Y, clip=1.0))
    with pytest.raises(InvalidSetting, match="client_bound None"):
        plain.solve_private(**ASKED, unit="client", bound=100.0)
    head = federation.solve_private(**ASKED, unit="client", bound=100.0, seed=0)
    again = clients(5, 100.0)[0].solve_private(**ASKED, unit="client", seed=0)
    assert torch.equal(head.weight, again.weight)
    assert federation.spent.epsilon(1e-5) == pytest.approx(1.0)


def test_without_limit_the_head_is_that_of_weighted_rows():
    kept = X[:, X.std(0) > 0.05]
    federation = Federation(client_bound=100.0)
    weight = np.ones(len(X))
    for i, part in enumerate(np.array_split(np.arange(len(X)), 4)):
        stats = ClientStats.compute(kept[part], Y[part], clip=1.0)
        weight[part] = min(1.0, 100.0 / norm_of(stats))
        federation.add(f"c{i}", stats)
    assert weight.max() < 0.9
    asked = {**ASKED, "epsilon": 1e12}
    head = federation.solve_private(**asked, unit="client", seed=0)
    oracle = ClientStats(kept.shape[1], clip=1.0).update(kept, Y, sample_weight=weight)
    plain = oracle.solve(head.gamma).weight[:, [oracle.classes.index(c) for c in range(10)]]
    assert head.gamma < 1e-2
    assert float((head.weight - plain).norm() / plain.norm()) < 1e-2


def test_a_client_is_in_such_a_sum_once_and_by_itself():
    federation, sent = clients(5, 100.0)
    more = ClientStats.compute(X[:50], Y[:50], clip=1.0)
    before = federation.digest
    with pytest.raises(ReplayedUpload, match="all of its rows at once"):
        federation.add("c0", more, round=1)
    with pytest.raises(InvalidSetting, match="masked cohort"):
        federation.add("cohort", more, members=["x", "y", "z"])
    for bad in (ClientStats.compute(X[:50], Y[:50], clip=1.0, per_class=True), None):
        with pytest.raises((InvalidSetting, ValueError)):
            federation.add("x", bad or release(more, **ASKED))
    assert federation.digest == before
    federation.remove("c0", sent["c0"])
    federation.add("c0", more, round=1)
    with pytest.raises(InvalidSetting, match="client_bound"):
        Federation(client_bound=-1.0)


def test_a_saved_sum_goes_on_hiding_clients(tmp_path):
    federation, sent = clients(5, 100.0)
    again = Federation.load(federation.save(tmp_path / "sum.st"))
    assert again.privacy.client_bound == 100.0
    again.remove("c0", sent["c0"])
    federation.remove("c0", sent["c0"])
    assert again.digest == federation.digest
