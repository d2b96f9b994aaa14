"""Sums of what the buffer makes of rows and moments of the rows go together, whatever is asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from aefocl.stream_statistics import StreamStatistics
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import (
    ClosedClass,
    CorruptState,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    LipogramError,
    NotSeen,
    OverBudget,
    UnknownClass,
)

D, WIDTH = 5, 12
RNG = np.random.default_rng(0)
Y = RNG.permutation(np.repeat(np.arange(4), (30, 12, 5, 1)))
X = RNG.standard_normal((4, D))[Y] * 2 + RNG.standard_normal((len(Y), D)) + 1
W = RNG.uniform(0.2, 2, len(Y))
Array = NDArray[Any]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "buffer": {"buffer": True},
    "covariance": {"buffer": True, "whole_covariance": True},
    "directions": {"rank": 2},
}
REMOVABLE = [name for name in KINDS if name != "directions"]


def empty(buffer: bool = False, **options: Any) -> StreamStatistics:
    if not buffer:
        return StreamStatistics(D, pooled=True, **options)
    feature_map = RandomBuffer(D, WIDTH, seed=1)
    return StreamStatistics(WIDTH, pooled=True, feature_map=feature_map, **options)


def of(rows: Any = slice(None), **options: Any) -> StreamStatistics:
    return empty(**options).update(X[rows], Y[rows], sample_weight=W[rows])


def held(statistics: StreamStatistics) -> dict[str, bytes]:
    """Everything there is, bit by bit."""
    tensors, said = describe(statistics)
    inside = statistics.incoming
    counts = {} if inside is None else {"rows": str(inside.n_rows).encode()}
    bits = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return {**bits, **counts, "said": json.dumps(said).encode()}


def assert_near(ours: Tensor, theirs: Tensor, tol: float) -> None:
    """Equal but for rounding, of each number or of the largest."""
    atol = tol * (float(theirs.abs().max()) if theirs.numel() else 1.0)
    np.testing.assert_allclose(ours, theirs, rtol=tol, atol=atol)


def assert_alike(one: StreamStatistics, two: StreamStatistics, tol: float = 1e-12) -> None:
    """The same state but for the order of its classes and rounding."""
    order = np.argsort(np.asarray(one.classes)), np.argsort(np.asarray(two.classes))
    assert sorted(one.classes) == sorted(two.classes)
    np.testing.assert_array_equal(one.counts[order[0]], two.counts[order[1]])
    a, b = (s.reweight() for s in (one, two))
    assert_near(a.gram.tril(), b.gram.tril(), tol)
    assert_near(a.cross[:, order[0].copy()], b.cross[:, order[1].copy()], tol)
    for name in ("mass", "mean", "m2"):
        ours, theirs = (getattr(s.moments, name) for s in (one, two))
        assert_near(ours[order[0].copy()], theirs[order[1].copy()], tol)
    if one.incoming is not None and two.incoming is not None:
        ours, theirs = one.incoming.reweight().gram, two.incoming.reweight().gram
        assert_near(ours.tril(), theirs.tril(), tol)
    assert (one.incoming is None) == (two.incoming is None)


# ---------------------------------------------------------------------- what is held


@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_are_those_of_class_statistics(kind: str) -> None:
    mine = of(**KINDS[kind])
    bare = ClassStatistics(mine.n_features, pooled=True, feature_map=mine.feature_map)
    bare.update(X, Y, sample_weight=W)
    assert torch.equal(mine.reweight().gram, bare.reweight().gram)
    assert torch.equal(mine.sums, bare.sums)
    np.testing.assert_array_equal(mine.mass, bare.mass)
    assert mine.n_inputs == D


@pytest.mark.parametrize("kind", KINDS)
def test_the_moments_are_of_the_rows_before_the_buffer(kind: str) -> None:
    mine = of(**KINDS[kind])
    for slot, label in enumerate(mine.classes):
        rows, weight = X[label == Y], W[label == Y]
        mean = np.average(rows, 0, weight)
        np.testing.assert_allclose(mine.moments.mean[slot], mean, rtol=1e-12)
        np.testing.assert_allclose(
            mine.moments.m2[slot], weight @ (rows - mean) ** 2, rtol=1e-12, atol=1e-12
        )
    np.testing.assert_allclose(mine.moments.mass, mine.mass, rtol=1e-13)
    if mine.incoming is not None:
        gram = mine.incoming.reweight().gram.tril().numpy()
        np.testing.assert_allclose(gram, np.tril(X.T @ (X * W[:, None])), rtol=1e-12)
    assert (mine.incoming is not None) == (kind == "covariance")


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_likes_share_nothing(kind: str) -> None:
    mine = of(slice(0, 30), **KINDS[kind])
    before = held(mine)
    for other in (mine.copy(), mine.like(), mine.augment(X[30:], Y[30:])):
        other.update(X[30:], Y[30:], sample_weight=W[30:]).declare([77])
    assert held(mine) == before
    assert_alike(mine.copy().update(X[30:], Y[30:], sample_weight=W[30:]), of(**KINDS[kind]))
    assert len(mine.like().moments) == 0


# ---------------------------------------------------------------------- laws


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, len(Y)), max_size=6),
    seed=st.integers(0, 99),
    kind=st.sampled_from(list(KINDS)),
    merged=st.booleans(),
)
def test_any_split_and_order_is_the_whole(
    cuts: list[int], seed: int, kind: str, merged: bool
) -> None:
    order = np.random.default_rng(seed).permutation(len(Y))
    total = empty(**KINDS[kind])
    for i in np.split(order, sorted(cuts)):
        if merged:
            total.merge(of(i, **KINDS[kind]))
        else:
            total.update(X[i], Y[i], sample_weight=W[i])
    assert_alike(total, of(**KINDS[kind]))


@settings(max_examples=25)
@given(
    gone=st.sets(st.integers(0, len(Y) - 1), max_size=len(Y) - 1),
    kind=st.sampled_from(REMOVABLE),
)
def test_what_is_removed_was_never_seen(gone: set[int], kind: str) -> None:
    out = np.array(sorted(gone), dtype=int)
    kept = np.setdiff1d(np.arange(len(Y)), out)
    mine = of(**KINDS[kind]).remove(of(out, **KINDS[kind]))
    assert len(mine.moments) == len(mine.classes)
    assert_alike(mine, of(kept, **KINDS[kind]), 1e-8)
    assert_alike(mine.merge(of(out, **KINDS[kind])), of(**KINDS[kind]), 1e-8)


@pytest.mark.parametrize("kind", REMOVABLE)
def test_merged_with_and_removed_from_itself(kind: str) -> None:
    mine = of(**KINDS[kind])
    mine.merge(mine)
    assert_alike(mine, of(np.tile(np.arange(len(Y)), 2), **KINDS[kind]))
    mine.remove(mine)
    assert mine.classes == []
    assert len(mine.moments) == 0


def test_declared_classes_have_no_moments_yet() -> None:
    mine = empty().declare([9, 8]).update(X, Y).update(X[:0], Y[:0])
    assert len(mine.moments) == len(mine.classes) == 6
    np.testing.assert_array_equal(mine.moments.mass[:2], [0, 0])
    mine.drop(9)
    assert len(mine.moments) == 5
    np.testing.assert_allclose(mine.moments.mass, mine.counts)


# ---------------------------------------------------------------------- refusals


def budgeted() -> StreamStatistics:
    return empty(memory_budget=100)


REFUSED: list[tuple[str, type[LipogramError], Any]] = [
    ("NaN", InvalidFeatures, lambda s: s.update([[np.nan] * D], [0])),
    ("infinity of a new class", InvalidFeatures, lambda s: s.update([[np.inf] * D], [50])),
    ("width", InvalidFeatures, lambda s: s.update(X[:2, :3], Y[:2])),
    ("lengths", InvalidFeatures, lambda s: s.update(X[:3], Y[:2])),
    ("no labels", InvalidFeatures, lambda s: s.update(X[:3], [])),
    ("labels", InvalidLabels, lambda s: s.update(X[:2], ["a", "b"])),
    ("weights", InvalidSetting, lambda s: s.update(X[:2], Y[:2], sample_weight=[1, -1])),
    ("soft targets", InvalidSetting, lambda s: s.update_targets(X[:2], np.eye(2), [0, 1])),
    ("moving", InvalidSetting, lambda s: s.transport(torch.eye(s.n_features).double())),
    ("widening", InvalidSetting, lambda s: s.widen(torch.eye(s.n_features).double())),
    ("dropping", ClosedClass, lambda s: s.drop(0)),
    ("folding", InvalidSetting, lambda s: s.fold({0: 1.0})),
    ("merging bare sums", IncompatibleFeatures, lambda s: s.merge(bare_like(s))),
    ("removing bare sums", IncompatibleFeatures, lambda s: s.remove(bare_like(s))),
    ("merging a width", IncompatibleFeatures, lambda s: s.merge(StreamStatistics(3, pooled=True))),
    ("merging a space", IncompatibleFeatures, lambda s: s.merge(respaced(s))),
    ("merging other labels", InvalidLabels, lambda s: s.merge(relabelled(s))),
    ("merging other moments", IncompatibleFeatures, lambda s: s.merge(otherwise(s))),
    ("removing an unknown class", UnknownClass, lambda s: s.remove(more_of(s, [50]))),
    ("removing too many", NotSeen, lambda s: s.remove(more_of(s, [3, 3]))),
    ("removing what is too large", NotSeen, lambda s: s.remove(more_of(s, [0], 1e9))),
]


def bare_like(s: StreamStatistics) -> ClassStatistics:
    bare = ClassStatistics(s.n_features, pooled=True, feature_map=s.feature_map)
    return bare.update(X, Y)


def respaced(s: StreamStatistics) -> StreamStatistics:
    other = s.copy()
    other.space = "elsewhere"
    return other


def relabelled(s: StreamStatistics) -> StreamStatistics:
    return s.like().update(X[:2], ["a", "b"])


def otherwise(s: StreamStatistics) -> StreamStatistics:
    rank = 3 if s.incoming is None else 0  # another number of directions, or no covariance
    other = StreamStatistics(s.n_features, rank=rank, pooled=True, feature_map=s.feature_map)
    return other.update(X, Y)


def more_of(s: StreamStatistics, labels: list[int], value: float = 1.0) -> StreamStatistics:
    return s.like().update(np.full((len(labels), D), value), labels)


@pytest.mark.parametrize(("what", "error", "call"), REFUSED, ids=[r[0] for r in REFUSED])
@pytest.mark.parametrize("kind", REMOVABLE)
def test_what_is_refused_leaves_every_bit(kind: str, what: str, error: Any, call: Any) -> None:
    mine = of(**KINDS[kind])
    before = held(mine)
    with pytest.raises(error):
        call(mine)
    assert held(mine) == before


def test_directions_do_not_come_apart() -> None:
    mine = of(rank=2)
    before = held(mine)
    with pytest.raises(InvalidSetting, match="strongest directions"):
        mine.remove(of(slice(0, 2), rank=2))
    assert held(mine) == before


def test_beyond_the_budget_nothing_enters() -> None:
    mine = empty(memory_budget=100)
    before = held(mine)
    with pytest.raises(OverBudget):
        mine.update(X, Y)
    with pytest.raises(OverBudget):
        mine.merge(of())
    assert held(mine) == before
    assert len(mine.moments) == 0


# ---------------------------------------------------------------------- keeping


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_goes_on_alike(kind: str, tmp_path: Path) -> None:
    mine = of(slice(0, 25), **KINDS[kind]).declare([50])
    tensors, said = describe(mine, "0/")
    write_state(tmp_path / "state", tensors, {"said": said})
    read, told = read_state(tmp_path / "state")
    options = {name: v for name, v in KINDS[kind].items() if name != "buffer"}
    again = restore(
        read, told["said"], "0/", make=lambda n, **more: StreamStatistics(n, **options, **more)
    )
    assert isinstance(again, StreamStatistics)
    assert held(again) == held(mine)
    rest = slice(25, None)
    for each in (mine, again):
        each.update(X[rest], Y[rest], sample_weight=W[rest])
    assert held(again) == held(mine)
    if kind != "directions":
        assert again.remove(of(**KINDS[kind])).classes == [50]
        assert bool((again.moments.mass == 0).all())


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("own/moments/mean"),
        lambda tensors: tensors.pop("own/incoming"),
        lambda tensors: tensors.update({"own/incoming": torch.eye(D + 1).double()}),
        lambda tensors: tensors.update({"own/incoming": torch.full((D, D), torch.nan).double()}),
        lambda tensors: tensors["own/moments/m2"].neg_(),
        lambda tensors: tensors["own/moments/mean"].fill_(torch.inf),
    ],
    ids=["no mean", "no covariance", "its shape", "its values", "a sign", "infinity"],
)
def test_damaged_moments_are_corrupt(damage: Any) -> None:
    tensors, said = describe(of(buffer=True, whole_covariance=True))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    damage(tensors)
    with pytest.raises(CorruptState):
        restore(
            tensors,
            said,
            make=lambda n, **more: StreamStatistics(n, whole_covariance=True, **more),
        )
