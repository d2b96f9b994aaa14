"""Sums of several processes: real ones, over gloo on the loopback device."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lipogram.analytic import messages
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.distributed import rank_indices
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import InvalidSetting

GENERATOR = np.random.default_rng(0)
Y = GENERATOR.integers(0, 4, size=61)  # no even split
Y[::2][Y[::2] == 3] = 0  # class 3 is on rank 1 alone
X = GENERATOR.normal(size=(61, 6))
W = GENERATOR.uniform(0.2, 2, size=61)

HELPERS = """
import sys, os, json, datetime, warnings
import numpy as np, torch, torch.distributed as dist
from lipogram.analytic import messages
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.distributed import *
from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.analytic.state import write_state, read_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe
world, port, folder, timeout = sys.argv[1:]
world = int(world)
torch.set_num_threads(1)
children = []
for rank in range(world):  # torch is imported once and has started no thread yet
    children.append(os.fork())
    if not children[-1]:
        break
else:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))
    os._exit(0)
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world,
    timeout=datetime.timedelta(seconds=float(timeout)),
)
data, _ = read_state(f"{folder}/data")
X, Y, W = (data[name].numpy() for name in "XYW")
mine = rank_indices(len(X), rank, world)
def filled(**settings):
    empty = ClassStatistics(settings.pop("d", 6), **settings)
    return empty.update(X[mine], Y[mine], sample_weight=W[mine])
def keep(name, statistics):
    tensors, said = describe(statistics)
    write_state(f"{folder}/{name}-{rank}", tensors, {"said": said})
def refused(name, call):
    try:
        call()
    except Exception as error:
        with open(f"{folder}/{name}-{rank}.json", "w") as file:
            json.dump([type(error).__name__, str(error)], file)
"""


def run(tmp_path, body, world=2, timeout=60, codes=(0, 0)):
    """Run a body in `world` processes and check how they ended."""
    tensors = {"X": torch.from_numpy(X), "Y": torch.from_numpy(Y), "W": torch.from_numpy(W)}
    write_state(tmp_path / "data", tensors, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-c", HELPERS + body, *map(str, (world, port, tmp_path, timeout))],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == list(codes), ended.stderr


def kept(tmp_path, name, rank):
    tensors, description = read_state(tmp_path / f"{name}-{rank}")
    return restore(tensors, description["said"])


def told(tmp_path, name, rank):
    return json.loads((tmp_path / f"{name}-{rank}.json").read_text())


SUMS = """
buffer = RandomBuffer(6, 9, seed=1)
settings = {
    "auto": {}, "pooled": {"pooled": True}, "dense": {"storage": "dense"},
    "packed": {"storage": "packed"}, "factor": {"storage": "factor"},
    "mapped": {"d": 9, "feature_map": buffer},
}
messages.BUCKET = 50  # many small messages, and pieces cut in parts
for name, more in settings.items():
    held = filled(**more)
    before, said = describe(held)
    before = {n: t.clone() for n, t in before.items()}
    keep(name, all_reduce_statistics(held))
    after, again = describe(held)
    assert said == again and all(torch.equal(after[n], t) for n, t in before.items())
    keep(name + "-ordered", all_reduce_statistics(held, deterministic=True))
keep("alone", all_reduce_statistics(ClassStatistics(6)))
some = ClassStatistics(6).declare(["x"])
if rank: some.update(X[:5], ["y"] * 5)
keep("some", all_reduce_statistics(some))
mixed = filled(storage="factor" if rank else "packed")
keep("mixed", all_reduce_statistics(mixed))
split = SplitStatistics(ClassStatistics(6), 3)
split.update(X[mine], Y[mine], sample_weight=W[mine])
total = all_reduce_statistics(split)
assert [part.classes for part in total.parts] == [total.classes] * 3
for i, part in enumerate(total.parts): keep(f"part{i}", part)

pi = np.array([0.5, 2.0, 1.0, 3.0])
for name in ("auto", "packed"):
    shard = shard_classes(filled(**settings[name]))
    owned = [slot for slot in shard.statistics.store.grams]
    assert owned == [slot for slot in range(4) if slot % world == rank], owned
    system = reweight_shards(shard, pi)
    fields = ("gram", "cross", "row_sum", "target_sum")
    scalars = {"mass": system.mass, "energy": system.energy, "rows": system.rows}
    write_state(f"{folder}/shard-{name}-{rank}", {f: getattr(system, f) for f in fields}, scalars)

group = dist.new_group([1, 0][:1])  # rank 1 by itself
if rank == 1:
    keep("group", all_reduce_statistics(filled(), group))
    assert set(shard_classes(filled(), group).statistics.store.grams) == {0, 1, 2, 3}
"""

REFUSALS = """
ours = {"mapped": lambda r: {"d": 9, "feature_map": RandomBuffer(6, 9, seed=r)},
        "space": lambda r: {"space": f"backbone {r}"},
        "pooled": lambda r: {"pooled": bool(r)},
        "precision": lambda r: {"accumulate": ["float64", "float32"][r]}}
for name, of in ours.items():
    refused(name, lambda: all_reduce_statistics(filled(**of(rank))))
refused("width", lambda: all_reduce_statistics(ClassStatistics(6 + rank)))
labels = ["a", "b"] if rank else [1, 2]
refused("labels", lambda: all_reduce_statistics(ClassStatistics(6).update(X[:2], labels)))
refused("folded", lambda: all_reduce_statistics(filled().fold({1: 1.0}) if rank else filled()))
refused("folded both", lambda: all_reduce_statistics(filled().fold({1: 1.0})))
split = SplitStatistics(ClassStatistics(6), 3)
refused("split", lambda: all_reduce_statistics(split if rank else filled()))
refused("shard pooled", lambda: shard_classes(filled(pooled=True)))
refused("shard mixed", lambda: shard_classes(filled(pooled=bool(rank))))
keep("afterwards", all_reduce_statistics(filled()))  # nobody is out of step
"""


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    run(folder, SUMS)
    return folder


def whole(**settings):
    order = np.concatenate([np.arange(0, 61, 2), np.arange(1, 61, 2)])  # rank by rank
    empty = ClassStatistics(settings.pop("d", 6), **settings)
    return empty.update(X[order], Y[order], sample_weight=W[order])


def assert_same(one, two):
    assert one.classes == two.classes
    np.testing.assert_array_equal(one.counts, two.counts)
    np.testing.assert_allclose(one.mass, two.mass, rtol=1e-12)
    np.testing.assert_allclose(one.sums, two.sums, rtol=1e-12, atol=1e-12)
    assert_same_system(one.reweight(), two.reweight())


def assert_same_system(one, two):
    for name in ("gram", "cross", "row_sum", "target_sum"):
        a, b = getattr(one, name), getattr(two, name)
        a, b = (a.tril(), b.tril()) if name == "gram" else (a, b)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert one.mass == pytest.approx(two.mass, rel=1e-12)
    assert one.energy == pytest.approx(two.energy, rel=1e-12)
    assert one.rows == two.rows


@pytest.mark.parametrize("ordered", ["", "-ordered"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("auto", {}),
        ("pooled", {"pooled": True}),
        ("dense", {"storage": "dense"}),
        ("packed", {"storage": "packed"}),
        ("factor", {"storage": "factor"}),
        ("mapped", {"d": 9, "feature_map": RandomBuffer(6, 9, seed=1)}),
    ],
)
def test_two_processes_are_one(sums, name, settings, ordered):
    expected = whole(**settings)
    for rank in range(2):
        total = kept(sums, name + ordered, rank)
        assert_same(total, expected)
        expected.flush()
        storages = {slot: gram.storage for slot, gram in expected.store.grams.items()}
        assert {slot: gram.storage for slot, gram in total.store.grams.items()} == storages


def test_both_ranks_hold_the_same_bits(sums):
    for name in ("auto", "pooled", "factor", "mapped-ordered"):
        one, two = (read_state(sums / f"{name}-{rank}")[0] for rank in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_nothing_and_almost_nothing(sums):
    assert kept(sums, "alone", 0).n_rows == 0
    total = kept(sums, "some", 0)
    assert total.classes == ["x", "y"]
    assert total.counts.tolist() == [0, 5]


def test_a_rank_may_hold_rows_and_another_a_matrix(sums):
    assert_same(kept(sums, "mixed", 0), whole(storage="packed"))


def test_parts_are_added_part_by_part(sums):
    total = kept(sums, "part0", 1)
    for i in (1, 2):
        total.merge(kept(sums, f"part{i}", 1))
    assert_same(total, whole())


@pytest.mark.parametrize("name", ["auto", "packed"])
@pytest.mark.parametrize("rank", [0, 1])
def test_shards_give_the_system_of_the_whole(sums, name, rank):
    tensors, said = read_state(sums / f"shard-{name}-{rank}")
    order = kept(sums, "auto", 0).classes
    assert order == whole().classes
    expected = whole().reweight(np.array([0.5, 2.0, 1.0, 3.0]))
    for field, tensor in tensors.items():
        wanted = getattr(expected, field)
        if field == "gram":
            tensor, wanted = tensor.tril(), wanted.tril()
        np.testing.assert_allclose(tensor, wanted, rtol=1e-12, atol=1e-12)
    assert said["rows"] == 61
    assert said["energy"] == pytest.approx(expected.energy, rel=1e-12)


def test_a_group_of_one(sums):
    mine = rank_indices(61, 1, 2)
    expected = ClassStatistics(6).update(X[mine], Y[mine], sample_weight=W[mine])
    assert_same(kept(sums, "group", 1), expected)


def test_ordered_sums_are_those_of_rank_order_to_the_last_bit(tmp_path):
    rows = "np.random.default_rng({rank}).normal(size=(40, 6)) * 10.0 ** np.arange(-6, 6, 2)"
    body = f"""
held = ClassStatistics(6, storage="dense").update({rows.format(rank="rank")}, np.arange(40) % 3)
for messages.BUCKET in (7, 2**23):
    keep(f"total{{messages.BUCKET}}", all_reduce_statistics(held, deterministic=True))
"""
    run(tmp_path, body, world=3, codes=(0, 0, 0))
    parts = []
    for rank in range(3):
        x = np.random.default_rng(rank).normal(size=(40, 6)) * 10.0 ** np.arange(-6, 6, 2)
        parts.append(describe(ClassStatistics(6, storage="dense").update(x, np.arange(40) % 3))[0])
    for name in ("sums", "mass", "gram/0", "gram/2"):
        expected = (parts[0][name] + parts[1][name]) + parts[2][name]
        expected = expected.tril() if name.startswith("gram") else expected
        for rank in range(3):
            for bucket in (7, 2**23):
                total = read_state(tmp_path / f"total{bucket}-{rank}")[0][name]
                assert torch.equal(total, expected)


def test_what_does_not_fit_is_refused_on_both_ranks(tmp_path):
    start = time.monotonic()
    run(tmp_path, REFUSALS)
    assert time.monotonic() - start < 30
    named = {
        "mapped": "feature map",
        "space": "backbone 0",
        "pooled": "pooled",
        "precision": "accumulate",
        "width": "features",
        "labels": "kinds of labels",
        "folded": "folded",
        "folded both": "folded",
        "split": "folds",
        "shard mixed": "pooled",
    }
    for name, message in named.items():
        for rank in range(2):
            kind, text = told(tmp_path, name, rank)
            assert kind == "IncompatibleFeatures", text
            assert message in text
    assert told(tmp_path, "shard pooled", 0)[0] == "InvalidSetting"
    assert kept(tmp_path, "afterwards", 0).n_rows == 61


def test_a_rank_that_dies_does_not_hang_the_others(tmp_path):
    body = """
import time
held = filled()
if rank == 1:
    os._exit(3)
time.sleep(0.5)
start = time.monotonic()
refused("dead", lambda: all_reduce_statistics(held))
keep("mine", held)
with open(f"{folder}/seconds", "w") as file: file.write(str(time.monotonic() - start))
os._exit(0)
"""
    run(tmp_path, body, timeout=10, codes=(0, 3))
    kind, _ = told(tmp_path, "dead", 0)
    assert kind in ("RuntimeError", "DistBackendError", "DistNetworkError")
    assert float((tmp_path / "seconds").read_text()) < 20
    assert kept(tmp_path, "mine", 0).n_rows == 31  # what it had is as it was


def test_a_rank_that_never_comes_ends_in_the_timeout(tmp_path):
    body = """
import time
if rank == 1:
    while not os.path.exists(f"{folder}/seconds"): time.sleep(0.1)
    os._exit(0)
start = time.monotonic()
refused("late", lambda: all_reduce_statistics(filled()))
with open(f"{folder}/seconds", "w") as file: file.write(str(time.monotonic() - start))
os._exit(0)
"""
    run(tmp_path, body, timeout=2)
    assert told(tmp_path, "late", 0)[0] in ("RuntimeError", "DistBackendError", "DistNetworkError")
    assert float((tmp_path / "seconds").read_text()) < 12


@pytest.mark.parametrize(("n", "world"), [(0, 3), (2, 3), (10, 3), (12, 4), (7, 1)])
def test_every_row_goes_to_one_rank(n, world):
    shares = [rank_indices(n, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(n))
    np.testing.assert_array_equal(shares[-1], np.arange(n)[world - 1 :: world])
    assert all(share.dtype == np.int64 for share in shares)


@pytest.mark.parametrize(("n", "rank", "world"), [(5, 2, 2), (5, -1, 2), (5, 0, 0), (-1, 0, 1)])
def test_no_such_rank(n, rank, world):
    with pytest.raises(InvalidSetting, match="rank"):
        rank_indices(n, rank, world)


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_messages_carry_json_and_no_pickle(monkeypatch):
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "dumps", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    message = {"labels": ["ä", 2, True], "nested": [1, None, 2.5]}
    assert messages.exchange(message, None) == [message]


@pytest.mark.usefixtures("alone")
def test_pieces_come_back_as_they_went(monkeypatch):
    lengths = []
    reduce = torch.distributed.all_reduce
    monkeypatch.setattr(
        torch.distributed,
        "all_reduce",
        lambda t, group=None: lengths.append(t.numel()) or reduce(t, group=group),
    )
    monkeypatch.setattr(messages, "BUCKET", 10)
    pieces = [torch.randn(n).double() for n in (3, 0, 4, 25, 1, 10, 2)]
    copies = [piece.clone() for piece in pieces]
    results = list(messages.reduced(iter(pieces), None))
    assert all(torch.equal(one, two) for one, two in zip(results, copies, strict=True))
    assert max(lengths) == 10
    assert sum(lengths) == 45
    assert len(lengths) == 7  # 3 + 0 + 4 + 25, 1 + 10, 2
