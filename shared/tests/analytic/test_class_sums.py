import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    OverBudget,
    UnknownClass,
)

D = 6
STORAGES = ["auto", "dense", "packed", "memmap", "factor"]


def data(n, d=D, k=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.integers(0, k, n), random.exponential(size=n)


def frozen_bits(statistics):
    """Everything a state holds, bit by bit."""
    waiting, pool = statistics._waiting, statistics._pool
    tensors = [statistics._sums, pool.row_sum]
    tensors += [gram.tensor() for gram in statistics.store.grams.values()]
    for batch in waiting._batches:
        tensors += [batch.rows, batch.slots] + ([] if batch.weight is None else [batch.weight])
    return (
        list(statistics.index.labels),
        statistics.index.kind,
        statistics.counts.tolist(),
        statistics._mass.tobytes(),
        dict(statistics.frozen),
        (pool.mass, pool.energy),
        [(slot, gram.storage) for slot, gram in statistics.store.grams.items()],
        [(tuple(t.shape), t.numpy().tobytes()) for t in tensors],
    )


class Doubled:
    """A feature map that fails, or is interrupted, when it is told to."""

    in_features = out_features = D
    fingerprint = "doubled"

    def __init__(self):
        self.fail_at, self.error, self.seen = None, MemoryError("no memory"), []

    def __call__(self, rows):
        if self.fail_at == len(self.seen):
            self.fail_at = None
            raise self.error
        self.seen.append(len(rows))
        return 2 * rows.double()


def check_sums(statistics, x, y, w, rtol=1e-12):
    for label in np.unique(y):
        own = y == label
        assert statistics.mass[statistics.classes.index(label)] == pytest.approx(w[own].sum())
        gram = (x[own] * w[own, None]).T @ x[own]
        scale = np.abs(gram).max()
        assert np.allclose(statistics.gram(label), gram, rtol=rtol, atol=rtol * scale)
        total = statistics.sums[statistics.classes.index(label)]
        bound = rtol * np.sqrt(w[own].sum() * scale)
        assert np.allclose(total, (w[own, None] * x[own]).sum(0), rtol=rtol, atol=bound)


@settings(max_examples=40)
@given(
    st.integers(1, 40),
    st.sampled_from([1, 2, 7, 64]),
    st.sampled_from([1, 3, 64]),
    st.sampled_from(STORAGES),
    st.sampled_from(["none", "all", "zero", "every other batch"]),
    st.integers(0, 9),
)
def test_sums_do_not_depend_on_how_rows_come(n, batch, chunk_rows, storage, weights, seed):
    x, y, w = data(n, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    x, y, w = x[order], y[order], w[order]
    w[{"none": slice(None), "every other batch": slice(0)}.get(weights, slice(0))] = 1
    w[: n // 2] *= weights != "zero"
    statistics = ClassStatistics(D, storage=storage, chunk_rows=chunk_rows)
    for number, i in enumerate(range(0, n, batch)):
        part = slice(i, i + batch)
        plain = weights == "none" or (weights == "every other batch" and number % 2)
        if plain:
            w[part] = 1
        statistics.update(x[part], y[part], sample_weight=None if plain else w[part])
    assert dict(zip(statistics.classes, statistics.counts, strict=True)) == dict(
        zip(*np.unique(y, return_counts=True), strict=True)
    )
    assert statistics.n_rows == n
    check_sums(statistics, x, y, w)


def rejected_calls():
    x, y, _ = data(4)
    bad = {"nan": np.nan, "infinity": np.inf, "overflow": 1e200}
    for name, value in bad.items():
        rows = x.copy()
        rows[2, 1] = value
        word = {"nan": "NaN in row 2", "infinity": "infinity in row 2", "overflow": "row 2"}[name]
        yield name, (rows, y, None), InvalidFeatures, word
        yield (
            name + " float32",
            (
                rows.clip(-3e38, 3e38).astype("f4") if name == "overflow" else rows.astype("f4"),
                y,
                None,
            ),
            InvalidFeatures,
            "row 2",
        )
    yield "width", (x[:, :4], y, None), InvalidFeatures, r"\(4, 4\).*\(n, 6\)"
    yield "one dimension", (x[0], y, None), InvalidFeatures, r"\(6,\)"
    yield "fewer labels", (x, y[:3], None), InvalidFeatures, "4 rows of features, 3 labels"
    yield "string features", (x.astype(str), y, None), InvalidFeatures, "no numbers"
    yield "fractions", (x, [0, 1, 1.5, 2], None), InvalidLabels, "1.5 in row 2"
    yield "other kind", (x, ["a", "b", "a", "b"], None), InvalidLabels, "of kind"
    yield "booleans", (x, [True, False, True, False], None), InvalidLabels, "of kind"
    yield "mixed labels", (x, [0, "a", 1, 2], None), InvalidLabels, "row 1|row 0"
    yield "too large", (x, np.full(4, 2**63, dtype="u8"), None), InvalidLabels, "64 bits"
    yield "new label, bad weight", (x, [7, 8, 9, 9], [1, 1, -1, 1]), InvalidSetting, "row 2"
    yield "nan weight", (x, y, [1, 1, 1, np.nan]), InvalidSetting, "row 3"
    yield "weight shape", (x, y, [1, 1]), InvalidSetting, r"\(2,\)"
    yield "folded", (x, [5, 5, 5, 4], None), ClosedClass, "class 4 was folded"


REJECTED = {name: rest for name, *rest in rejected_calls() if name != "overflow float32"}


@pytest.mark.parametrize("name", REJECTED)
@pytest.mark.parametrize("storage", ["auto", "factor"])
def test_a_rejected_batch_leaves_every_bit(name, storage):
    (rows, labels, weight), error, message = REJECTED[name]
    x, y, w = data(30)
    statistics = ClassStatistics(D, storage=storage, chunk_rows=8)
    statistics.update(x, y, sample_weight=w).update(x[:2], [4, 4]).fold({4: 2.0})
    statistics.update(x[:3], y[:3])  # these wait
    before = frozen_bits(statistics)
    assert statistics._waiting.rows == 3
    with pytest.raises(error, match=message):
        statistics.update(rows, labels, sample_weight=weight)
    assert frozen_bits(statistics) == before
    check_sums(statistics, np.r_[x, x[:3]], np.r_[y, y[:3]], np.r_[w, np.ones(3)])


def test_no_rows_change_nothing():
    x, y, _ = data(5)
    for statistics in (ClassStatistics(D), ClassStatistics(D, pooled=True)):
        for labels in ([], np.empty(0), np.empty(0, dtype=str)):
            before = frozen_bits(statistics)
            statistics.update(np.empty((0, D)), labels, sample_weight=[])
            assert frozen_bits(statistics) == before
        statistics.update(x, y).update(np.empty((0, D), dtype="f2"), [])
        assert statistics.n_rows == 5


def test_a_wild_id_costs_one_slot():
    statistics = ClassStatistics(D).update(np.ones((2, D)), [3_000_000, -1])
    assert statistics.classes == [3_000_000, -1]
    statistics.flush()
    assert statistics.nbytes == 2 * D * 8 + 2 * D * 8  # two class sums and two rows


@pytest.mark.parametrize("n", [1, 5, 8, 20])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_rows_belong_to_the_caller_again_after_update(n, kind):
    x, y, w = data(n)
    rows = x.copy() if kind == "numpy" else torch.from_numpy(x.copy())
    labels, weight = y.copy(), w.copy()
    statistics = ClassStatistics(D, chunk_rows=8).update(x[:1], y[:1])
    statistics.update(rows, labels, sample_weight=weight)
    rows[:], labels[:], weight[:] = 9, 0, 9
    check_sums(statistics, np.r_[x[:1], x], np.r_[y[:1], y], np.r_[1, w])


@pytest.mark.parametrize("pooled", [False, True])
def test_a_failing_feature_map_leaves_the_rows_waiting(pooled):
    x, y, w = data(20)
    feature_map = Doubled()
    statistics = ClassStatistics(D, feature_map=feature_map, chunk_rows=4, pooled=pooled)
    statistics.update(x[:3], y[:3], sample_weight=w[:3])
    feature_map.fail_at = 2
    rows = x[3:].copy()
    with pytest.raises(MemoryError, match="no memory"):
        statistics.update(rows, y[3:], sample_weight=w[3:])
    rows[:] = np.nan  # what waits is not the caller's array
    assert statistics.n_rows == 20
    assert statistics._waiting.rows == 12
    whole = ClassStatistics(D, pooled=pooled).update(2 * x, y, sample_weight=w)
    ours, theirs = statistics.solve(0.1), whole.solve(0.1)
    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-12)
    assert feature_map.seen == [4] * 5


class Interrupted(Doubled):
    """A feature map during whose second chunk somebody presses Ctrl-C."""

    def __call__(self, rows):
        if len(self.seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(rows)


def test_ctrl_c_during_a_long_batch_stops_it_and_loses_nothing():
    x, y, w = data(20)
    feature_map = Interrupted()
    statistics = ClassStatistics(D, feature_map=feature_map, chunk_rows=4)
    rows = x.copy()
    with pytest.raises(KeyboardInterrupt):
        statistics.update(rows, y, sample_weight=w)
    rows[:] = np.nan
    assert feature_map.seen == [4, 4]
    assert statistics.n_rows == 20
    statistics.update(x[:1], y[:1])
    check_sums(statistics, 2 * np.r_[x, x[:1]], np.r_[y, y[:1]], np.r_[w, 1])


INTERRUPTED = """
    import os, signal, threading, time
    import numpy as np
    from lipogram.analytic.statistics import ClassStatistics

    statistics = ClassStatistics(3, chunk_rows=5, storage="packed")
    batch, labels = np.ones((7, 3)), np.array([0, 0, 0, 0, 1, 1, 1])
    armed = threading.Event()
    def bother():
        for number in range(100):
            armed.wait()
            armed.clear()
            time.sleep(0.001 + number * 3e-5)
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=bother, daemon=True).start()
    done = interrupted = 0
    while interrupted < 100:
        try:
            armed.set()
            while True:
                statistics.update(batch, labels)
                done += 1
        except KeyboardInterrupt:
            interrupted += 1
    n = statistics.n_rows // 7
    assert statistics.counts.tolist() == [4 * n, 3 * n], statistics.counts
    assert done <= n <= done + interrupted, (done, n, interrupted)
    statistics.flush()
    assert statistics.mass.tolist() == [4.0 * n, 3.0 * n]
    assert (statistics.sums.numpy() == np.array([[4.0 * n], [3.0 * n]])).all()
    assert (statistics.gram(0).numpy() == 4 * n).all()
    assert (statistics.gram(1).numpy() == 3 * n).all()
    print("whole", done, interrupted)
"""


def test_real_interrupts_leave_whole_batches():
    program = textwrap.dedent(INTERRUPTED)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("whole")


def test_chunks_follow_the_setting_whatever_the_batches():
    feature_map = Doubled()
    statistics = ClassStatistics(D, feature_map=feature_map, chunk_rows=8)
    for n in (3, 3, 21, 1):
        statistics.update(*data(n)[:2])
    statistics.flush()
    assert feature_map.seen == [8, 8, 8, 3, 1]


def test_a_feature_map_comes_between_rows_and_sums():
    x, y, w = data(30)
    buffer = RandomBuffer(D, 11, seed=3)
    statistics = ClassStatistics(11, feature_map=buffer, chunk_rows=4)
    assert statistics.n_inputs == D
    statistics.update(x.astype("f4"), y, sample_weight=w)
    mapped = np.maximum(x.astype("f4").astype("f8") @ buffer.weight.numpy(), 0)
    check_sums(statistics, mapped, y, w)


@pytest.mark.parametrize("chunk_rows", [4, 64])
def test_soft_targets(chunk_rows):
    x, _, w = data(30)
    targets = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    multi_hot = (targets > 0.3).astype(int)
    statistics = ClassStatistics(D, pooled=True, chunk_rows=chunk_rows)
    statistics.update_targets(x, targets, ["a", "b", "c"], sample_weight=w)
    statistics.update_targets(torch.from_numpy(x), multi_hot, ["c", "d", "a"])
    y = np.zeros((60, 4))
    y[:30, :3], y[30:, [2, 3, 0]] = targets, multi_hot
    x, w = np.r_[x, x], np.r_[w, np.ones(30)]
    assert statistics.classes == ["a", "b", "c", "d"]
    assert statistics.counts.tolist() == (y != 0).sum(0).tolist()
    system = statistics.reweight()
    weight = np.linalg.solve((x * w[:, None]).T @ x + 0.3 * np.eye(D), (x * w[:, None]).T @ y)
    solution = system.solve(0.3)
    assert np.allclose(solution.weight, weight, rtol=1e-10)
    assert system.loss(solution) == pytest.approx((w[:, None] * (y - x @ weight) ** 2).sum())
    assert system.mass == pytest.approx(w.sum())


def test_soft_targets_enter_wholly_or_not_at_all():
    x, _, _ = data(20)
    feature_map = Doubled()
    statistics = ClassStatistics(D, pooled=True, feature_map=feature_map, chunk_rows=4)
    statistics.update_targets(x[:3], np.ones((3, 2)), [0, 1])
    before = frozen_bits(statistics)
    feature_map.fail_at = 3
    calls = [
        (x, np.ones((20, 2)), [0, 2], None, MemoryError),
        (x, np.ones((20, 3)), [0, 2], None, InvalidFeatures),
        (x, np.ones((19, 2)), [0, 2], None, InvalidFeatures),
        (x, np.full((20, 2), np.nan), [0, 2], None, InvalidFeatures),
        (x, np.ones((20, 2)), ["a", "b"], None, InvalidLabels),
        (x, np.ones((20, 2)), [0, 2], -np.ones(20), InvalidSetting),
        (np.full((20, D), np.inf), np.ones((20, 2)), [0, 2], None, InvalidFeatures),
    ]
    for rows, targets, classes, weight, error in calls:
        with pytest.raises(error):
            statistics.update_targets(rows, targets, classes, sample_weight=weight)
        assert frozen_bits(statistics) == before
    with pytest.raises(InvalidSetting, match="pooled=True"):
        ClassStatistics(D).update_targets(x, np.ones((20, 2)), [0, 1])


@pytest.mark.parametrize(
    ("storage", "bytes_needed"),
    [("dense", 3 * 8 * D * D), ("packed", 3 * 4 * D * (D + 1)), ("factor", 8 * D * 20)],
)
def test_over_budget_is_said_before_anything_is_allocated(storage, bytes_needed):
    x, _, _ = data(20)
    y = np.arange(20) % 3
    roomy = ClassStatistics(D, storage=storage, memory_budget=bytes_needed).update(x, y)
    assert roomy.store.nbytes <= bytes_needed
    tight = ClassStatistics(D, storage=storage, memory_budget=bytes_needed - 1)
    tight.update(x[:3], y[:1].repeat(3))
    before = frozen_bits(tight)
    with pytest.raises(OverBudget, match=f"take {bytes_needed:,} bytes.*{bytes_needed - 1:,}"):
        tight.update(x[3:], np.r_[y[:3][1:], y[5:]])
    assert frozen_bits(tight) == before
    with pytest.raises(MemoryError):
        tight.update(x, y)


def test_the_budget_of_pooled_and_folded_sums():
    x, y, _ = data(40)
    packed = 4 * D * (D + 1)
    pooled = ClassStatistics(D, pooled=True, memory_budget=packed).update(x, y)
    pooled.flush()
    assert pooled.store.nbytes == packed
    folded = ClassStatistics(D, memory_budget=3 * packed).update(x, y)
    folded.fold({0: 1.0, 1: 1.0}).update(x, np.full(40, 3))
    with pytest.raises(OverBudget):
        folded.update(x, np.full(40, 4))
    assert folded.store.nbytes <= 3 * packed


def test_float32_products_stay_near():
    x, y, w = data(3000)
    for storage in STORAGES:
        statistics = ClassStatistics(D, accumulate="float32", storage=storage)
        statistics.update(x, y, sample_weight=w)
        system = statistics.reweight()
        exact = (x * w[:, None]).T @ x
        error = np.abs(np.tril(system.gram.numpy() - exact)).max() / np.abs(exact).max()
        assert 0 < error < 1e-6
        assert system.accumulate == "float32"
        check_sums_only = statistics.sums.sum(0).numpy()
        assert np.allclose(check_sums_only, (w[:, None] * x).sum(0), rtol=1e-10)


def test_declared_classes_have_slots_and_no_rows():
    statistics = ClassStatistics(D).declare([5, 3]).declare([3, 4])
    assert statistics.classes == [5, 3, 4]
    assert statistics.counts.tolist() == [0, 0, 0]
    assert torch.equal(statistics.gram(3), torch.zeros(D, D, dtype=torch.float64))
    statistics.update(np.ones((1, D)), [3])
    assert statistics.counts.tolist() == [0, 1, 0]


def test_like_and_copy():
    x, y, w = data(20)
    statistics = ClassStatistics(D, storage="packed", space="here", chunk_rows=4)
    statistics.update(x, y, sample_weight=w)
    empty, twin = statistics.like(), statistics.copy()
    assert (empty.n_rows, empty.classes, empty.space, empty.chunk_rows) == (0, [], "here", 4)
    before = frozen_bits(statistics)
    assert frozen_bits(twin) == before
    twin.update(x, y + 1).fold({0: 1.0})
    empty.update(x, y)
    assert frozen_bits(statistics) == before


def test_a_pooled_or_folded_class_has_no_matrix():
    x, y, _ = data(20)
    folded = ClassStatistics(D).update(x, y).fold({1: 1.0})
    pooled = ClassStatistics(D, pooled=True).update(x, y)
    for statistics in (folded, pooled):
        with pytest.raises(ClosedClass, match="class 1"):
            statistics.gram(1)
        with pytest.raises(UnknownClass, match="class 9"):
            statistics.gram(9)
    folded.gram(0)


def test_impossible_settings_are_named():
    with pytest.raises(InvalidSetting, match="n_features is 0"):
        ClassStatistics(0)
    with pytest.raises(InvalidSetting, match="chunk_rows is 0"):
        ClassStatistics(D, chunk_rows=0)
    with pytest.raises(IncompatibleFeatures, match="gives 11 features, not 6"):
        ClassStatistics(D, feature_map=RandomBuffer(D, 11))
