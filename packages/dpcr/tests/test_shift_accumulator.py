import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcr import ShiftAccumulator, fit_shift
from lipogram.errors import CorruptState, IncompatibleFeatures, InvalidFeatures

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(60, 5)) + 1, RANDOM.normal(size=(60, 4))


def assert_close(ours, reference, tolerance=1e-9):
    assert float((ours - reference).abs().max()) <= tolerance


def bits(pairs):
    tensors, described = pairs.state()
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, described


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    workers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_batches_order_and_workers_give_one_map(cuts, workers, seed):
    order = np.random.default_rng(seed).permutation(60)
    parts = [ShiftAccumulator() for _ in range(workers)]
    edges = [0, *sorted(cuts), 60]
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        rows = order[start:stop]
        parts[i % workers].update(X[rows], Y[rows])
    whole = parts[0]
    for other in parts[1:]:
        whole.merge(other)
    once, joint = whole.state(), ShiftAccumulator().update(X, Y).state()
    assert once[1] == joint[1]
    for name, tensor in joint[0].items():
        assert_close(once[0][name], tensor, 1e-11)
    expected = fit_shift(X, Y, bias=True, eps=1e-3)
    got = whole.solve(bias=True, eps=1e-3)
    assert_close(got.matrix, expected.matrix)


def test_kinds_of_rows():
    expected = fit_shift(X, Y, eps=0).matrix
    for old, new in (
        (X.tolist(), Y.tolist()),
        (torch.from_numpy(X), Y),
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
    ):
        assert_close(fit_shift(old, new, eps=0).matrix, expected)
    half = fit_shift(torch.from_numpy(X).half(), Y.astype(np.float32), eps=0).matrix
    assert_close(half, expected, 0.01)
    assert half.dtype == torch.float64


def test_a_copy_is_independent():
    pairs = ShiftAccumulator().update(X, Y)
    before = bits(pairs)
    twin = pairs.copy().update(X, Y)
    assert (twin.rows, twin.widths) == (120, (5, 4))
    twin.merge(pairs).merge(twin)
    assert twin.rows == 360
    assert bits(pairs) == before
    assert ShiftAccumulator().merge(pairs).rows == 60
    ShiftAccumulator().merge(pairs).update(X, Y)
    assert bits(pairs) == before


BAD = [
    ((X[:3], Y[:2]), "3 rows of old features, 2 of new"),
    ((X[:, :4], Y), r"old features.*\(n, 5\)"),
    ((X, X), r"new features.*\(n, 4\)"),
    ((X[0], Y[0]), r"old features.*\(5,\)"),
    ((np.where(X > 2, np.nan, X), Y), "old features: features hold NaN"),
    ((X, np.where(Y > 1, np.inf, Y)), "new features: features hold infinity"),
    ((X, np.full_like(Y, 1e200)), "exceed"),
    ((X.astype("U"), Y), "old features.*no numbers"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_a_rejected_batch_changes_nothing(rows, message):
    pairs = ShiftAccumulator().update(X, Y)
    before = bits(pairs)
    with pytest.raises(InvalidFeatures, match=message):
        pairs.update(*rows)
    assert bits(pairs) == before


def test_a_first_batch_that_is_no_matrix():
    pairs = ShiftAccumulator()
    for old in (X[0], np.zeros((3, 0)), 7.0):
        with pytest.raises(InvalidFeatures, match="d ≥ 1"):
            pairs.update(old, Y)
    assert pairs.rows == 0
    assert pairs.widths is None
    assert pairs.update(np.zeros((0, 7)), np.zeros((0, 2))).widths is None


def test_workers_that_do_not_fit():
    pairs = ShiftAccumulator(old_space="a").update(X, Y)
    before = bits(pairs)
    others = [
        (ShiftAccumulator(old_space="b"), "old_space here is 'a', there 'b'"),
        (ShiftAccumulator(old_space="a", new_space="c"), "new_space"),
        (ShiftAccumulator(old_space="a").update(X, X), r"\(5, 4\).*\(5, 5\)"),
    ]
    for other, message in others:
        with pytest.raises(IncompatibleFeatures, match=message):
            pairs.merge(other)
        assert bits(pairs) == before
    shift = pairs.solve(eps=0.1)
    assert (shift.old_space, shift.new_space) == ("a", "")


def test_the_state_comes_back_or_is_refused():
    pairs = ShiftAccumulator(new_space="b").update(X, Y)
    tensors, described = pairs.state("p/")
    back = ShiftAccumulator.of_state(tensors, described, "p/")
    assert bits(back) == bits(pairs)
    empty = ShiftAccumulator.of_state({}, ShiftAccumulator().state()[1])
    assert empty.widths is None
    cross = tensors["p/cross"]
    wrong = [
        (tensors | {"p/cross": cross.float()}, described),
        (tensors | {"p/gram": cross}, described),
        (tensors | {"p/old": tensors["p/new"]}, described),
        (tensors | {"p/gram": -tensors["p/gram"]}, described),
        (tensors, described | {"rows": 0}),
        ({}, described),
    ]
    for held, said in wrong:
        with pytest.raises(CorruptState):
            ShiftAccumulator.of_state(held, said, "p/")
