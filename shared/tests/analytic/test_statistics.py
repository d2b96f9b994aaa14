import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import (
    ClosedClass,
    IllConditioned,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidSetting,
    NotSeen,
    OverBudget,
    UnknownClass,
)

STORAGES = ["auto", "dense", "packed", "memmap", "factor"]
D, K = 8, 4


def data(n, d=D, k=K, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) + 0.3, random.integers(0, k, n), random.exponential(size=n)


def ridge(x, y, gamma, *, w=None, pi=None, classes=range(K)):
    """Weights (d, k) by numpy from the rows themselves."""
    targets = (y[:, None] == np.array(classes)).astype(float)
    w = np.ones(len(y)) if w is None else w
    w = w if pi is None else w * (targets @ pi)
    rows = x * w[:, None]
    return np.linalg.solve(rows.T @ x + gamma * np.eye(x.shape[1]), rows.T @ targets)


def error(weight, reference):
    weight, reference = np.asarray(weight), np.asarray(reference)
    return np.abs(weight - reference).max() / (np.abs(reference).max() + 1e-300)


def fed(x, y, w=None, batch=None, **settings):
    statistics = ClassStatistics(x.shape[1], **settings).declare(np.arange(K))
    batch = batch or max(len(x), 1)
    for i in range(0, len(x), batch):
        part = slice(i, i + batch)
        statistics.update(x[part], y[part], sample_weight=None if w is None else w[part])
    return statistics


def bits(statistics):
    """Everything that committed sums hold, bit by bit."""
    statistics.flush()
    pool, grams = statistics._pool, statistics.store.grams
    return (
        list(statistics.classes),
        statistics.counts.tolist(),
        statistics._mass.tobytes(),
        dict(statistics.frozen),
        (pool.mass, pool.energy, pool.row_sum.numpy().tobytes()),
        statistics._sums.numpy().tobytes(),
        [(slot, gram.storage, gram.tensor().numpy().tobytes()) for slot, gram in grams.items()],
    )


# ---------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("storage", STORAGES)
def test_the_joint_ridge_for_any_order_batch_and_chunk(storage):
    x, y, _ = data(3000, 200, 7)
    expected = {gamma: ridge(x, y, gamma, classes=range(7)) for gamma in (1e-3, 0.1, 10, 1000)}
    solutions = {gamma: [] for gamma in expected}
    cases = [(1, 1024, "shuffled"), (64, 1000, "ascending"), (3000, 300, "descending")]
    for batch, chunk_rows, order in cases if storage == "packed" else cases[1:]:
        at = np.random.default_rng(batch).permutation(3000)
        if order != "shuffled":
            at = np.argsort(y, kind="stable")[:: 1 if order == "ascending" else -1]
        statistics = ClassStatistics(200, storage=storage, chunk_rows=chunk_rows)
        statistics.declare(range(7))
        for i in range(0, 3000, batch):
            statistics.update(x[at[i : i + batch]], y[at[i : i + batch]])
        for gamma, reference in expected.items():
            weight = statistics.solve(gamma).weight
            assert error(weight, reference) < 1e-9
            solutions[gamma].append(weight)
    for weights in solutions.values():
        assert all(error(weight, weights[0]) < 1e-11 for weight in weights)


@settings(max_examples=30)
@given(
    st.integers(1, 60),
    st.sampled_from([1, 7, 64]),
    st.sampled_from([1, 5, 64]),
    st.sampled_from(STORAGES),
    st.sampled_from([1e-3, 0.1, 1000.0]),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
def test_the_joint_ridge_with_class_and_sample_weights(n, batch, chunk, storage, gamma, pooled):
    x, y, w = data(n, seed=n)
    w[::3] = 0
    pi = None if pooled else np.array([0.5, 0.0, 3.0, 1.0])
    storage = "packed" if pooled else storage
    statistics = fed(x, y, w, batch, storage=storage, chunk_rows=chunk, pooled=pooled)
    solution = statistics.solve(gamma, class_weight=pi)
    assert error(solution.weight, ridge(x, y, gamma, w=w, pi=pi)) < 1e-9


def test_storages_agree():
    x, y, w = data(2000, 40)
    pi = np.array([0.1, 1.0, 10.0, 0.0])
    systems = [fed(x, y, w, 50, storage=s).reweight(pi) for s in STORAGES]
    for system in systems[1:]:
        assert error(system.gram.tril(), systems[0].gram.tril()) < 1e-10
        assert error(system.solve(0.1).weight, systems[0].solve(0.1).weight) < 1e-10


def test_factor_memory_after_compression():
    x, _, _ = data(1000, 30)
    y = np.repeat([0, 1, 2, 3], [5, 35, 160, 800])
    statistics = fed(x, y, batch=64, storage="factor")
    statistics.flush()
    for gram in statistics.store.grams.values():
        gram.compress()
    bound = 1.1 * sum(min(n, 30) for n in (5, 35, 160, 800)) * 30 * 8
    assert statistics.store.nbytes <= bound
    assert error(statistics.solve(0.1).weight, ridge(x, y, 0.1)) < 1e-9


# ---------------------------------------------------------------------------- merge, remove


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 4), min_size=40, max_size=40),
    st.sampled_from(STORAGES),
    st.booleans(),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
def test_merging_any_partition_is_the_whole(clients, storage, pooled, weighted):
    x, y, w = data(40)
    w = w if weighted else None
    whole = fed(x, y, w, pooled=pooled, storage=storage)
    total = ClassStatistics(D, pooled=pooled, storage=storage)
    for client in range(5):
        own = np.array(clients) == client
        part = ClassStatistics(D, pooled=pooled, storage=storage)  # classes in their own order
        total.merge(part.update(x[own], y[own], sample_weight=None if w is None else w[own]))
    order = [total.classes.index(label) for label in range(K) if label in total.classes]
    seen = [label for label in range(K) if label in total.classes]
    assert total.counts[order].tolist() == whole.counts[seen].tolist()
    ours, theirs = total.reweight(), whole.reweight()
    assert error(ours.gram.tril(), theirs.gram.tril()) < 1e-12
    assert error(ours.cross[:, order], theirs.cross[:, seen]) < 1e-12
    assert error(ours.row_sum, theirs.row_sum) < 1e-12
    assert ours.mass == pytest.approx(theirs.mass, rel=1e-12)
    assert ours.energy == pytest.approx(theirs.energy, rel=1e-12)
    assert ours.rows == theirs.rows == 40
    assert error(total.solve(1.0).weight[:, order], whole.solve(1.0).weight[:, seen]) < 1e-12


def test_merging_leaves_the_other_alone_and_apart():
    x, y, w = data(40)
    for storage in STORAGES:
        one, other = fed(x[:20], y[:20], storage=storage), fed(x[20:], y[20:], storage=storage)
        before = bits(other)
        empty = ClassStatistics(D, storage=storage).merge(other).update(x, y, sample_weight=w)
        one.merge(other).update(x, y, sample_weight=w)
        one.flush()
        empty.flush()
        assert bits(other) == before


def test_merging_and_removing_itself():
    x, y, _ = data(40)
    statistics = fed(x, y)
    assert statistics.merge(statistics).counts.sum() == 80
    assert error(statistics.solve(0.1).weight, ridge(np.r_[x, x], np.r_[y, y], 0.1)) < 1e-11
    assert statistics.remove(statistics).classes == []
    assert statistics.n_rows == 0


@settings(max_examples=40)
@given(
    st.integers(0, 30),
    st.sampled_from(STORAGES),
    st.sampled_from([1e-3, 1.0]),
    st.booleans(),
    st.integers(0, 5),
)
@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
def test_removed_rows_are_as_if_never_seen(n, storage, gamma, pooled, seed):
    x, y, w = data(60, seed=seed)
    statistics = fed(x, y, w, 7, storage=storage, pooled=pooled)
    gone = ClassStatistics(D, storage=storage, pooled=pooled)
    gone.update(x[:n], y[:n], sample_weight=w[:n])
    before = bits(gone)
    statistics.remove(gone)
    assert bits(gone) == before
    never = fed(x[n:], y[n:], w[n:], storage=storage, pooled=pooled)
    kept = [c for c in range(K) if never.counts[c]]
    assert statistics.classes == kept
    assert statistics.counts.tolist() == never.counts[kept].tolist()
    assert np.allclose(statistics.mass, never.mass[kept], rtol=1e-9, atol=1e-12)
    weight = statistics.solve(gamma).weight
    assert error(weight, never.solve(gamma).weight[:, kept]) < 1e-8


def test_removing_everything_leaves_nothing():
    x, y, w = data(40)
    for pooled in (False, True):
        statistics = fed(x, y, w, pooled=pooled)
        statistics.remove(fed(x[::-1], y[::-1], w[::-1], pooled=pooled))
        assert statistics.classes == []
        assert not statistics.store.grams
        assert statistics._pool.mass == 0
        statistics.update(x, y.astype(str))  # even the kind of its labels is free again
        assert statistics.n_rows == 40


def test_features_that_cancel_can_be_removed():
    x, _, _ = data(2000)
    x, y = np.r_[x, -x], np.zeros(4000, dtype=int)
    order = np.random.default_rng(0).permutation(4000)
    assert fed(x, y).remove(ClassStatistics(D).update(x[order], y)).n_rows == 0


def test_masses_stay_non_negative():
    x, weights = data(4)[0], np.array([0.1, 0.2, 0.3, 0.0])
    assert weights[[2, 1, 0, 3]].cumsum()[-1] < weights.cumsum()[-1]  # only by rounding
    statistics = ClassStatistics(D, chunk_rows=1)
    statistics.update(x[[2, 1, 0, 3]], [0] * 4, sample_weight=weights[[2, 1, 0, 3]])
    gone = ClassStatistics(D, chunk_rows=1).update(x[:3], [0] * 3, sample_weight=weights[:3])
    statistics.remove(gone)
    assert statistics.counts.tolist() == [1]
    assert statistics.mass.tolist() == [0.0]


def refusals():
    x, y, _ = data(30)
    few = ClassStatistics(D).update(x[:10], [0] * 10)
    yield "remove", NotSeen, "11 rows of class 0 to remove, 10", few, fed(x[:11], y[:11] * 0)
    yield "remove", UnknownClass, "class 9", few, ClassStatistics(D).update(x[:1], [9])
    yield "remove", NotSeen, "not the ones", few, ClassStatistics(D).update(-x[:10], [0] * 10)
    yield "remove", NotSeen, "larger", few, ClassStatistics(D).update(9 * x[:2], [0, 0])
    heavy = ClassStatistics(D).update(0 * x[:1], [0], sample_weight=[11])
    yield "remove", NotSeen, "larger", few, heavy
    pooled = ClassStatistics(D, pooled=True).update(x[:10], y[:10])
    light = ClassStatistics(D, pooled=True).update(0 * x[:1], y[:1], sample_weight=[11])
    yield "remove", NotSeen, "larger", pooled, light
    for verb in ("merge", "remove"):
        yield verb, IncompatibleFeatures, "hold 8 .* others 5", few, ClassStatistics(5)
        yield verb, IncompatibleFeatures, "pooled", few, pooled
        there = ClassStatistics(D, space="sha-1").update(x[:1], [0])
        yield verb, IncompatibleFeatures, "unnamed…, there sha-1", few, there
        maps = [ClassStatistics(D, feature_map=RandomBuffer(3, D, seed=s)) for s in (0, 1)]
        yield verb, IncompatibleFeatures, "buffer settings and seed", *maps
        mapped = ClassStatistics(D, feature_map=RandomBuffer(D, D))
        yield verb, IncompatibleFeatures, "feature map here is none", few, mapped
        meta = ClassStatistics(D, storage="dense", device="meta")
        yield verb, IncompatibleFeatures, "live on cpu, the others on meta", few, meta
        folded = fed(x, y).fold({0: 1.0})
        yield verb, ClosedClass, "class 0", folded, ClassStatistics(D).update(x[:1], [0])
        yield verb, ClosedClass, "class 0", fed(x, y), fed(x[:9], y[:9]).fold({0: 1.0})
        yield verb, ClosedClass, "class 0", folded, fed(x[:9], y[:9]).fold({0: 2.0})
    tight = ClassStatistics(D, storage="dense", memory_budget=8 * D * D).update(x[:2], [0, 0])
    yield "merge", OverBudget, "1,024 bytes", tight, ClassStatistics(D).update(x[:2], [1, 1])


@pytest.mark.parametrize(
    ("verb", "kind", "message", "mine", "theirs"),
    [pytest.param(*case, id=f"{case[0]}-{case[2]}") for case in refusals()],
)
def test_a_refused_merge_or_removal_leaves_every_bit(verb, kind, message, mine, theirs):
    before = bits(mine)
    with pytest.raises(kind, match=message):
        getattr(mine, verb)(theirs)
    assert bits(mine) == before


def test_statistics_with_equal_maps_merge():
    x, y, _ = data(30, 3)
    one, other = (ClassStatistics(D, feature_map=RandomBuffer(3, D, seed=5)) for _ in range(2))
    merged = one.update(x[:9], y[:9]).merge(other.update(x[9:], y[9:]))
    whole = ClassStatistics(D, feature_map=RandomBuffer(3, D, seed=5)).update(x, y)
    assert error(merged.reweight().gram.tril(), whole.reweight().gram.tril()) < 1e-12


def test_a_dropped_class_is_gone():
    x, y, _ = data(60)
    statistics = fed(x, y).drop(1)
    assert statistics.classes == [0, 2, 3]
    own = y != 1
    assert error(statistics.solve(0.1).weight, ridge(x[own], y[own], 0.1, classes=[0, 2, 3])) < 1e-9
    statistics.update(x[~own], y[~own])
    assert statistics.classes == [0, 2, 3, 1]
    assert error(statistics.solve(0.1).weight, ridge(x, y, 0.1, classes=[0, 2, 3, 1])) < 1e-9
    for closed in (fed(x, y).fold({1: 1.0}), fed(x, y, pooled=True)):
        before = bits(closed)
        with pytest.raises(ClosedClass, match="class 1"):
            closed.drop(1)
        with pytest.raises(UnknownClass):
            closed.drop("x")
        assert bits(closed) == before


# ---------------------------------------------------------------------------- fold, reweight


@pytest.mark.parametrize("storage", STORAGES)
def test_folded_classes_with_a_common_scale_equal_open_ones(storage):
    x, y, w = data(200)
    ratio = np.array([0.5, 2.0, 1.0, 3.0])
    statistics = fed(x, y, w, storage=storage)
    statistics.fold({0: 0.5}).fold({1: 2.0, 2: 1.0})
    statistics.update(x[:50], np.full(50, 3), sample_weight=w[:50])
    x, y, w = np.r_[x, x[:50]], np.r_[y, np.full(50, 3)], np.r_[w, w[:50]]
    for scale, last in ((1.0, 3.0), (0.01, 5.0), (7.0, 0.0)):
        pi = np.r_[scale * ratio[:3], last]
        for intercept in (False, True):
            ours = statistics.solve(0.1, class_weight=pi, fit_intercept=intercept)
            opened = fed(x, y, w).solve(0.1, class_weight=pi, fit_intercept=intercept)
            assert error(ours.weight, opened.weight) < 1e-9
            assert error(ours.intercept, opened.intercept) < 1e-9 or not intercept
        assert error(ours.weight, ridge(x, y, 0.1, w=w, pi=pi)) < 1e-9 or intercept
    assert error(statistics.solve(0.1).weight, ridge(x, y, 0.1, w=w, pi=[0.5, 2, 1, 1])) < 1e-9
    before = bits(statistics)
    with pytest.raises(ClosedClass, match="one common factor"):
        statistics.solve(0.1, class_weight=[1, 1, 1, 1])
    assert bits(statistics) == before


def test_folding_frees_the_matrices():
    x, y, _ = data(400)
    statistics = fed(x, y).fold({0: 1.0, 1: 1.0, 2: 1.0})
    statistics.flush()
    assert statistics.store.nbytes == 2 * 4 * D * (D + 1)  # one for three, and the fourth


def test_folded_classes_merge_and_are_removed():
    x, y, w = data(100)
    parts = [fed(x[i::2], y[i::2], w[i::2]).fold({0: 0.5, 1: 2.0}) for i in (0, 1)]
    whole = fed(x, y, w)
    both = parts[0].copy().merge(parts[1])
    pi = np.array([1.0, 4.0, 1.0, 1.0])
    assert (
        error(both.solve(0.1, class_weight=pi).weight, whole.solve(0.1, class_weight=pi).weight)
        < 1e-9
    )
    both.remove(parts[1])
    assert error(both.solve(0.1).weight, parts[0].solve(0.1).weight) < 1e-8
    both.remove(parts[0])
    assert not both.store.grams
    assert both._pool.mass == 0


def test_what_cannot_be_folded():
    x, y, _ = data(40)
    statistics = fed(x, y).declare([9]).fold({0: 1.0})
    before = bits(statistics)
    cases = [
        ({1: 1.0, 0: 1.0}, ClosedClass, "class 0 was folded before"),
        ({1: 1.0, 9: 1.0}, NotSeen, "class 9 has no row"),
        ({1: 1.0, "z": 1.0}, UnknownClass, "'z'"),
        *(({1: w}, InvalidSetting, "class 1") for w in (0.0, -1.0, float("nan"), float("inf"))),
    ]
    for weights, kind, message in cases:
        with pytest.raises(kind, match=message):
            statistics.fold(weights)
        assert bits(statistics) == before
    with pytest.raises(InvalidSetting, match="pooled"):
        fed(x, y, pooled=True).fold({0: 1.0})


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 1, 1, -1], [1, 1, 1, np.nan], [[1, 1, 1, 1]]])
def test_impossible_class_weights(weights):
    statistics = fed(*data(40)[:2])
    with pytest.raises(InvalidSetting, match="4 finite numbers"):
        statistics.reweight(weights)


def test_pooled_classes_share_one_weight():
    x, y, w = data(60)
    pooled, opened = fed(x, y, w, pooled=True), fed(x, y, w)
    assert error(pooled.solve(0.1).weight, opened.solve(0.1).weight) < 1e-11
    ours = pooled.solve(0.1, class_weight=[3.0] * 4, fit_intercept=True)
    theirs = opened.solve(0.1, class_weight=[3.0] * 4, fit_intercept=True)
    assert error(ours.weight, theirs.weight) < 1e-10
    with pytest.raises(ClosedClass):
        pooled.solve(0.1, class_weight=[1, 1, 1, 2])


def test_scaling_all_weights_is_scaling_gamma():
    x, y, w = data(60)
    statistics = fed(x, y, w)
    scaled = statistics.solve(0.3, class_weight=[5.0] * 4)
    assert error(scaled.weight, statistics.solve(0.06).weight) < 1e-12


# ---------------------------------------------------------------------------- transport, augment


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("width", [3, D, 20])
def test_transport_is_the_statistics_of_the_moved_rows(storage, pooled, width):
    x, y, w = data(50)
    operator = np.random.default_rng(1).normal(size=(D, width))
    statistics = fed(x, y, w, storage=storage, pooled=pooled)
    before = bits(statistics)
    moved = statistics.transport(torch.from_numpy(operator))
    assert bits(statistics) == before
    direct = fed(x @ operator, y, w, pooled=pooled)
    ours, theirs = moved.reweight(), direct.reweight()
    assert (moved.n_features, moved.n_inputs) == (width, width)
    assert error(ours.gram.tril(), theirs.gram.tril()) < 1e-12
    assert error(ours.cross, theirs.cross) < 1e-12
    assert error(ours.row_sum, theirs.row_sum) < 1e-12
    assert (ours.mass, ours.energy, ours.rows) == (theirs.mass, theirs.energy, theirs.rows)
    moved.update(x @ operator, y)
    assert moved.n_rows == 100
    assert bits(statistics) == before


def test_transport_by_one_operator_a_class():
    x, y, w = data(50)
    random = np.random.default_rng(1)
    operators = {label: random.normal(size=(D, 5)) for label in range(K)}
    moved = fed(x, y, w).transport({c: torch.from_numpy(t) for c, t in operators.items()})
    rows = np.stack([row @ operators[label] for row, label in zip(x, y, strict=True)])
    assert error(moved.solve(0.1).weight, ridge(rows, y, 0.1, w=w)) < 1e-9
    folded = fed(x, y, w).fold({0: 2.0}).transport(torch.from_numpy(operators[0]))
    direct = fed(x @ operators[0], y, w).solve(0.1, class_weight=[2, 1, 1, 1])
    assert error(folded.solve(0.1).weight, direct.weight) < 1e-9


def test_operators_that_do_not_fit():
    statistics = fed(*data(50)[:2])
    eye = torch.eye(D)
    before = bits(statistics)
    cases = [
        (torch.eye(D + 1), IncompatibleFeatures, r"\(9, 9\)"),
        (torch.ones(D), IncompatibleFeatures, r"\(8,\)"),
        (torch.ones(D, 0), IncompatibleFeatures, r"\(8, 0\)"),
        (torch.full((D, D), torch.nan), IncompatibleFeatures, "NaN"),
        ({0: eye, 1: eye}, UnknownClass, "class 2"),
        ({0: eye, 1: eye, 2: eye, 3: eye[:, :2]}, IncompatibleFeatures, "one width"),
    ]
    for operator, kind, message in cases:
        with pytest.raises(kind, match=message):
            statistics.transport(operator)
        assert bits(statistics) == before
    with pytest.raises(ClosedClass, match="one operator"):
        statistics.fold({0: 1.0}).transport(dict.fromkeys(range(K), eye))


@pytest.mark.parametrize("storage", STORAGES)
def test_augmenting_leaves_the_original_bit_identical(storage):
    x, y, w = data(80)
    statistics = fed(x[:50], y[:50], w[:50], storage=storage)
    before = bits(statistics)
    more = statistics.augment(x[50:], y[50:], sample_weight=w[50:])
    assert error(more.solve(0.1).weight, ridge(x, y, 0.1, w=w)) < 1e-9
    assert bits(statistics) == before
    with pytest.raises(InvalidFeatures):
        statistics.augment(x[:, :3], y)
    assert bits(statistics) == before


@pytest.mark.parametrize("storage", ["dense", "packed", "factor"])
@pytest.mark.parametrize("pooled", [False, True])
def test_widening_is_the_expectation_of_noise_on_every_row(storage, pooled):
    x, y, w = data(50)
    root = np.random.default_rng(2).normal(size=(3, D))
    covariance = root.T @ root
    statistics = fed(x, y, w, storage=storage, pooled=pooled)
    before = bits(statistics)
    wide = statistics.widen(torch.from_numpy(covariance)).reweight()
    assert bits(statistics) == before
    # Each row and its mirror image about its mean: noise whose mean and covariance are exact.
    noise = np.concatenate([sign * np.sqrt(3) * row[None] for row in root for sign in (1, -1)])
    rows = (x[:, None] + noise).reshape(-1, D)
    direct = fed(rows, np.repeat(y, 6), np.repeat(w / 6, 6), pooled=pooled).reweight()
    assert error(wide.gram.tril(), direct.gram.tril()) < 1e-12
    assert error(wide.cross, direct.cross) < 1e-12
    assert error(wide.row_sum, direct.row_sum) < 1e-12
    assert wide.rows == 50


def test_widening_reaches_folded_classes():
    x, y, w = data(50)
    eye = torch.eye(D, dtype=torch.float64)
    first = fed(x, y, w).widen(eye).fold({0: 2.0, 1: 3.0}).reweight([2, 3, 1, 1])
    last = fed(x, y, w).fold({0: 2.0, 1: 3.0}).widen(eye).reweight([2, 3, 1, 1])
    assert error(first.gram.tril(), last.gram.tril()) < 1e-12


def test_covariances_that_do_not_fit():
    statistics = fed(*data(50)[:2])
    before = bits(statistics)
    for covariance in (torch.eye(D + 1), torch.full((D, D), torch.nan), torch.ones(D)):
        with pytest.raises(IncompatibleFeatures, match=r"\(8, 8\)"):
            statistics.widen(covariance)
    assert bits(statistics) == before


# ---------------------------------------------------------------------------- float32


def test_float32_accumulation_at_the_interpolation_peak():
    random = np.random.default_rng(0)
    n = 400
    x = np.maximum(random.normal(size=(n, 30)) @ random.normal(size=(30, n)), 0)
    y = random.integers(0, K, n)
    exact = fed(x, y)
    with pytest.warns(IllConditioned, match="interpolation"):
        expected = exact.solve(1e-3)
    coarse = fed(x.astype(np.float32), y, accumulate="float32", storage="packed")
    with pytest.warns(IllConditioned) as warned:
        solution = coarse.solve(1e-3)
    messages = " ".join(str(w.message) for w in warned)
    assert "condition number" in messages
    assert "float32 sums" in messages
    assert "double descent" in messages
    assert error(solution.weight, expected.weight) <= 1e-8 * solution.condition
    calm = coarse.solve(1e3), exact.solve(1e3)
    assert error(calm[0].weight, calm[1].weight) <= 1e-8 * calm[0].condition
