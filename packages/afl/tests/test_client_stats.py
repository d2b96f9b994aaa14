import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from afl.client_stats import ClientStats
from afl.errors import RejectedUpload
from lipogram.analytic.blas import pack, unpack
from lipogram.analytic.buffer import RandomBuffer
from lipogram.errors import IncompatibleFeatures, InvalidSetting

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 5))
Y = rng.integers(0, 3, 60)


def changed(stats, **parts):
    held = {
        "gram_packed": stats.gram_packed,
        "cross": stats.cross,
        "counts": stats.counts,
        "classes": stats.classes,
    }
    return ClientStats.from_parts(**(held | parts), n_features=5, clip=stats.clip)


def test_the_sums_are_what_their_names_say():
    stats = ClientStats.compute(X, Y)
    full = unpack(stats.gram_packed, 5)
    assert np.allclose(np.tril(full.numpy()), np.tril(X.T @ X))
    onehot = (Y[:, None] == np.array(stats.classes)).astype(float)
    assert np.allclose(stats.cross.numpy(), X.T @ onehot)
    assert stats.trace == pytest.approx((X**2).sum())
    assert stats.n_rows == 60


@given(arrays(np.float64, (8, 3), elements=st.floats(-1e6, 1e6)), st.floats(1e-3, 1e3))
def test_no_clipped_row_moves_the_sums_by_more_than_its_bound(rows, clip):
    whole = ClientStats.compute(rows, [0] * 8, clip=clip)
    less = ClientStats.compute(rows[1:], [0] * 7, clip=clip)
    moved = (whole.gram_packed - less.gram_packed).norm()
    assert moved <= clip**2 * (1 + 1e-6) * 1.0001 + 1e-9 * clip**2
    assert (whole.cross - less.cross).norm() <= clip * (1 + 1e-6)
    assert whole.trace <= 8 * clip**2 * (1 + 1e-9)


def test_clipping_comes_after_the_random_map():
    buffer = RandomBuffer(5, 16, seed=1)
    stats = ClientStats.compute(100 * X, Y, feature_map=buffer, clip=2.0)
    assert stats.n_features == 16
    assert stats.trace <= 60 * 4 * (1 + 1e-9)


def test_addition_makes_new_objects():
    a, b = ClientStats.compute(X[:20], Y[:20]), ClientStats.compute(X[20:], Y[20:])
    before = a.digest
    whole = a + b
    assert a.digest == before
    assert torch.allclose(whole.gram_packed, ClientStats.compute(X, Y).gram_packed)
    assert torch.allclose((whole - b).cross, a.cross, atol=1e-12)


def test_rows_are_never_held():
    few = ClientStats.compute(X[:1], Y[:1], per_class=True)
    few.flush()
    assert {gram.storage for gram in few.store.grams.values()} == {"packed"}


def test_per_class_sums_add_to_the_pooled_ones():
    each = ClientStats.compute(X, Y, per_class=True)
    assert torch.allclose(each.gram_packed.sum(0), ClientStats.compute(X, Y).gram_packed)
    again = ClientStats.from_parts(
        each.gram_packed, each.cross, each.counts, each.classes, n_features=5
    )
    assert again.digest == each.digest


def test_the_digest_forgets_the_order_of_classes_and_empty_ones():
    order = np.argsort(-Y, kind="stable")
    a = ClientStats.compute(X[order], Y[order])
    b = changed(
        a,
        cross=a.cross[:, [2, 0, 1]],
        counts=a.counts[[2, 0, 1]],
        classes=[a.classes[i] for i in (2, 0, 1)],
    )
    assert a.digest == b.digest
    assert a.declare([99]).digest == b.digest
    assert a.digest != ClientStats.compute(X, Y, space="other").digest


def test_honest_sums_verify():
    for rows in (0, 1, 2, 60):
        ClientStats.compute(X[:rows], Y[:rows], clip=1.0).verify()
        ClientStats.compute(X[:rows], Y[:rows], per_class=True).verify()
    constant = np.ones((40, 5))
    ClientStats.compute(constant, [0] * 40).verify()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda s: {"gram_packed": s.gram_packed * float("nan")}, "NaN"),
        (lambda s: {"gram_packed": pack(-torch.eye(5, dtype=torch.float64))}, "semi-definite"),
        (lambda s: {"counts": -s.counts}, "negative"),
        (lambda s: {"counts": np.maximum(s.counts // 9, 1)}, "semi-definite|n·clip"),
        (lambda s: {"cross": s.cross * 5}, "semi-definite"),
        (lambda s: {"counts": s.counts * 0}, "without rows"),
        (lambda s: {"counts": s.counts * 0, "cross": s.cross * 0}, "n·clip|no row is counted"),
    ],
)
def test_sums_of_no_rows_are_rejected(parts, message):
    honest = ClientStats.compute(X + 2, Y, clip=3.0)
    with pytest.raises(RejectedUpload, match=message):
        changed(honest, **parts(honest)).verify()


def test_shapes_that_do_not_fit_are_rejected():
    stats = ClientStats.compute(X, Y)
    with pytest.raises(RejectedUpload, match="3 classes, 5 wide"):
        changed(stats, cross=stats.cross[:, :2])


def test_other_settings_do_not_add_up():
    stats, before = ClientStats.compute(X, Y, clip=1.0), ClientStats.compute(X, Y, clip=1.0).digest
    for other in (
        ClientStats.compute(X, Y, clip=2.0),
        ClientStats.compute(X, Y, clip=1.0, space="elsewhere"),
        ClientStats.compute(X, Y, clip=1.0, per_class=True),
        ClientStats.compute(X[:, :4], Y, clip=1.0),
    ):
        with pytest.raises(IncompatibleFeatures):
            stats.merge(other)
    assert stats.digest == before
    with pytest.raises(InvalidSetting, match="clip"):
        ClientStats(5, clip=-1.0)
