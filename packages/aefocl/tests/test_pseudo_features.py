"""What is drawn for a class: how many, how spread, and from what it follows."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aefocl.pseudo_features import (
    CHUNK,
    LARGEST_SOBOL,
    PseudoFeatures,
    check_sobol,
    lowrank,
    wanted,
)
from aefocl.stream_statistics import StreamStatistics
from lipogram.analytic.buffer import RandomBuffer
from lipogram.errors import InvalidSetting, UnknownClass

D, SIZES = 4, (50, 12, 3, 1)
COVARIANCES = ("diag", "shared", "diag+shared", "lowrank:2")
Array = NDArray[Any]
RNG = np.random.default_rng(0)
Y = RNG.permutation(np.repeat(np.arange(4), SIZES))
MIX = RNG.standard_normal((D, D)) + np.eye(D)
X = 2 * RNG.standard_normal((4, D))[Y] + RNG.standard_normal((len(Y), D)) @ MIX * (1 + Y[:, None])


def statistics(rank: int = 0, weight: Array | None = None) -> StreamStatistics:
    return StreamStatistics(D, rank=rank, pooled=True).update(X, Y, sample_weight=weight)


def source(covariance: str = "diag", **options: Any) -> PseudoFeatures:
    held = statistics(lowrank(covariance))
    return PseudoFeatures(held, covariance=covariance, **options)


def drawn(features: PseudoFeatures, label: Any, n: int) -> Array:
    rows: Array = torch.cat(list(features.sample(label, n))).numpy()
    return rows


def own(label: int) -> Array:
    covariance: Array = np.cov(X[label == Y], rowvar=False)
    return covariance


def within() -> Array:
    off = np.concatenate([X[c == Y] - X[c == Y].mean(0) for c in range(4)])
    covariance: Array = off.T @ off / (len(Y) - 4)
    return covariance


def named(covariance: str, label: int) -> Array:
    """The covariance that a name stands for, by numpy."""
    if covariance == "shared":
        return within()
    if covariance.startswith("lowrank"):
        values, vectors = np.linalg.eigh(own(label))
        strong: Array = vectors[:, -2:] * values[-2:] @ vectors[:, -2:].T
        return strong + np.diag((own(label) - strong).diagonal())
    diagonal = np.diag(own(label).diagonal())
    return diagonal + within() if covariance == "diag+shared" else diagonal


# ---------------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("mass", "balance_to", "lacking"),
    [
        ([5, 2, 1], "max", [0, 3, 4]),
        ([5, 2, 1], "median", [0, 0, 1]),
        ([5, 2, 1, 0], "median", [0, 0, 1, 0]),
        ([5, 2], "median", [0, 1.5]),
        ([5, 2, 1], 3, [0, 1, 2]),
        ([5, 2, 0], 1000, [995, 998, 0]),
        ([2.5, 1.25], "max", [0, 1.25]),
        ([4, 4], "max", [0, 0]),
        ([0, 0], "max", [0, 0]),
        ([], "max", []),
        ([7], "max", [0]),
    ],
)
def test_each_class_is_filled_up_to_the_target(mass: Any, balance_to: Any, lacking: Any) -> None:
    np.testing.assert_array_equal(wanted(np.array(mass, dtype=float), balance_to), lacking)


@settings(max_examples=50)
@given(
    mass=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    balance_to=st.sampled_from(["max", "median", 1, 4, 20]),
)
def test_classes_end_level_and_absent_ones_absent(mass: list[int], balance_to: Any) -> None:
    held = np.array(mass, dtype=float)
    after = held + wanted(held, balance_to)
    assert (after >= held).all()
    assert (after[held == 0] == 0).all()
    raised = after[after > held]
    assert len(set(raised)) <= 1
    if len(raised):
        assert (after[held > 0] >= raised[0]).all()


@pytest.mark.parametrize(
    ("name", "rank"), [("diag", 0), ("shared", 0), ("diag+shared", 0), ("lowrank:7", 7)]
)
def test_names_of_covariances(name: str, rank: int) -> None:
    assert lowrank(name) == rank


@pytest.mark.parametrize(
    "name", ["", "full", "lowrank", "lowrank:", "lowrank:0", "lowrank:-1", "lowrank:2.5", None, 3]
)
def test_covariances_that_are_none(name: object) -> None:
    with pytest.raises(InvalidSetting, match="covariance"):
        lowrank(name)


def test_a_sequence_has_as_many_dimensions_as_there_are() -> None:
    half = LARGEST_SOBOL // 2
    check_sobol("sobol", "diag", LARGEST_SOBOL)
    check_sobol("sobol", "diag+shared", half)
    check_sobol("sobol", "lowrank:5", LARGEST_SOBOL - 5)
    check_sobol("iid", "diag+shared", 10 * LARGEST_SOBOL)
    for covariance, width in (
        ("diag", LARGEST_SOBOL + 1),
        ("diag+shared", half + 1),
        ("lowrank:5", LARGEST_SOBOL - 4),
    ):
        with pytest.raises(InvalidSetting, match="antithetic"):
            check_sobol("sobol", covariance, width)


# ---------------------------------------------------------------------- how spread


def test_spread_is_numpys() -> None:
    features = source()
    for slot, label in enumerate(features.statistics.classes):
        rows = X[label == Y]
        np.testing.assert_allclose(features.mean[slot], rows.mean(0), rtol=1e-12)
        expected = rows.var(0, ddof=1) if len(rows) > 1 else np.zeros(D)
        np.testing.assert_allclose(features.variance[slot], expected, rtol=1e-12)
    np.testing.assert_allclose(source("shared").shared, within(), rtol=1e-10)


def test_a_pooled_spread_serves_classes_of_fewer_than_five_rows() -> None:
    features = source(min_std="pooled")
    pooled = within().diagonal()
    for label in range(4):
        slot = features.statistics.index.slot(label)
        mine = own(label).diagonal() if SIZES[label] > 1 else np.zeros(D)
        expected = np.maximum(mine, pooled) if SIZES[label] < 5 else mine
        np.testing.assert_allclose(features.variance[slot], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("covariance", "sampler"),
    list(itertools.product(COVARIANCES, ("iid", "antithetic", "sobol"))),
)
def test_many_draws_have_the_covariance(covariance: str, sampler: Any) -> None:
    n, features = 40_000, source(covariance, sampler=sampler, noise=0.5)
    for label in (0, 1):
        rows, expected = drawn(features, label, n), 0.25 * named(covariance, label)
        scale = np.sqrt(expected.diagonal())
        assert rows.shape == (n, D)
        gap = (np.cov(rows, rowvar=False) - expected) / np.outer(scale, scale)
        assert np.abs(gap).max() <= 0.03
        off = np.abs((rows.mean(0) - X[label == Y].mean(0)) / scale).max()
        assert off <= {"iid": 0.02, "antithetic": 1e-12, "sobol": 2e-3}[sampler]
        assert len(np.unique(rows, axis=0)) == n


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_expectation_is_what_many_draws_approach(covariance: str) -> None:
    features, needed = source(covariance, noise=0.7), np.array([0.0, 40.0, 7.5, 49.0])
    held = features.statistics
    start = held.reweight()
    system = features.expected(held.reweight(), needed)
    n, gram, sums = 100_000, start.gram.clone(), start.cross.clone()
    for slot in (1, 2, 3):
        rows = torch.cat(list(features.sample(held.classes[slot], n)))
        gram += rows.T @ rows * needed[slot] / n
        sums[:, slot] += rows.mean(0) * needed[slot]
    scale = float(gram.abs().max())
    np.testing.assert_allclose(system.gram.tril() / scale, gram.tril() / scale, atol=4e-3)
    np.testing.assert_allclose(system.cross, sums, atol=0.02 * float(sums.abs().max()))
    np.testing.assert_allclose(system.target_sum, held.mass + needed)
    np.testing.assert_allclose(system.row_sum, system.cross.sum(1), rtol=1e-10, atol=1e-9)
    assert system.mass == pytest.approx(start.mass + 96.5)
    assert system.energy == pytest.approx(start.energy + 96.5)
    assert torch.equal(held.reweight().gram, start.gram)
    exact = start.gram.tril().numpy()
    for slot, n_drawn in enumerate(needed):
        label, mean = int(held.classes[slot]), features.mean[slot].numpy()
        alone = covariance != "shared" and SIZES[label] == 1  # no spread of its own
        spread = within() * ("shared" in covariance) if alone else named(covariance, label)
        exact = exact + n_drawn * np.tril(np.outer(mean, mean) + 0.49 * spread)
    np.testing.assert_allclose(system.gram.tril(), exact, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("accumulate", ["float64", "float32"])
@pytest.mark.parametrize("buffered", [False, True])
def test_drawn_rows_enter_as_learnt_rows_would(buffered: bool, accumulate: Any) -> None:
    feature_map = RandomBuffer(D, 9, seed=1) if buffered else None
    options: dict[str, Any] = {"feature_map": feature_map, "accumulate": accumulate, "pooled": True}
    held = StreamStatistics(9 if buffered else D, **options).update(X, Y)
    features = PseudoFeatures(held, seed=3)
    needed, counts = np.array([0.0, 40.0, 7.5, 49.0]), np.array([0, 40, 3, 7])
    system = features.drawn(held.reweight(), needed, counts)
    learnt = held.copy()
    for slot in (1, 2, 3):
        label, n = held.classes[slot], int(counts[slot])
        rows = torch.cat(list(features.sample(label, n)))
        learnt.update(rows, [label] * n, sample_weight=[needed[slot] / n] * n)
    expected, close = learnt.reweight(), 1e-12 if accumulate == "float64" else 1e-6
    names = ("gram", "cross", "row_sum", "target_sum", "mass", "energy")
    for name in names:
        mine, theirs = getattr(system, name), getattr(expected, name)
        if name == "gram":
            mine, theirs = mine.tril(), theirs.tril()
        np.testing.assert_allclose(mine, theirs, rtol=close, atol=close * 1e3, err_msg=name)
    assert (system.rows, system.accumulate) == (expected.rows, accumulate)
    assert held.n_rows == len(Y)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_no_noise_repeats_the_mean(covariance: str) -> None:
    rows = drawn(source(covariance, noise=0.0), 0, 3)
    np.testing.assert_array_equal(rows, np.repeat(rows[:1], 3, 0))
    np.testing.assert_allclose(rows[0], X[Y == 0].mean(0), rtol=1e-12)


def test_alike_rows_have_no_spread() -> None:
    held = StreamStatistics(D, pooled=True).update(np.ones((6, D)), [0, 0, 0, 1, 1, 1])
    for covariance in ("diag", "shared", "diag+shared"):
        rows = drawn(PseudoFeatures(held, covariance=covariance), 1, 4)
        np.testing.assert_array_equal(rows, np.ones((4, D)))


# ---------------------------------------------------------------------- from what it follows


@pytest.mark.parametrize("sampler", ["iid", "antithetic", "sobol"])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_same_is_drawn_again(covariance: str, sampler: Any) -> None:
    one, two = (source(covariance, sampler=sampler, seed=4) for _ in range(2))
    drawn(two, 0, 3)  # what was drawn in between says nothing
    np.testing.assert_array_equal(drawn(one, 1, 6), drawn(two, 1, 6))


def test_what_else_is_drawn_follows_from_seed_label_count_and_number() -> None:
    def noise(features: PseudoFeatures, label: Any, n: int) -> Array:
        slot = features.statistics.index.slot(label)
        rows = (drawn(features, label, n) - features.mean[slot].numpy())[:4]
        scaled: Array = rows / features.variance[slot].sqrt().numpy()
        return scaled

    twice = statistics().merge(statistics())
    words = StreamStatistics(D, pooled=True).update(X, Y.astype(str))
    seen = [
        noise(source(), 0, 4),
        noise(source(), 1, 4),
        noise(source(), 0, 5),
        noise(source(seed=1), 0, 4),
        noise(source(sampler="antithetic"), 0, 4),
        noise(PseudoFeatures(twice), 0, 4),
        noise(PseudoFeatures(words), "0", 4),
    ]
    for one, two in itertools.combinations(seen, 2):
        assert np.abs(one - two).max() > 0.1


def test_labels_and_seeds_of_numpy_are_plain_ones() -> None:
    words = StreamStatistics(D, pooled=True).update(X, Y.astype(str))
    np.testing.assert_array_equal(drawn(source(), 1, 3), drawn(source(), np.int64(1), 3))
    np.testing.assert_array_equal(
        drawn(PseudoFeatures(words), "1", 3), drawn(PseudoFeatures(words), np.str_("1"), 3)
    )
    np.testing.assert_array_equal(drawn(source(seed=2), 1, 3), drawn(source(seed=np.int8(2)), 1, 3))


def test_the_order_of_weighted_rows_does_not_matter() -> None:
    weight = RNG.uniform(0.1, 2, len(Y))
    one = PseudoFeatures(statistics(weight=weight))
    for seed in range(4):
        order, other = np.random.default_rng(seed).permutation(len(Y)), statistics().like()
        for i in order:
            other.update(X[[i]], Y[[i]], sample_weight=weight[[i]])
        for label in range(4):
            np.testing.assert_allclose(
                drawn(one, label, 5), drawn(PseudoFeatures(other), label, 5), rtol=1e-9
            )


@pytest.mark.parametrize("sampler", ["iid", "antithetic", "sobol"])
def test_parts_are_no_larger_than_a_chunk(sampler: Any) -> None:
    sizes = [len(part) for part in source(sampler=sampler).sample(0, 2 * CHUNK + 3)]
    assert sizes == [CHUNK, CHUNK, 3]


def test_a_class_without_rows_has_nothing_to_draw_like() -> None:
    held = statistics().declare([9])
    for label in (9, 77, "0"):
        with pytest.raises(UnknownClass, match=str(label)):
            drawn(PseudoFeatures(held), label, 2)
