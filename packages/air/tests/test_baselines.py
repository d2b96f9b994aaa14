"""The baselines are what their papers say, computed another way."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from air.baselines import BASELINES, Oversampling, RanPAC, learner

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), [60, 40, 30, 20, 10])
X = RNG.standard_normal((5, 12))[LABELS] + RNG.standard_normal((len(LABELS), 12))
TEST = RNG.standard_normal((200, 12))


def test_ranpac_takes_the_ridge_that_its_held_out_rows_like_best() -> None:
    model = RanPAC(buffer_size=64, seed=1)
    model.partial_fit(X, LABELS).end_task()
    mapped = np.maximum(X @ model.statistics.feature_map.weight.numpy(), 0)  # type: ignore[union-attr]
    targets, cut = np.eye(5)[LABELS], int(0.8 * len(X))
    errors = []
    for gamma in RanPAC.GAMMAS:
        ridge = Ridge(alpha=gamma, fit_intercept=False, solver="svd").fit(
            mapped[:cut], targets[:cut]
        )
        errors.append(np.square(ridge.predict(mapped[cut:]) - targets[cut:]).sum())
    assert model.gamma == RanPAC.GAMMAS[int(np.argmin(errors))]
    whole = Ridge(alpha=model.gamma, fit_intercept=False, solver="svd").fit(mapped, targets)
    scores = np.maximum(TEST @ model.statistics.feature_map.weight.numpy(), 0) @ whole.coef_.T  # type: ignore[union-attr]
    np.testing.assert_array_equal(model.predict(TEST), scores.argmax(1))


def test_oversampling_equals_repeated_rows() -> None:
    labels = np.repeat([0, 1, 2], [6, 3, 2])
    rows = X[: len(labels)]
    ours = Oversampling(class_weight="none", buffer_size=None).partial_fit(rows, labels)
    again = np.concatenate(
        [np.flatnonzero(labels == c).repeat(6 // n) for c, n in enumerate((6, 3, 2))]
    )
    ridge = Ridge(alpha=0.1, fit_intercept=False).fit(rows[again], np.eye(3)[labels[again]])
    np.testing.assert_allclose(ours.coef_, ridge.coef_, rtol=1e-9)


@pytest.mark.parametrize("name", ["air", *BASELINES])
def test_each_learns_a_stream_with_a_late_class(name: str) -> None:
    model = learner(name, gamma=1.0, buffer_size=32)
    for labels in ([0, 1], [2], [3, 4]):
        mine = np.isin(LABELS, labels)
        model.partial_fit(X[mine], LABELS[mine])
        model.end_task()
        assert set(model.predict(X)) <= set(range(labels[-1] + 1))
    assert (model.predict(X) == LABELS).mean() > 0.6
