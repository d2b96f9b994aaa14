"""Class statistics in a file, and what a hostile file can say."""

import contextlib
import copy
import resource

import numpy as np
import pytest
import torch

from lipogram.analytic.buffer import GaussianKernelBuffer, RandomBuffer
from lipogram.analytic.gram import PackedGram
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import CorruptState

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(40, 6)), GENERATOR.integers(0, 3, size=40)
W = GENERATOR.uniform(0.2, 2, size=40)


def filled(**settings):
    return ClassStatistics(6, **settings).update(X, Y, sample_weight=W)


def mapped():
    return ClassStatistics(9, feature_map=RandomBuffer(6, 9, seed=5)).update(X, Y)


def folded():
    return filled().fold({0: 2.0, 2: 0.5})


def soft():
    targets = GENERATOR.uniform(size=(40, 3))
    return ClassStatistics(6, pooled=True).update_targets(X, targets, ["a", "b", "c"])


@contextlib.contextmanager
def little_memory(more=200 * 2**20):
    """Whoever asks for much more memory gets none."""
    with open("/proc/self/status") as file:
        used = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "make",
    [
        filled,
        lambda: filled(pooled=True),
        lambda: filled(storage="dense"),
        lambda: filled(storage="packed"),
        lambda: filled(storage="factor"),
        lambda: filled(storage="memmap"),
        lambda: filled(memory_budget=10**6, space="backbone"),
        folded,
        mapped,
        soft,
        lambda: ClassStatistics(6),
        lambda: ClassStatistics(6).declare(["x", "y"]),
        lambda: ClassStatistics(6).update(X[:2], [True, False]),
        lambda: ClassStatistics(9, feature_map=GaussianKernelBuffer(torch.randn(9, 6))).update(
            X, Y
        ),
    ],
)
def test_round_trip(make):
    held = make()
    tensors, described = describe(held, "p/")
    assert all(name.startswith("p/") for name in tensors)
    twin = restore(tensors, described, "p/")
    again, meaning = describe(twin, "p/")
    assert meaning == described
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert twin.classes == held.classes
    assert [type(label) for label in twin.classes] == [type(label) for label in held.classes]


def test_the_twin_is_independent():
    held = filled()
    tensors, described = describe(held)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    restore(tensors, described).update(X, Y).reweight()
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_a_map_that_is_built_already_is_shared():
    held = mapped()
    tensors, described = describe(held)
    assert restore(tensors, described, feature_map=held.feature_map).feature_map is held.feature_map
    other = RandomBuffer(6, 9, seed=6)
    assert restore(tensors, described, feature_map=other).feature_map is not other


def test_forgetting_leaves_a_state_that_can_be_read():
    weights = np.array([0.1, 0.2, 0.3, 0.0])
    held = ClassStatistics(6, pooled=True)
    for i in (2, 1, 0, 3):
        held.update(X[i : i + 1], [0], sample_weight=weights[i : i + 1])
    held.remove(held.like().update(X[:3], [0, 0, 0], sample_weight=weights[:3]))
    tensors, described = describe(held)
    assert tensors["mass"][0] < 0  # by rounding: 0.3 + 0.2 + 0.1 is not 0.1 + 0.2 + 0.3
    assert restore(tensors, described).n_rows == 1


def change(path, value):
    def apply(tensors, described):
        *outer, last = path
        for key in outer:
            described = described[key]
        described[last] = value

    return apply


def drop(*path):
    def apply(tensors, described):
        *outer, last = path
        for key in outer:
            described = described[key]
        del described[last]

    return apply


def tensor(name, value):
    def apply(tensors, described):
        tensors[name] = value if isinstance(value, torch.Tensor) else value(tensors[name])

    return apply


def missing(name):
    return lambda tensors, described: tensors.pop(name)


WRONG_TYPES = [None, True, "6", 6.0, [6], {}, -1, 0, 10**30, 2**62]


def damages():
    """Every way we can think of to spoil a state: (name, how, of which statistics)."""
    keys = list(describe(mapped())[1])
    for key in keys:
        yield f"no {key}", drop(key), mapped
    for value in WRONG_TYPES:
        yield f"n_features {value!r}", change(["n_features"], value), mapped
        if value != 6:
            yield f"in_features {value!r}", change(["feature_map", "in_features"], value), mapped
        yield f"out_features {value!r}", change(["feature_map", "out_features"], value), mapped
        yield f"classes {value!r}", change(["classes"], value), mapped
        yield f"grams {value!r}", change(["grams"], value), mapped
        yield f"storage of one {value!r}", change(["grams", "0"], value), mapped
        yield f"storage {value!r}", change(["storage"], value), mapped
        yield f"accumulate {value!r}", change(["accumulate"], value), mapped
        yield f"pool {value!r}", change(["pool"], value), mapped
        if value not in (0, 6.0, 10**30, 2**62):
            yield f"pool mass {value!r}", change(["pool", "mass"], value), mapped
        if value is not True:
            yield f"pooled {value!r}", change(["pooled"], value), mapped
        if value not in (None, 0, 2**62):
            yield f"budget {value!r}", change(["memory_budget"], value), mapped
        yield f"chunk_rows {value!r}", change(["chunk_rows"], value), mapped
        if value != "6":
            yield f"space {value!r}", change(["space"], value), mapped
        if value is not None:
            yield f"map {value!r}", change(["feature_map"], value), mapped
        yield f"fingerprint {value!r}", change(["feature_map", "fingerprint"], value), mapped
        yield f"seed {value!r}", change(["feature_map", "seed"], value), mapped
        yield f"scale {value!r}", change(["feature_map", "scale"], value), mapped
        if value not in (6.0, 10**30, 2**62):
            yield f"frozen {value!r}", change(["frozen", "0"], value), folded
    for slot in ("7", "-2", "00", " 0", "1.0", "", "x", "9" * 5000, "\u0660"):
        yield f"slot {slot[:9]!r}", change(["grams", slot], "factor"), mapped
        yield f"frozen slot {slot[:9]!r}", change(["frozen", slot], 1.0), folded
    yield "frozen pool", change(["frozen", "-1"], 1.0), folded
    yield "frozen and pooled", change(["frozen"], {"0": 1.0}), lambda: filled(pooled=True)
    for classes in (
        [0, 0, 1],
        [0, 1],
        [0, 1, 2, 3],
        [0, "1", 2],
        [0, True, 2],
        [0, 1.0, 2],
        [0, None, 2],
        [0, [1], 2],
        [0, 2**63, 2],
        "abc",
    ):
        yield f"classes {classes!r}", change(["classes"], classes), mapped
    for kind in ("gaussian", "polynomial", None, 3):
        yield f"map kind {kind!r}", change(["feature_map", "kind"], kind), mapped
    yield "map with more", change(["feature_map", "device"], "cuda"), mapped
    yield "flipped seed", change(["feature_map", "seed"], 4), mapped
    yield "another activation", change(["feature_map", "activation"], "tanh"), mapped
    yield "another storage of one", change(["grams", "0"], "dense"), mapped
    for name in describe(mapped())[0]:
        yield f"no tensor {name}", missing(name), mapped
        yield f"{name} wider", tensor(name, lambda t: torch.cat([t, t], -1)), mapped
        yield f"{name} flat", tensor(name, lambda t: t.reshape(1, 1, -1)), mapped
        yield f"{name} float32", tensor(name, lambda t: t.float()), mapped
        yield f"{name} uint8", tensor(name, lambda t: t.to(torch.uint8)), mapped
    yield "negative count", tensor("counts", lambda t: t - t.max() - 1), mapped
    yield "float counts", tensor("counts", lambda t: t.double()), mapped
    yield "negative mass", tensor("mass", lambda t: -t), mapped
    yield "pool without matrix", missing("gram/-1"), lambda: filled(pooled=True)
    yield "pool undescribed", drop("grams", "-1"), lambda: filled(pooled=True)
    yield "class undescribed", drop("grams", "0"), mapped
    dense = PackedGram(6).full() - torch.eye(6).double()
    yield "negative diagonal", tensor("gram/0", dense), lambda: filled(storage="dense")
    packed = -torch.ones(21).double()
    yield "negative packed", tensor("gram/0", packed), lambda: filled(storage="packed")
    yield (
        "map that is wider than the sums",
        change(["n_features"], 5),
        lambda: ClassStatistics(9, feature_map=GaussianKernelBuffer(torch.randn(9, 6))).update(
            X, Y
        ),
    )


DAMAGES = list(damages())


@pytest.mark.parametrize(("how", "make"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_damaged_or_hostile(how, make):
    tensors, described = describe(make())
    described = copy.deepcopy(described)
    with contextlib.suppress(KeyError):  # a slot that this state does not have is added instead
        how(tensors, described)
    with little_memory(), pytest.raises(CorruptState, match=r"state|statistics"):
        restore(tensors, described)


@pytest.mark.parametrize("described", [None, [], "x", 3, {}])
def test_no_description_at_all(described):
    tensors, _ = describe(filled())
    with pytest.raises(CorruptState):
        restore(tensors, described)
