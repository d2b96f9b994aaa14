import numpy as np
import pytest

from afl.absolute_aggregation import aggregate_aa, pairwise_law
from afl.errors import RejectedUpload
from lipogram.errors import IllConditioned, InvalidSetting

rng = np.random.default_rng(0)
D, K, N, GAMMA = 20, 4, 600, 1.0
Y = np.eye(K)[rng.integers(0, K, N)]
X = rng.standard_normal((N, D)) + Y @ rng.standard_normal((K, D))


def uploads(pieces, gamma=GAMMA, x=X):
    heads, matrices = [], []
    for rows in pieces:
        c = x[rows].T @ x[rows] + gamma * np.eye(x.shape[1])
        heads.append(np.linalg.solve(c, x[rows].T @ Y[rows]))
        matrices.append(c)
    return heads, matrices


def off(weight, oracle):
    return np.abs(np.asarray(weight) - oracle).max() / np.abs(oracle).max()


@pytest.mark.parametrize("clients", [1, 2, 7, 60])
def test_the_law_is_the_weighted_mean_is_the_sum(clients):
    heads, matrices = uploads(np.array_split(rng.permutation(N), clients))
    pooled = np.linalg.solve(X.T @ X + clients * GAMMA * np.eye(D), X.T @ Y)
    mean = np.linalg.solve(sum(matrices), sum(c @ w for c, w in zip(matrices, heads, strict=True)))
    assert off(pairwise_law(heads, matrices), pooled) < 1e-8
    assert off(mean, pooled) < 1e-10
    assert off(aggregate_aa(heads, matrices, GAMMA, clean=False), pooled) < 1e-10


def test_cleaning_takes_out_what_the_clients_added():
    heads, matrices = uploads(np.array_split(np.arange(N), 50))  # 12 rows each, 20 features
    plain = np.linalg.lstsq(X, Y, rcond=None)[0]
    ridge = np.linalg.solve(X.T @ X + GAMMA * np.eye(D), X.T @ Y)
    assert off(aggregate_aa(heads, matrices, GAMMA), plain) < 1e-8
    assert off(aggregate_aa(heads, matrices, GAMMA, clean="joint"), ridge) < 1e-8


def test_a_singular_whole_gives_the_least_norm_solution():
    flat = np.hstack([X[:, :8], X[:, :8]])
    heads, matrices = uploads(np.array_split(np.arange(N), 3), x=flat)
    with pytest.warns(IllConditioned, match="8 of 16"):
        weight = aggregate_aa(heads, matrices, GAMMA)
    assert off(weight, np.linalg.lstsq(flat, Y, rcond=None)[0]) < 1e-7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, c: (w, c + np.triu(np.ones_like(c), 1)), "not symmetric"),
        (lambda w, c: (w, -c), "eigenvalue"),
        (lambda w, c: (w, c * 1e-3), "eigenvalue"),
        (lambda w, c: (w * np.nan, c), "NaN"),
        (lambda w, c: (w[:-1], c), "no upload"),
        (lambda w, c: (w, c[:-1]), "no upload"),
        (lambda w, c: (w[:, :-1], c), "another shape"),
    ],
)
def test_bad_uploads_are_refused_by_their_position(spoil, message):
    heads, matrices = uploads(np.array_split(np.arange(N), 3))
    heads[1], matrices[1] = spoil(heads[1], matrices[1])
    with pytest.raises(RejectedUpload, match=f"upload 1.*{message}"):
        aggregate_aa(heads, matrices, GAMMA)


def test_bad_settings_are_refused():
    heads, matrices = uploads([np.arange(N)])
    for call in (
        lambda: aggregate_aa(heads, matrices, -1.0),
        lambda: aggregate_aa(heads, [], 1.0),
        lambda: aggregate_aa(heads, matrices, 1.0, clean="all"),
    ):
        with pytest.raises(InvalidSetting):
            call()
