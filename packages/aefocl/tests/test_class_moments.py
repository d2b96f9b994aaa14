"""Moments of a class are those of its rows, whatever the batches, the order and the offset."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aefocl.class_moments import ClassMoments, Moments, moments_of, restored, strongest

D = 5
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((40, D)) @ (RNG.standard_normal((D, D)) + np.eye(D)) + 3
WEIGHTS = RNG.uniform(0.1, 2, 40)
Array = NDArray[np.float64]
NOTHING = moments_of(torch.zeros(1, D, dtype=torch.float64), torch.zeros(1).double(), 0)


def of(rows: Array, weight: Array | None = None, rank: int = 0) -> Moments:
    w = None if weight is None else torch.from_numpy(weight)
    return moments_of(torch.from_numpy(rows), w, rank)


def scatter(rows: Array, weight: Array | None = None) -> Array:
    """Σ w (z − μ)(z − μ)ᵀ, by numpy."""
    w = np.ones(len(rows)) if weight is None else weight
    off = rows - np.average(rows, 0, w)
    return off.T @ (off * w[:, None])


def assert_moments(held: Moments, rows: Array, weight: Array, rtol: float = 1e-12) -> None:
    assert held.mass == pytest.approx(weight.sum(), rel=1e-13)
    np.testing.assert_allclose(held.mean, np.average(rows, 0, weight), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(held.m2, scatter(rows, weight).diagonal(), rtol=rtol)


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=8),
    seed=st.integers(0, 99),
    weighted=st.booleans(),
    backwards=st.booleans(),
)
def test_any_split_in_any_order_is_the_whole(
    cuts: list[int], seed: int, weighted: bool, backwards: bool
) -> None:
    order = np.random.default_rng(seed).permutation(40)
    weight = WEIGHTS if weighted else np.ones(40)
    parts = [of(ROWS[i], weight[i]) for i in np.split(order, sorted(cuts)) if len(i)]
    total = NOTHING
    for part in reversed(parts) if backwards else parts:
        total = part.plus(total, 0) if backwards else total.plus(part, 0)
    assert_moments(total, ROWS, weight)


@settings(max_examples=40)
@given(n=st.integers(1, 38), seed=st.integers(0, 99), weighted=st.booleans())
def test_what_is_taken_out_was_never_there(n: int, seed: int, weighted: bool) -> None:
    order = np.random.default_rng(seed).permutation(40)
    weight = WEIGHTS if weighted else np.ones(40)
    gone, kept = order[:n], order[n:]
    left = of(ROWS, weight).minus(of(ROWS[gone], weight[gone]))
    assert_moments(left, ROWS[kept], weight[kept], rtol=1e-8)
    emptied = left.minus(of(ROWS[kept], weight[kept]))
    assert emptied.mass <= 1e-12
    assert bool((emptied.m2 >= 0).all())


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_spread_does_not_drown_in_the_offset(offset: float) -> None:
    rows, total = ROWS + offset, NOTHING
    for row in rows:
        total = total.plus(of(row[None]), 0)
    std = (total.m2 / 39).sqrt()
    np.testing.assert_allclose(std, rows.std(0, ddof=1), rtol=1e-12 + offset * 1e-15)


def test_rows_of_no_weight_say_nothing() -> None:
    assert NOTHING.mass == 0
    assert bool((NOTHING.mean == 0).all())
    assert bool((NOTHING.m2 == 0).all())
    one = of(ROWS)
    assert one.plus(NOTHING, 0) is one
    assert NOTHING.plus(one, 0) is one
    weight = np.where(np.arange(40) < 25, 1.0, 0.0)
    assert_moments(of(ROWS, weight), ROWS[:25], np.ones(25))


def test_weights_repeat_rows() -> None:
    times = RNG.integers(0, 4, 40)
    assert_moments(of(ROWS, times.astype(float)), np.repeat(ROWS, times, 0), np.ones(times.sum()))


# ---------------------------------------------------------------------- directions


@pytest.mark.parametrize("rank", [1, 3, D, 20])
def test_directions_are_the_strongest_of_a_batch(rank: int) -> None:
    factor = of(ROWS, WEIGHTS, rank).factor.numpy()
    values, vectors = np.linalg.eigh(scatter(ROWS, WEIGHTS))
    best = vectors[:, -rank:] * values[-rank:] @ vectors[:, -rank:].T
    assert len(factor) == min(rank, D)
    np.testing.assert_allclose(factor.T @ factor, best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_as_many_directions_as_features_lose_nothing(weight: Array | None) -> None:
    total = of(ROWS[:3], None if weight is None else weight[:3], D)
    for i in range(3, 40, 4):
        total = total.plus(of(ROWS[i : i + 4], None if weight is None else weight[i : i + 4], D), D)
    np.testing.assert_allclose(total.factor.T @ total.factor, scatter(ROWS, weight), rtol=1e-10)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(1, 39), max_size=6), rank=st.integers(1, 4))
def test_few_directions_never_claim_more_than_there_is(cuts: list[int], rank: int) -> None:
    parts = [of(ROWS[i], None, rank) for i in np.split(np.arange(40), sorted(cuts)) if len(i)]
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, rank)
    claimed = (total.factor.T @ total.factor).numpy()
    assert len(total.factor) <= rank
    assert np.linalg.eigvalsh(scatter(ROWS) - claimed).min() >= -1e-9
    assert np.trace(claimed) >= np.linalg.eigvalsh(scatter(ROWS))[-1] / 4


def test_fewer_rows_than_directions_stay_as_they_are() -> None:
    rows = torch.from_numpy(ROWS[:3])
    assert strongest(rows, 3) is rows
    assert strongest(rows, 0).shape == (0, D)


# ---------------------------------------------------------------------- by slot


def filled(rank: int = 0) -> ClassMoments:
    held = ClassMoments(D, rank=rank)
    held.grow(3)
    slots = torch.from_numpy(np.arange(40) % 2 * 2)  # slots 0 and 2; none of 1
    return held.add(held.of_batch(torch.from_numpy(ROWS), slots, torch.from_numpy(WEIGHTS)))


def test_a_batch_goes_to_its_slots() -> None:
    held = filled()
    assert len(held) == 3
    np.testing.assert_allclose(held.mass, [WEIGHTS[::2].sum(), 0, WEIGHTS[1::2].sum()])
    for slot in (0, 2):
        mine = slice(slot // 2, None, 2)
        assert_moments(held.classes[slot], ROWS[mine], WEIGHTS[mine])
    assert bool((held.mean[1] == 0).all())
    held.delete(1)
    assert_moments(held.classes[1], ROWS[1::2], WEIGHTS[1::2])
    held.subtract({0: held.classes[0]})
    assert held.mass[0] == 0


def test_float32_rows_are_summed_in_float64() -> None:
    held = ClassMoments(D)
    held.grow(1)
    rows = (ROWS + 1e4).astype(np.float32)
    held.add(held.of_batch(torch.from_numpy(rows), torch.zeros(40, dtype=torch.int64), None))
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(held.m2[0], scatter(wide).diagonal(), rtol=1e-11)


def test_a_copy_goes_its_own_way() -> None:
    held = filled()
    before, twin = held.m2, held.copy()
    twin.add({0: of(ROWS)})
    twin.grow(1)
    assert len(held) == 3
    assert torch.equal(held.m2, before)


def test_no_class_has_no_row() -> None:
    assert ClassMoments(D).mean.shape == (0, D)
    assert ClassMoments(D).mass.shape == (0,)
    assert len(restored(ClassMoments(D).tensors(), 0, D, 0, "cpu")) == 0


@pytest.mark.parametrize("rank", [0, 3])
def test_what_is_kept_comes_back_to_the_bit(rank: int) -> None:
    held = filled(rank)
    again = restored(held.tensors(), 3, D, rank, "cpu")
    assert again.rank == rank
    for name, tensor in held.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name
    assert {"moments/factor/0" in held.tensors()} == {rank > 0}


def spoilt(name: str, change: Any) -> Any:
    return name, lambda tensors: tensors.update({name: change(tensors[name])})


def set_to(value: float) -> Any:
    return lambda tensor: tensor.index_fill(0, torch.tensor([0]), value)


DAMAGE = [
    ("moments/mean", lambda tensors: tensors.pop("moments/mean")),
    ("moments/factor/1", lambda tensors: tensors.pop("moments/factor/1")),
    spoilt("moments/mean", lambda t: t[:2]),
    spoilt("moments/mean", lambda t: t.float()),
    spoilt("moments/mean", set_to(float("nan"))),
    spoilt("moments/m2", lambda t: t[:, :4]),
    spoilt("moments/m2", set_to(-1.0)),
    spoilt("moments/m2", set_to(float("inf"))),
    spoilt("moments/mass", lambda t: t[:, None]),
    spoilt("moments/mass", set_to(-1.0)),
    spoilt("moments/factor/0", lambda t: t[0]),
    spoilt("moments/factor/0", lambda t: t[:, :2]),
    spoilt("moments/factor/0", lambda t: torch.cat([t, t])),
    spoilt("moments/factor/0", lambda t: t.float()),
    spoilt("moments/factor/2", set_to(float("nan"))),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_what_no_moments_can_be_is_named(name: str, damage: Any) -> None:
    tensors = filled(3).tensors()
    damage(tensors)
    with pytest.raises((KeyError, ValueError), match=name):
        restored(tensors, 3, D, 3, "cpu")
