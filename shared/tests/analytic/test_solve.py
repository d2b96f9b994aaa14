import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from lipogram.analytic.solve import (
    RidgeSystem,
    check_gamma,
    cholesky,
    condition_number,
    eigen_path,
    symmetric_product,
)
from lipogram.errors import IllConditioned, InvalidSetting, SingularSystem


def problem(n, d, k, seed=0, mean=0.0):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(n, d)) + mean, random.normal(size=(n, k))
    return x, y, random.exponential(size=n)


def system_of(x, y, w, **more):
    t = torch.from_numpy
    rows, targets = x * w[:, None], y * w[:, None]
    gram = np.tril(rows.T @ x) + np.triu(np.full((x.shape[1],) * 2, np.nan), 1)
    return RidgeSystem(
        gram=t(gram),
        cross=t(rows.T @ y),
        row_sum=t(rows.sum(0)),
        target_sum=t(targets.sum(0)),
        mass=float(w.sum()),
        energy=float((targets * y).sum()),
        rows=len(x),
        **more,
    )


def error(weight, reference):
    return np.abs(np.asarray(weight) - reference).max() / np.abs(reference).max()


@settings(max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([1e-3, 1.0, 1000.0]),
    st.booleans(),
    st.sampled_from([0.0, 5.0]),
)
@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
def test_the_weighted_ridge_of_scikit_learn(n, d, k, gamma, intercept, mean):
    x, y, w = problem(n, d, k, seed=n, mean=mean)
    reference = Ridge(alpha=gamma, solver="svd", fit_intercept=intercept).fit(x, y, w)
    solution = system_of(x, y, w).solve(gamma, fit_intercept=intercept)
    coefficients = reference.coef_.reshape(k, d).T
    scale = np.abs(coefficients).max() + 1e-8  # one row and an intercept: all weights are 0
    assert np.abs(solution.weight.numpy() - coefficients).max() < 1e-9 * scale
    assert np.allclose(solution.intercept, reference.intercept_, rtol=1e-8, atol=1e-8)
    assert solution.jitter == 0


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.1, 100.0]), st.booleans())
@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
def test_the_loss_is_the_squared_residual_of_the_rows(n, d, gamma, intercept):
    x, y, w = problem(n, d, 3, seed=n)
    system = system_of(x, y, w)
    solution = system.solve(gamma, fit_intercept=intercept)
    residual = y - x @ solution.weight.numpy() - solution.intercept.numpy()
    direct = float((w[:, None] * residual**2).sum())
    assert system.loss(solution) == pytest.approx(direct, rel=1e-9, abs=1e-9 * system.energy)


def with_spectrum(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))
    return (q * values) @ q.T


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0, 9), st.integers(0, 5))
def test_the_condition_number_is_estimated_within_a_factor(d, decades, seed):
    matrix = with_spectrum(np.logspace(0, -decades, d), seed)
    lower = torch.from_numpy(matrix).tril()
    ridge = 1e-10
    factor, _ = cholesky(lower, ridge)
    true = np.linalg.cond(matrix + ridge * np.eye(d))
    assert 0.5 * true < condition_number(lower, ridge, factor) < 1.01 * true


@pytest.mark.parametrize("seed", range(3))
def test_a_condition_number_of_ten_billion(seed):
    random = np.random.default_rng(seed)
    d, gamma = 60, 1e-10
    left, _ = np.linalg.qr(random.normal(size=(300, d)))
    x = left @ with_spectrum(np.logspace(0, -6, d), seed)
    y = random.normal(size=(300, 4))
    # Reference from the rows, which never squares the condition number.
    stacked = np.vstack([x, gamma**0.5 * np.eye(d)])
    reference = np.linalg.lstsq(stacked, np.vstack([y, np.zeros((d, 4))]), rcond=None)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = system_of(x, y, np.ones(300)).solve(gamma)
    assert 5e9 < solution.condition < 1.1e10
    assert solution.jitter == 0
    assert error(solution.weight, reference) < solution.condition * 1e-15


def test_jitter_is_tried_named_and_reported():
    matrix = with_spectrum(np.r_[np.ones(9), -5e-4])
    lower = torch.from_numpy(matrix).tril()
    with pytest.warns(IllConditioned, match="gamma 1e-06 was raised by 0.001"):
        factor, jitter = cholesky(lower, 1e-6)
    assert jitter == pytest.approx(1e-3)
    lower_factor = factor.tril().numpy()
    expected = matrix + (1e-6 + jitter) * np.eye(10)
    assert np.allclose(lower_factor @ lower_factor.T, expected)


def test_a_system_without_any_factorisation():
    with pytest.raises(SingularSystem, match="jitter up to 1:"):
        cholesky(-2 * torch.eye(3, dtype=torch.float64), 1e-6)
    for value in (torch.nan, torch.inf):
        with pytest.raises(SingularSystem, match="not finite"):
            cholesky(torch.full((3, 3), value, dtype=torch.float64), 1.0)
    hidden = torch.eye(3, dtype=torch.float64)
    hidden[2, 0] = torch.nan
    with pytest.raises(SingularSystem):
        cholesky(hidden, 1.0)


def test_gamma_zero_only_where_it_is_allowed():
    x, y, w = problem(50, 3, 2)
    system = system_of(x, y, w)
    with pytest.raises(InvalidSetting, match="gamma is 0"):
        system.solve(0)
    weight = system.solve(0, allow_singular=True).weight
    root = np.sqrt(w)[:, None]
    assert error(weight, np.linalg.lstsq(root * x, root * y, rcond=None)[0]) < 1e-10
    x[:, 1] = 0  # a pivot that is exactly 0 on every machine; a repeated column rounds to above it
    singular = system_of(x, y, w)
    with pytest.warns(IllConditioned, match="raised by"):
        assert singular.solve(0, allow_singular=True).jitter > 0


@pytest.mark.parametrize(
    "gamma", [0, -1.0, float("nan"), float("inf"), None, "1", True, 1j, np.array([1.0])]
)
def test_impossible_gammas(gamma):
    with pytest.raises(InvalidSetting, match="finite number above 0"):
        check_gamma(gamma)


@pytest.mark.parametrize("gamma", [1, 0.1, np.float32(0.5), np.int64(3)])
def test_possible_gammas(gamma):
    check_gamma(gamma)


@pytest.mark.parametrize(
    ("n", "gamma", "peak"),
    [(100, 1e-3, True), (100, 1.0, False), (60, 1e-3, True), (49, 1e-3, False), (201, 1e-3, False)],
)
def test_the_interpolation_peak_is_named(n, gamma, peak):
    x, y, _ = problem(n, 100, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        system_of(x, y, np.ones(n)).solve(gamma)
    assert ["double descent" in str(w.message) for w in caught] == [True] * peak


@pytest.mark.parametrize(
    ("accumulate", "gamma", "warned"),
    [("float32", 1e-3, True), ("float32", 100.0, False), ("float64", 1e-3, False)],
)
def test_lost_digits_are_named(accumulate, gamma, warned):
    x, y, w = problem(400, 20, 2, mean=30.0)
    x[:, 0] = 0  # so the smallest eigenvalue is gamma itself
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = system_of(x, y, w, accumulate=accumulate).solve(gamma)
    eps = np.finfo(accumulate).eps
    assert (solution.condition * eps > 0.1) == warned
    assert [f"{accumulate} sums" in str(w.message) for w in caught] == [True] * warned


def test_nothing_to_learn_from():
    empty = system_of(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0))
    for intercept in (False, True):
        solution = empty.solve(1.0, fit_intercept=intercept)
        assert not solution.weight.any()
        assert not solution.intercept.any()
        assert solution.condition == pytest.approx(1.0)
    no_classes = system_of(np.ones((3, 4)), np.zeros((3, 0)), np.ones(3))
    assert no_classes.solve(1.0).weight.shape == (4, 0)
    assert no_classes.loss(no_classes.solve(1.0)) == 0


def test_solving_leaves_the_sums_alone():
    x, y, w = problem(30, 4, 2)
    system = system_of(x, y, w)
    copies = [t.clone() for t in (system.gram, system.cross, system.row_sum, system.target_sum)]
    system.loss(system.solve(0.1, fit_intercept=True))
    eigen_path(system)
    for copied, held in zip(
        copies, (system.gram, system.cross, system.row_sum, system.target_sum), strict=True
    ):
        assert torch.equal(copied.nan_to_num(), held.nan_to_num())


@pytest.mark.parametrize("intercept", [False, True])
def test_the_eigen_path_solves_for_every_gamma(intercept):
    x, y, w = problem(30, 5, 2, mean=1.0)
    system = system_of(x, y, w)
    values, vectors, projected = eigen_path(system, fit_intercept=intercept)
    for gamma in (1e-3, 10.0):
        expected = system.solve(gamma, fit_intercept=intercept).weight.numpy()
        path = vectors @ (projected / (values + gamma)[:, None])
        assert error(path, expected) < 1e-10


def test_the_product_reads_the_lower_triangle_only():
    matrix = with_spectrum(np.arange(1.0, 5))
    lower = torch.from_numpy(np.tril(matrix) + np.triu(np.full((4, 4), np.nan), 1))
    right = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3)))
    assert np.allclose(symmetric_product(lower, right), matrix @ right.numpy())
