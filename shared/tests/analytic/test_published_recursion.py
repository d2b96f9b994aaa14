import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lipogram.analytic.published_recursion import published_recursion


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_recursion_ends_at_ridge_regression(batch: int) -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((60, 12)), rng.integers(0, 3, 60)
    ridge = Ridge(alpha=0.3, fit_intercept=False, solver="svd").fit(rows, np.eye(3)[labels])
    weight = published_recursion(rows, labels, 3, gamma=0.3, batch=batch)
    np.testing.assert_allclose(weight.numpy(), ridge.coef_.T, rtol=0, atol=1e-10)
