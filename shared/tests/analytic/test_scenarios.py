import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.analytic.scenarios import (
    class_incremental,
    exposed,
    long_tailed,
    long_tailed_counts,
    si_blurry,
)
from lipogram.errors import InvalidLabels, InvalidSetting

names = st.sampled_from(["ant", "bee", "cow", "dog", "emu", "fox", "gnu", "hen"])
label_arrays = st.one_of(
    st.lists(st.integers(-3, 9), min_size=1, max_size=120),
    st.lists(names, min_size=1, max_size=120),
).map(np.array)
seeds = st.integers(0, 2**32)


def arrangement(tasks):
    return [(task.name, task.train.tolist(), task.classes, task.seen) for task in tasks]


def check_bookkeeping(tasks, labels):
    """`classes` and `seen` say exactly what the samples say."""
    seen = []
    for task in tasks:
        present = set(labels[task.train].tolist())
        assert set(task.classes) == present - set(seen)
        assert task.seen == (*seen, *task.classes)
        assert task.train.dtype == np.int64
        seen = list(task.seen)


@given(label_arrays, seeds, st.integers(1, 5), st.data())
def test_class_incremental_gives_each_sample_and_each_class_to_one_task(
    labels, seed, increment, data
):
    n_classes = len(set(labels.tolist()))
    base = data.draw(st.integers(0, n_classes))
    order = data.draw(st.sampled_from([None, "ascending", "descending", "shuffled"]))
    tasks = class_incremental(labels, increment=increment, base=base, order=order, seed=seed)
    assert sorted(np.concatenate([t.train for t in tasks]).tolist()) == list(range(len(labels)))
    present = [set(labels[task.train].tolist()) for task in tasks]
    assert sum(map(len, present)) == n_classes
    sizes = [len(task.classes) for task in tasks]
    later = sizes[1:] if base else sizes
    assert not base or sizes[0] == base
    assert all(size == increment for size in later[:-1])
    assert not later or 1 <= later[-1] <= increment
    check_bookkeeping(tasks, labels)
    again = class_incremental(labels, increment=increment, base=base, order=order, seed=seed)
    assert arrangement(again) == arrangement(tasks)


def test_class_incremental_orders_classes_as_asked():
    labels = np.repeat(["a", "b", "c", "d"], [5, 1, 9, 5])

    def order(**settings):
        tasks = class_incremental(labels, increment=3, **settings)
        return tasks[-1].seen

    assert order() == ("a", "b", "c", "d")
    assert order(order="ascending") == ("b", "a", "d", "c")
    assert order(order="descending") == ("c", "a", "d", "b")
    assert order(order=["d", "c", "b", "a"]) == ("d", "c", "b", "a")
    assert len({order(order="shuffled", seed=seed) for seed in range(20)}) > 5


def test_class_incremental_base_fifty_and_a_remainder():
    labels = np.arange(100).repeat(2)
    sizes = [len(t.classes) for t in class_incremental(labels, base=50, increment=15)]
    assert sizes == [50, 15, 15, 15, 5]
    tasks = class_incremental(labels, base=50, increment=15, drop_remainder=True)
    assert [len(t.classes) for t in tasks] == [50, 15, 15, 15]
    assert [len(t.classes) for t in class_incremental(labels, base=100, increment=7)] == [100]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"increment": 0}, "increment.*0"),
        ({"increment": 2, "base": 5}, "3 classes.*5"),
        ({"increment": 2, "base": -1}, "-1"),
        ({"increment": 5, "drop_remainder": True}, "3 classes.*5"),
        ({"increment": 1, "order": "sorted"}, "'sorted'"),
        ({"increment": 1, "order": [0, 1]}, "missing or unknown: 2"),
        ({"increment": 1, "order": [0, 1, 7]}, "missing or unknown: 2, 7"),
        ({"increment": 1, "order": [0, 1, 2, 2]}, "repeated"),
    ],
)
def test_class_incremental_refuses_bad_settings(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        class_incremental([0, 1, 2, 2], **settings)


@pytest.mark.parametrize("labels", [[], [1.5, 2.0], [[1, 2], [3, 4]], [None, 1]])
def test_every_stream_refuses_what_is_no_label(labels):
    with pytest.raises(InvalidLabels):
        class_incremental(labels, increment=1)
    with pytest.raises(InvalidLabels):
        long_tailed(labels, rho=2)
    with pytest.raises(InvalidLabels):
        si_blurry(labels)


def test_long_tailed_counts_of_the_field():
    counts = long_tailed_counts(100, 500, 100)
    assert counts[:3].tolist() == [500, 477, 455]
    assert counts[-1] == 5
    assert counts.sum() == 10847
    assert long_tailed_counts(5, 100, 10, "step").tolist() == [100, 100, 100, 10, 10]
    # 32^(1/5) is a little more than 2 in floating point; whole numbers stay whole.
    assert long_tailed_counts(6, 32, 32).tolist() == [32, 16, 8, 4, 2, 1]
    assert long_tailed_counts(1, 9, 100).tolist() == [9]
    assert long_tailed_counts(4, 3, 1000).min() == 1


@given(st.integers(2, 60), st.integers(1, 2000), st.integers(1, 500))
def test_long_tailed_counts_are_the_floor_of_the_formula(n_classes, n_max, rho):
    counts = long_tailed_counts(n_classes, n_max, rho).tolist()
    for i, count in enumerate(counts):
        # n <= n_max rho^(-i/(K-1)) < n+1, in whole numbers
        def reaches(n, i=i):
            return n ** (n_classes - 1) * rho**i <= n_max ** (n_classes - 1)

        assert count == 1 or reaches(count)
        assert not reaches(count + 1)


@given(label_arrays, seeds, st.floats(1, 200), st.sampled_from(["exp", "step"]))
def test_long_tailed_keeps_the_counts_and_no_sample_twice(labels, seed, rho, profile):
    kept = long_tailed(labels, rho=rho, profile=profile, order="descending", seed=seed)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(kept) > 0).all()
    sizes = sorted(np.unique(labels[kept], return_counts=True)[1].tolist(), reverse=True)
    assert len(sizes) == len(set(labels.tolist()))
    assert sizes == long_tailed_counts(len(sizes), sizes[0], rho, profile).tolist()
    again = long_tailed(labels, rho=rho, profile=profile, order="descending", seed=seed)
    assert again.tolist() == kept.tolist()


def test_long_tailed_keeps_as_many_as_every_class_can_follow():
    labels = np.repeat([0, 1, 2], [100, 20, 90])
    kept = long_tailed(labels, rho=4)
    largest = len(kept[labels[kept] == 0])
    assert np.bincount(labels[kept]).tolist() == long_tailed_counts(3, largest, 4).tolist()
    assert (long_tailed_counts(3, largest + 1, 4) > [100, 20, 90]).any()
    assert np.bincount(labels[long_tailed(labels, rho=4, n_max=24)]).tolist() == [24, 12, 6]
    with pytest.raises(InvalidSetting, match=r"n_max=100 asks for 50 samples of class 1.* 20"):
        long_tailed(labels, rho=4, n_max=100)


def test_long_tailed_composes_with_a_stream():
    labels = np.repeat(["x", "y", "z"], 40)
    kept = long_tailed(labels, rho=10, order=["z", "x", "y"])
    stream = class_incremental(labels[kept], increment=1, order="ascending")
    tasks = [task.within(kept) for task in stream]
    assert tasks[-1].seen == ("y", "x", "z")
    assert [set(labels[task.train]) for task in tasks] == [{"y"}, {"x"}, {"z"}]
    assert [len(task.train) for task in tasks] == [4, 12, 40]


@pytest.mark.parametrize("rho", [0.5, 0, -1, math.nan, math.inf])
def test_long_tailed_refuses_a_bad_imbalance(rho):
    with pytest.raises(InvalidSetting, match="rho"):
        long_tailed_counts(10, 100, rho)


def test_long_tailed_refuses_bad_sizes_and_profiles():
    with pytest.raises(InvalidSetting, match="n_classes and n_max"):
        long_tailed_counts(0, 100, 2)
    with pytest.raises(InvalidSetting, match="'linear'"):
        long_tailed_counts(3, 100, 2, "linear")


shares = st.sampled_from([0, 0.1, 0.29, 0.5, 1])


@given(label_arrays, seeds, st.integers(1, 6), shares, shares, st.booleans())
def test_si_blurry_deals_every_sample_exactly_once(
    labels, seed, n_tasks, disjoint, blurry, stochastic
):
    settings = {"tasks": n_tasks, "disjoint": disjoint, "blurry": blurry, "stochastic": stochastic}
    tasks = si_blurry(labels, seed=seed, **settings)
    assert len(tasks) == n_tasks
    assert sorted(np.concatenate([t.train for t in tasks]).tolist()) == list(range(len(labels)))
    check_bookkeeping(tasks, labels)
    homes = {
        label: {number for number, t in enumerate(tasks) if label in labels[t.train].tolist()}
        for label in labels.tolist()
    }
    in_one_task = sum(len(where) == 1 for where in homes.values())
    assert in_one_task >= math.floor(len(homes) * disjoint + 1e-9)
    assert arrangement(si_blurry(labels, seed=seed, **settings)) == arrangement(tasks)


@given(label_arrays, seeds, st.booleans(), st.booleans())
def test_si_blurry_without_blur_gives_every_class_to_one_task(labels, seed, stochastic, parity):
    tasks = si_blurry(labels, tasks=3, blurry=0, seed=seed, stochastic=stochastic, parity=parity)
    present = [set(labels[task.train].tolist()) for task in tasks]
    assert sum(map(len, present)) == len(set().union(*present))


@pytest.mark.parametrize("stochastic", [True, False])
def test_si_blurry_blurs_the_share_asked_for(stochastic):
    labels = np.arange(20).repeat(200)
    settings = {"tasks": 4, "disjoint": 0.5, "seed": 3, "stochastic": stochastic}
    still = si_blurry(labels, blurry=0, **settings)
    moved = si_blurry(labels, blurry=0.3, **settings)
    home = {c: number for number, t in enumerate(still) for c in labels[t.train].tolist()}
    away = np.zeros(20, dtype=int)
    for number, task in enumerate(moved):
        for label in labels[task.train].tolist():
            away[label] += home[label] != number
    assert (away > 0).sum() == 10
    # The pool is dealt over all tasks, so part of it comes home again.
    assert 0.3 * 2000 / 3 < away.sum() < 0.3 * 2000


def test_si_blurry_takes_whole_percentages_whole():
    labels = np.arange(100).repeat(10)
    # 0.29 * 100 is 28.999…96
    tasks = si_blurry(labels, tasks=10, disjoint=0.29, blurry=1, stochastic=False)
    met = np.concatenate([np.unique(labels[task.train]) for task in tasks])
    assert (np.bincount(met) == 1).sum() == 29


def test_si_blurry_draws_sizes_only_if_stochastic():
    labels = np.arange(40).repeat(10)
    equal = si_blurry(labels, tasks=4, stochastic=False)
    assert [len(task.train) for task in equal] == [100] * 4
    drawn = {tuple(len(t.train) for t in si_blurry(labels, tasks=4, seed=s)) for s in range(10)}
    assert len(drawn) == 10


def test_si_blurry_pools_random_samples_unless_parity():
    labels = np.arange(10).repeat(100)
    settings = {"tasks": 2, "disjoint": 0, "blurry": 0.2, "stochastic": False}
    blurred = [
        {int(i) for t in si_blurry(labels, parity=parity, **settings) for i in t.train}
        for parity in (False, True)
    ]
    assert blurred[0] == blurred[1] == set(range(1000))
    spread = [
        sum(len(set(labels[t.train].tolist())) for t in si_blurry(labels, parity=p, **settings))
        for p in (False, True)
    ]
    assert spread == [20, 12]  # every class leaks; in parity the first class of each task alone


def test_si_blurry_parity_loses_what_the_published_generator_loses():
    labels = np.arange(13).repeat(10)
    tasks = si_blurry(labels, tasks=5, parity=True)  # 13 classes: 5 disjoint, 5 blurry, 3 unused
    kept = np.concatenate([task.train for task in tasks])
    assert len(kept) == len(set(kept.tolist())) == 100
    assert len(tasks[-1].seen) == 10
    fixed = si_blurry(labels, tasks=5, blurry=0.33, parity=True, stochastic=False)
    assert sum(len(task.train) for task in fixed) == 100  # 5 tasks pool 3 each, 15 dealt
    uneven = si_blurry(
        np.arange(4).repeat(7), tasks=4, disjoint=0, blurry=0.5, parity=True, stochastic=False
    )
    assert sum(len(task.train) for task in uneven) == 28
    odd = si_blurry(
        np.repeat(np.arange(2), [4, 6]),
        tasks=2,
        disjoint=0,
        blurry=0.5,
        parity=True,
        stochastic=False,
    )
    assert sum(len(task.train) for task in odd) == 9  # 2 + 3 pooled, 4 dealt, 1 lost


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "tasks.*0"),
        ({"disjoint": 1.1}, "disjoint.*1.1"),
        ({"blurry": -0.1}, "blurry.*-0.1"),
        ({"blurry": math.nan}, "blurry.*nan"),
    ],
)
def test_si_blurry_refuses_bad_settings(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        si_blurry([0, 1], **settings)


PINNED_CLASS_INCREMENTAL = [[0, 8, 1, 10, 11, 5, 4, 9], [2, 7, 6, 3]]
PINNED_SI_BLURRY = [[10, 2, 9, 8, 3, 5, 4, 11], [1, 7, 0, 6]]
PINNED_LONG_TAILED = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 17, 24]


def test_a_split_is_the_same_on_every_machine():
    """Pinned, so that a change of generator or of its use shows up."""
    labels = np.arange(6).repeat(2)
    shuffled = class_incremental(labels, increment=4, order="shuffled", seed=7)
    assert PINNED_CLASS_INCREMENTAL == [task.train.tolist() for task in shuffled]
    blurry = si_blurry(labels, tasks=2, blurry=0.5, seed=7)
    assert PINNED_SI_BLURRY == [task.train.tolist() for task in blurry]
    assert PINNED_LONG_TAILED == long_tailed(np.arange(3).repeat(9), rho=9, seed=7).tolist()


@given(label_arrays)
def test_exposed_is_the_test_set_of_the_classes_seen(labels):
    classes = sorted(set(labels.tolist()))
    half = classes[::2]
    rows = exposed(labels, half)
    assert rows.dtype == np.int64
    assert rows.tolist() == [i for i, label in enumerate(labels.tolist()) if label in half]
    assert exposed(labels, ()).tolist() == []


def test_exposed_refuses_classes_of_another_kind():
    with pytest.raises(InvalidLabels, match=r"int.*str"):
        exposed(["1", "2"], [1])
