"""Class statistics in parts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.split_statistics import SplitStatistics, parts_of
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
    OverBudget,
    UnknownClass,
)


def rows(n=80, d=6, k=4, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, k, size=n)
    return generator.normal(size=(n, d)) + y[:, None], y, generator.uniform(0.1, 2, size=n)


def split(pooled=False, d=6, folds=3, **settings):
    return SplitStatistics(ClassStatistics(d, pooled=pooled, **settings), folds)


def numbers(held):
    """Everything that a state says, to the bit."""
    parts = []
    for part in held.parts:
        part.flush()
        grams = {slot: gram.full().numpy().tobytes() for slot, gram in part.store.grams.items()}
        sums = part._sums.numpy().tobytes(), part._mass.tobytes(), part.counts.tobytes()
        parts.append((part.classes, grams, sums, part._pool.row_sum.numpy().tobytes()))
    return parts


def assert_same_system(one, two, rtol=1e-12):
    scale = float(two.gram.tril().abs().max())
    np.testing.assert_allclose(one.gram.tril(), two.gram.tril(), rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(one.cross, two.cross, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(one.row_sum, two.row_sum, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(one.target_sum, two.target_sum, rtol=rtol)
    assert one.mass == pytest.approx(two.mass, rel=rtol)
    assert one.energy == pytest.approx(two.energy, rel=rtol)
    assert one.rows == two.rows


@pytest.mark.parametrize("pooled", [False, True])
def test_the_parts_add_up_to_the_whole(pooled):
    x, y, w = rows()
    held = split(pooled).update(x, y, sample_weight=w)
    whole = ClassStatistics(6, pooled=pooled).update(x, y, sample_weight=w)
    assert held.classes == whole.classes
    assert_same_system(held.reweight(), whole.reweight())
    np.testing.assert_array_equal(held.counts, whole.counts)
    np.testing.assert_allclose(held.mass, whole.mass)
    assert held.n_rows == 80
    assert held.nbytes > 0
    assert all(part.n_rows for part in held.parts)


def test_class_weights_reach_every_part():
    x, y, _ = rows()
    pi = np.array([0.5, 0.0, 2.0, 1.0])
    system = split().update(x, y).reweight(pi)
    assert_same_system(system, ClassStatistics(6).update(x, y).reweight(pi))


@settings(max_examples=25)
@given(st.permutations(range(40)), st.lists(st.integers(0, 40), max_size=4))
def test_order_and_batches_do_not_matter(order, cuts):
    x, y, w = rows(40)
    whole = split().declare(np.arange(4)).update(x, y, sample_weight=w)
    held = split().declare(np.arange(4))
    for batch in np.split(np.array(order), sorted(cuts)):
        held.update(x[batch], y[batch], sample_weight=w[batch])
    for one, two in zip(held.parts, whole.parts, strict=True):
        np.testing.assert_array_equal(one.counts, two.counts)
        assert_same_system(one.reweight(), two.reweight())


def test_parts_are_pinned():
    # The part of a row is written nowhere: were it to change, a saved state could not forget.
    x = torch.arange(60.0).reshape(20, 3) / 7
    assert "".join(map(str, parts_of(x, 5))) == "00112342231430323304"


def test_parts_are_even_and_follow_the_values():
    x = torch.randn(3000, 7, generator=torch.Generator().manual_seed(0))
    where = parts_of(x, 5)
    assert np.bincount(where, minlength=5).min() > 500
    np.testing.assert_array_equal(where[::-1], parts_of(x.flip(0), 5))
    np.testing.assert_array_equal(where, parts_of(x.double(), 5))
    np.testing.assert_array_equal(parts_of(torch.zeros(1, 7), 5), parts_of(-torch.zeros(1, 7), 5))
    half = x.bfloat16()
    np.testing.assert_array_equal(parts_of(half, 5), parts_of(half.double(), 5))
    columns = parts_of(x[:, [1, 0, 2, 3, 4, 5, 6]], 5)
    assert (columns != where).mean() > 0.5


def test_one_hot_and_constant_rows_are_dealt_out():
    # Rows that differ in few bits: a weak hash would send them all to one part.
    assert len(set(parts_of(torch.eye(64), 5).tolist())) == 5
    assert len(set(parts_of(torch.arange(64.0)[:, None], 5).tolist())) == 5


@pytest.mark.parametrize("pooled", [False, True])
def test_removing_rows_is_never_having_seen_them(pooled):
    x, y, w = rows()
    y[:5] = 9  # a class that goes
    held = split(pooled).update(x, y, sample_weight=w)
    gone = held.like().update(x[:30], y[:30], sample_weight=w[:30])
    held.remove(gone)
    kept = (
        split(pooled)
        .declare([c for c in held.classes])
        .update(x[30:], y[30:], sample_weight=w[30:])
    )
    assert 9 not in held.classes
    assert {tuple(part.classes) for part in held.parts} == {tuple(held.classes)}
    for one, two in zip(held.parts, kept.parts, strict=True):
        np.testing.assert_array_equal(one.counts, two.counts)
        assert_same_system(one.reweight(), two.reweight(), rtol=1e-10)


def test_a_class_that_is_left_in_one_part_keeps_its_slot_in_all():
    x, y, _ = rows(30, k=2)
    held = split().update(x, y)
    part = parts_of(torch.from_numpy(x), 3)
    gone = (y == 0) & (part != part[y == 0][0])
    held.remove(held.like().update(x[gone], y[gone]))
    assert {tuple(p.classes) for p in held.parts} == {tuple(held.classes)}
    np.testing.assert_array_equal(np.sort(held.counts), np.sort(np.bincount(y[~gone])))


def test_a_declared_class_survives_a_removal():
    x, y, _ = rows(30, k=2)
    held = split().declare([7]).update(x, y)
    held.remove(held.like().declare([7]).update(x[:3], y[:3]))
    assert 7 in held.classes


@pytest.mark.parametrize("pooled", [False, True])
def test_merge_is_having_seen_both(pooled):
    x, y, w = rows()
    one = split(pooled).update(x[:30], y[:30], sample_weight=w[:30])
    two = split(pooled).update(x[30:], y[30:], sample_weight=w[30:])
    both = split(pooled).declare(one.classes).update(x, y, sample_weight=w)
    before = numbers(two)
    one.merge(two)
    assert numbers(two) == before
    for mine, whole in zip(one.parts, both.parts, strict=True):
        np.testing.assert_array_equal(mine.counts, whole.counts)
        assert_same_system(mine.reweight(), whole.reweight())


def test_copies_are_independent():
    x, y, _ = rows()
    held = split().update(x, y)
    before = numbers(held)
    held.copy().update(x, y)
    held.like().update(x, y)
    assert numbers(held) == before


def test_drop_takes_a_class_out_of_every_part():
    x, y, _ = rows()
    held = split().update(x, y).drop(2)
    assert 2 not in held.classes
    assert held.n_rows == (y != 2).sum()
    assert {tuple(part.classes) for part in held.parts} == {tuple(held.classes)}


def test_losses_are_those_of_rows_left_out():
    x, y, _ = rows(60, k=3)
    held = split(folds=4).declare(np.arange(3)).update(x, y)
    where = parts_of(torch.from_numpy(x), 4)
    pi, gammas = np.array([1.0, 3.0, 0.2]), np.array([0.01, 1.0, 50.0])
    expected = np.zeros((4, 3))
    for f in range(4):
        for i, gamma in enumerate(gammas):
            a, b = where != f, where == f
            gram = x[a].T @ (pi[y[a], None] * x[a]) + gamma * np.eye(6)
            weight = np.linalg.solve(gram, x[a].T @ (pi[y[a], None] * np.eye(3)[y[a]]))
            residual = np.square(np.eye(3)[y[b]] - x[b] @ weight).sum(1)
            expected[f, i] = pi[y[b]] @ residual
    np.testing.assert_allclose(held.gamma_losses(pi, gammas), expected, rtol=1e-9)


def test_a_feature_map_is_shared_and_applied():
    x, y, _ = rows()
    empty = ClassStatistics(10, feature_map=RandomBuffer(6, 10))
    held = SplitStatistics(empty, 3).update(x, y)
    assert len({id(part.feature_map) for part in held.parts}) == 1
    assert_same_system(held.reweight(), empty.like().update(x, y).reweight())


def test_small_batches_wait_for_one_another():
    x, y, _ = rows()
    held = split()
    for i in range(len(y)):
        held.update(x[i : i + 1], y[i : i + 1])
    assert sum(part._waiting.rows for part in held.parts) == len(y)


X, Y, W = rows(12)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.update(np.where(X > 4, np.nan, X), Y), InvalidFeatures),
        (lambda s: s.update(X[:, :3], Y), InvalidFeatures),
        (lambda s: s.update(X, Y[:-1]), InvalidFeatures),
        (lambda s: s.update(X, Y.astype(str)), InvalidLabels),
        (lambda s: s.update(X, Y + 0.5), InvalidLabels),
        (lambda s: s.update(X, Y, sample_weight=-W), InvalidSetting),
        (lambda s: s.update(X, Y, sample_weight=W[:-1]), InvalidSetting),
        (lambda s: s.update(X, Y + 50), OverBudget),
        (lambda s: s.merge(split(memory_budget=20_000).update(X, Y + 50)), OverBudget),
        (lambda s: s.merge(split(folds=4).update(X, Y)), IncompatibleFeatures),
        (lambda s: s.merge(split(pooled=True).update(X, Y)), IncompatibleFeatures),
        (lambda s: s.merge(split(space="other").update(X, Y)), IncompatibleFeatures),
        (lambda s: s.merge(split(d=5).update(X[:, :5], Y)), IncompatibleFeatures),
        (lambda s: s.merge(split().update(X, Y.astype(str))), InvalidLabels),
        (lambda s: s.remove(split(folds=4).update(X, Y)), IncompatibleFeatures),
        (lambda s: s.remove(s.like().update(np.concatenate([X] * 9), np.tile(Y, 9))), NotSeen),
        (lambda s: s.remove(s.like().update(X, Y + 50)), UnknownClass),
        (lambda s: s.drop(50), UnknownClass),
        (lambda s: s.fold({0: 1.0}), InvalidSetting),
    ],
)
def test_what_is_refused_changes_nothing(call, error):
    x, y, w = rows()
    held = split(memory_budget=4_000, storage="dense").update(x, y, sample_weight=w)
    before = numbers(held)
    with pytest.raises(error):
        call(held)
    assert numbers(held) == before


def test_a_pooled_class_that_has_rows_is_not_dropped_from_the_parts_without():
    x, y, _ = rows(40, k=2)
    y[1:] = 0
    y[0] = 1  # in one part only
    held = split(pooled=True).update(x, y)
    before = numbers(held)
    with pytest.raises(ClosedClass):
        held.drop(1)
    assert numbers(held) == before


def test_the_budget_is_for_all_parts_together():
    x, y, _ = rows(40, k=1)
    with pytest.raises(OverBudget, match="one of 3 folds"):
        split(storage="dense", memory_budget=3 * 8 * 36 - 1).update(x, y)
    held = split(storage="dense", memory_budget=3 * 8 * 36).update(x, y)
    held.reweight()
    assert sum(part.store.nbytes for part in held.parts) == 3 * 8 * 36


def test_the_first_bad_row_of_the_batch_is_named():
    x, y, _ = rows(2000)
    x[1777, 2] = np.inf
    with pytest.raises(InvalidFeatures, match="row 1777"):
        split().update(x, y)


def test_one_fold_is_no_split():
    with pytest.raises(InvalidSetting, match="at least 2"):
        split(folds=1)
