import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcr import ShiftAccumulator, ShiftMap, fit_shift
from dpcr.shift_ridge import RELATIVE_GRID, ridge_path
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import (
    CorruptState,
    IllConditioned,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidSetting,
)

D = 24


def gap(ours, reference):
    ours, reference = np.asarray(ours), np.asarray(reference)
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def ridge(x, y, eps):
    return np.linalg.solve(x.T @ x + eps * np.eye(x.shape[1]), x.T @ y)


def system(x, y):
    rows, targets = torch.from_numpy(x), torch.from_numpy(y)
    cross, energy = rows.T @ targets, float(targets.square().sum())
    sums = rows.sum(0), targets.sum(0)
    return RidgeSystem(rows.T @ rows, cross, *sums, float(len(x)), energy, len(x))


def quiet(x, y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditioned)
        return fit_shift(x, y, **options)


# ---------------------------------------------------------------------------- the fit


@settings(max_examples=25)
@given(d=st.integers(1, 30), e=st.integers(1, 30), more=st.integers(0, 60), seed=st.integers(0, 99))
def test_an_exactly_linear_drift_is_found(d, e, more, seed):
    operator, x = normal(d, e, seed=seed), normal(2 * d + more, d, seed=seed + 1)
    shift = quiet(x, x @ operator)
    # With few rows of few features (n = 2d = 2) the conditioning of X itself shows.
    assert gap(shift.matrix, operator) <= 1e-9 * max(1, np.linalg.cond(x) ** 2 / 1e3)
    assert shift.residual < 1e-9
    assert (shift.in_features, shift.out_features, shift.rows) == (d, e, len(x))


@pytest.mark.parametrize("d", [24, 160])
def test_an_exactly_linear_drift_is_found_to_nine_digits(d):
    operator, x = normal(d, d), normal(2 * d, d, seed=1)
    assert gap(fit_shift(x, x @ operator).matrix, operator) <= 1e-9
    for n in (d // 4, d // 2, d - 1):
        few = x[:n]
        with pytest.warns(IllConditioned, match=f"{n} rows span {n} of {d}"):
            shift = fit_shift(few, few @ operator)
        matrix = shift.matrix.numpy()
        assert np.isfinite(matrix).all()
        assert gap(few @ matrix, few @ operator) <= 1e-6
        assert np.linalg.norm(matrix) <= 2 * np.linalg.norm(operator)
        assert gap(matrix, np.linalg.pinv(few) @ few @ operator) < 1e-6
        assert shift.rank == pytest.approx(n, abs=1e-3)


@pytest.mark.parametrize("relative", [1e-6, 1e-2, 3.0])
def test_the_ridge_of_the_rows_themselves(relative):
    x, y = normal(60, D), normal(60, 7, seed=1)
    eps = relative * np.trace(x.T @ x) / D
    expected = ridge(x, y, eps)
    shift = fit_shift(x, y, eps=relative)
    assert gap(shift.matrix, expected) < 1e-10
    assert shift.eps == pytest.approx(eps)
    assert gap(fit_shift(x, y, eps=eps, absolute=True).matrix, expected) < 1e-10
    values = np.linalg.eigvalsh(x.T @ x)
    assert shift.rank == pytest.approx((values / (values + eps)).sum())
    left = np.square(x @ expected - y).sum() / np.square(y).sum()
    assert shift.residual == pytest.approx(left)


def test_no_ridge_is_the_least_squares_fit_of_smallest_norm():
    x, y = normal(60, D), normal(60, 7, seed=1)
    assert gap(fit_shift(x, y, eps=0).matrix, np.linalg.lstsq(x, y)[0]) < 1e-10
    few = quiet(x[:10], y[:10], eps=0)
    assert gap(few.matrix, np.linalg.lstsq(x[:10], y[:10])[0]) < 1e-10


def test_a_prior_and_a_bias_are_those_of_the_augmented_problem():
    x = normal(60, D) + 1
    y = x @ normal(D, D, seed=1) + 3 + normal(60, D, seed=2)
    eps = 5.0
    towards = np.eye(D) + ridge(x, y - x, eps)
    shift = fit_shift(x, y, eps=eps, absolute=True, prior="identity")
    assert gap(shift.matrix, towards) < 1e-10
    assert shift.residual == pytest.approx(np.square(x @ towards - y).sum() / np.square(y).sum())
    xc, yc = x - x.mean(0), y - y.mean(0)
    for prior, start in (("zero", 0), ("identity", np.eye(D))):
        shift = fit_shift(x, y, eps=eps, absolute=True, bias=True, prior=prior)
        matrix = start + ridge(xc, yc - xc @ (start + np.zeros((D, D))), eps)
        assert gap(shift.matrix, matrix) < 1e-10
        assert gap(shift.offset, y.mean(0) - x.mean(0) @ matrix) < 1e-10
        left = np.square(x @ matrix + shift.offset.numpy() - y).sum() / np.square(y).sum()
        assert shift.residual == pytest.approx(left)
        assert gap(shift(x), x @ matrix + shift.offset.numpy()) < 1e-10


def test_without_rows_the_identity_stays_and_zero_vanishes():
    x = normal(8, D)
    outside = normal(3, D, seed=1)
    outside -= outside @ np.linalg.pinv(x) @ x
    kept = quiet(x, x, prior="identity")(outside)
    assert gap(kept, outside) < 1e-9
    assert np.abs(quiet(x, x)(outside).numpy()).max() < 1e-9


def test_the_strongest_directions_only():
    x, y = normal(60, D) * np.linspace(0.5, 3, D), normal(60, 7, seed=1)
    right = np.linalg.svd(x, full_matrices=False).Vh
    top = right[:5].T
    expected = top @ ridge(x @ top, y, 0.1)
    assert gap(fit_shift(x, y, eps=0.1, absolute=True, rank=5).matrix, expected) < 1e-10
    whole = fit_shift(x, y, eps=0.1, rank=99).matrix
    assert torch.equal(whole, fit_shift(x, y, eps=0.1).matrix)


def test_the_score_is_generalised_cross_validation():
    x, y = normal(60, D), normal(60, 7, seed=1)
    for bias in (False, True):
        a, b = (x - x.mean(0), y - y.mean(0)) if bias else (x, y)
        grid = torch.tensor([1e-3, 0.3, 40.0], dtype=torch.float64)
        scores = ridge_path(system(x, y), bias=bias).scores(grid).tolist()
        for eps, score in zip(grid.tolist(), scores, strict=True):
            hat = a @ np.linalg.solve(a.T @ a + eps * np.eye(D), a.T)
            left = np.square(b - hat @ b).sum()
            assert score == pytest.approx(left / (60 - np.trace(hat) - bias) ** 2, rel=1e-9)


@pytest.mark.parametrize("n", [14, 80])
def test_noise_asks_for_a_ridge(n):
    spread = np.exp(-4 * np.arange(D) / D)
    chosen, best, least_squares = 0.0, 0.0, 0.0
    for seed in range(5):
        x, operator = normal(n, D, seed=seed) * spread, normal(D, D, seed=seed + 50)
        y = x @ operator + 0.5 * normal(n, D, seed=seed + 100)
        new = normal(200, D, seed=seed + 150) * spread
        errors = [gap(quiet(x, y, eps=eps)(new), new @ operator) for eps in RELATIVE_GRID]
        chosen += gap(quiet(x, y)(new), new @ operator)
        best, least_squares = best + min(errors), least_squares + errors[0]
    assert chosen < 1.1 * best
    assert chosen < 0.95 * least_squares


def test_the_grid_goes_from_1e_12_to_10():
    assert (RELATIVE_GRID[0], RELATIVE_GRID[-1]) == (1e-12, 10)
    x = normal(200, D)
    assert fit_shift(x, normal(200, D, seed=1)).eps > np.trace(x.T @ x) / D  # nothing to follow


def test_an_exact_drift_takes_the_smallest_ridge():
    for seed in range(20):
        x = normal(3 * D, D, seed=seed)
        y = x @ normal(D, D, seed=seed + 50)
        assert fit_shift(x, y).eps == pytest.approx(1e-12 * np.square(x).sum() / D)
        path = ridge_path(system(x, y))
        assert path.unexplained >= 0
        assert path.scores(torch.tensor([1e-30]).double()) >= 0


def test_with_the_identity_prior_the_residue_is_what_is_fitted():
    x = normal(60, D)
    residue = 0.1 * x @ normal(D, D, seed=1) + normal(60, D, seed=2)
    for bias in (False, True):
        shift = fit_shift(x, x + residue, prior="identity", bias=bias)
        alone = fit_shift(x, residue, bias=bias)
        assert shift.eps == alone.eps
        assert 0.1 < alone.eps / (np.square(x).sum() / D) < 9
        assert gap(shift.matrix - torch.eye(D), alone.matrix) < 1e-9


def test_dead_units():
    x, operator = normal(80, D), normal(D, D, seed=1)
    x[:, [0, 7]] = 0
    operator[:, 3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no row is missing: these units never fire
        shift = fit_shift(x, x @ operator)
        constant = np.where(np.arange(D) == 5, 2.0, x)
        fit_shift(constant, constant @ operator, bias=True)
    assert shift.matrix[[0, 7]].abs().max() < 1e-12
    assert gap(x @ shift.matrix.numpy(), x @ operator) < 1e-9
    assert not fit_shift(np.zeros((5, 3)), normal(5, 4)).matrix.any()
    still = fit_shift(np.zeros((5, 3)), np.zeros((5, 3)), prior="identity", bias=True)
    assert torch.equal(still.matrix, torch.eye(3, dtype=torch.float64))


def test_float32_rows_of_few_samples_stay_finite():
    # In float32 the normal equations with ε = 1e-9 explode here (the map's norm passes 1e4).
    x = torch.from_numpy(normal(40, 96)).float()
    operator = torch.from_numpy(normal(96, 96, seed=1)).float()
    shift = quiet(x, x @ operator, eps=1e-9, absolute=True)
    assert shift.matrix.norm() < operator.norm()
    assert shift.residual < 1e-9


# ---------------------------------------------------------------------------- the map


def test_maps_compose_and_change_the_width():
    x = normal(5, 4)
    one = ShiftMap(torch.from_numpy(normal(4, 3)), torch.ones(3, dtype=torch.float64))
    two = ShiftMap(torch.from_numpy(normal(3, 6)), new_space="c", old_space="b")
    three = ShiftMap(torch.from_numpy(normal(6, 2)), torch.ones(2, dtype=torch.float64))
    assert gap(one.then(two)(x), two(one(x))) < 1e-12
    assert gap(one.then(two).then(three)(x), three(two(one(x)))) < 1e-12
    assert gap(two.then(three)(one(x)), three(two(one(x)))) < 1e-12
    assert (one.then(two).in_features, one.then(two).out_features) == (4, 6)
    assert torch.equal(ShiftMap.identity(4)(x), torch.from_numpy(x))
    with pytest.raises(IncompatibleFeatures, match=r"ends at 3 features.*starts from 6"):
        one.then(three)
    with pytest.raises(IncompatibleFeatures, match=r"'c'.*'b'"):
        ShiftMap(torch.eye(3).double(), new_space="c").then(two)
    with pytest.raises(InvalidFeatures, match=r"\(n, 4\)"):
        one(x[:, :3])
    with pytest.raises(InvalidFeatures, match="NaN in row 1"):
        one([[1, 2, 3, 4], [1, np.nan, 3, 4]])


def test_a_map_that_is_none_is_refused():
    matrix = torch.eye(3, dtype=torch.float64)
    tensors, described = ShiftMap(matrix, matrix[0], 0.1, rows=7).state("a/")
    back = ShiftMap.of_state(tensors, described, "a/")
    assert torch.equal(back.matrix, matrix)
    assert torch.equal(back.offset, matrix[0])
    assert (back.eps, back.rows) == (0.1, 7)
    for wrong in ({"a/matrix": matrix.float()}, {"a/matrix": matrix[0]}, {"a/offset": matrix}):
        with pytest.raises(CorruptState):
            ShiftMap.of_state(tensors | wrong, described, "a/")


# ---------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -1}, "eps is -1"),
        ({"eps": "gcv"}, "eps is 'gcv'"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"eps": True}, "eps is True"),
        ({"prior": "one"}, "prior is 'one'"),
        ({"bias": 1}, "bias is 1"),
        ({"absolute": "yes"}, "absolute is 'yes'"),
        ({"rank": 0}, "rank is 0"),
    ],
)
def test_settings_outside_their_values(options, message):
    x = normal(30, 4)
    with pytest.raises(InvalidSetting, match=message):
        fit_shift(x, x, **options)


def test_an_identity_needs_equal_widths():
    x = normal(30, 4)
    with pytest.raises(InvalidSetting, match="4 features to 3"):
        fit_shift(x, x[:, :3], prior="identity")


def test_nothing_to_fit():
    with pytest.raises(InvalidFeatures, match="current task is empty"):
        ShiftAccumulator().solve()
    with pytest.raises(InvalidFeatures, match="current task is empty"):
        fit_shift(np.zeros((0, 4)), np.zeros((0, 4)))
