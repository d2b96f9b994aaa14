"""The ridge chosen from sums, against the same thing computed from the rows."""

import numpy as np
import pytest
import torch

from lipogram.analytic.selection import (
    fold_losses,
    gamma_grid,
    gcv_scores,
    largest_within_one_error,
)
from lipogram.analytic.statistics import ClassStatistics


def problem(n=60, d=8, k=3, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, k, size=n)
    x = generator.normal(size=(n, d)) + generator.normal(size=(k, d))[y]
    return x, y, generator.uniform(0.2, 3.0, size=n)


def system_of(x, y, w=None, k=3):
    return (
        ClassStatistics(x.shape[1]).declare(np.arange(k)).update(x, y, sample_weight=w).reweight()
    )


def solved(x, y, w, gamma, intercept):
    """Weighted ridge of one-hot targets from dense normal equations, (d, k) and (k,)."""
    targets = np.eye(3)[y]
    mean_x = np.average(x, axis=0, weights=w) if intercept else np.zeros(x.shape[1])
    mean_y = np.average(targets, axis=0, weights=w) if intercept else np.zeros(3)
    xc, yc = x - mean_x, targets - mean_y
    a = xc.T @ (w[:, None] * xc) + gamma * np.eye(x.shape[1])
    weight = np.linalg.solve(a, xc.T @ (w[:, None] * yc))
    return weight, mean_y - mean_x @ weight


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("n", [60, 6], ids=["n > d", "n < d"])
def test_gcv_is_the_formula_of_the_dense_hat_matrix(n, intercept):
    x, y, w = problem(n)
    system = system_of(x, y, w)
    gammas = gamma_grid(system)
    root = np.sqrt(w)[:, None]
    expected = []
    for gamma in gammas:
        # The hat matrix of √w·y, column by column: fit to each unit vector.
        xt = root * x
        extra = root / np.linalg.norm(root) if intercept else np.zeros_like(root)
        xc = xt - extra @ (extra.T @ xt)
        inner = np.linalg.solve(xc.T @ xc + gamma * np.eye(x.shape[1]), xc.T)
        hat = xc @ inner + extra @ extra.T
        residual = (np.eye(n) - hat) @ (root * np.eye(3)[y])
        expected.append(n * np.square(residual).sum() / np.trace(np.eye(n) - hat) ** 2)
    scores = gcv_scores(system, gammas, fit_intercept=intercept)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert np.argmin(scores) == np.argmin(expected)


def test_gcv_approximates_leaving_one_out():
    x, y, w = problem(200)
    w[:] = 1
    gammas = np.logspace(-1, 3, 9)
    left_out = []
    for gamma in gammas:
        errors = []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            weight, _ = solved(x[rest], y[rest], w[rest], gamma, False)
            errors.append(np.square(np.eye(3)[y[i]] - x[i] @ weight).sum())
        left_out.append(np.mean(errors))
    scores = gcv_scores(system_of(x, y), gammas)
    np.testing.assert_allclose(scores, left_out, rtol=0.02)


@pytest.mark.parametrize("intercept", [False, True])
def test_fold_losses_are_held_out_residuals(intercept):
    x, y, w = problem()
    fold = np.arange(len(x)) % 4
    gammas = np.array([1e-3, 0.5, 40.0])
    train = [system_of(x[fold != f], y[fold != f], w[fold != f]) for f in range(4)]
    held = [system_of(x[fold == f], y[fold == f], w[fold == f]) for f in range(4)]
    expected = np.zeros((4, 3))
    for f in range(4):
        for i, gamma in enumerate(gammas):
            rest, mine = fold != f, fold == f
            weight, shift = solved(x[rest], y[rest], w[rest], gamma, intercept)
            residual = np.eye(3)[y[mine]] - x[mine] @ weight - shift
            expected[f, i] = (w[mine, None] * np.square(residual)).sum()
    losses = fold_losses(train, held, gammas, fit_intercept=intercept)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)


def test_one_standard_error_takes_the_largest_that_is_as_good():
    # Minimum in column 1; its folds scatter with a standard error of 2 on the sum of 10.
    losses = np.array([[4.0, 2.0, 2.5, 5.0], [4.0, 4.0, 4.5, 5.0], [4.0, 3.0, 3.5, 5.0]])
    assert losses[:, 1].std(ddof=1) * 3**0.5 == pytest.approx(3**0.5)
    assert largest_within_one_error(losses) == 2  # 10.5 ≤ 9 + 1.73 < 15
    assert largest_within_one_error(losses[:, [0, 1, 3]]) == 1
    steady = np.array([[3.0, 2.0, 2.1], [3.0, 2.0, 2.1]])
    assert largest_within_one_error(steady) == 1  # no scatter: the minimum itself


def test_grid_spans_the_mean_eigenvalue():
    x, y, _ = problem()
    system = system_of(x, y)
    mean = np.trace(x.T @ x) / x.shape[1]
    gammas = gamma_grid(system)
    assert len(gammas) == 33
    assert gammas[0] == pytest.approx(1e-5 * mean)
    assert gammas[-1] == pytest.approx(1e3 * mean)
    np.testing.assert_allclose(np.diff(np.log10(gammas)), 0.25)
    assert bool((gamma_grid(system_of(0 * x, y)) > 0).all())


def test_gcv_is_infinite_where_nothing_is_left_free():
    x = np.eye(3)
    system = system_of(x, np.array([0, 1, 2]))
    scores = gcv_scores(system, np.array([1e-30, 1.0]))
    assert scores[0] == np.inf
    assert np.isfinite(scores[1])


def test_scores_do_not_change_the_sums():
    x, y, w = problem()
    system = system_of(x, y, w)
    before = system.gram.clone(), system.cross.clone()
    gcv_scores(system, gamma_grid(system), fit_intercept=True)
    fold_losses([system], [system], gamma_grid(system))
    assert torch.equal(system.gram, before[0])
    assert torch.equal(system.cross, before[1])
