"""Files that hold tensors and their meaning, and survive what happens to files."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState

TENSORS = {
    "a": torch.randn(3, 5, dtype=torch.float64),
    "b/0": torch.arange(4),
    "empty": torch.zeros(0, 7, dtype=torch.float64),
    "single": torch.randn(2),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "scalar": torch.tensor(0.5),
}
MEANING = {"method": "M", "classes": ["ä", "b"], "nested": {"x": [1, 2.5, None, True]}}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return write_state(tmp_path / "state.safetensors", TENSORS, MEANING)


def test_bit_exact_round_trip(path):
    tensors, meaning = read_state(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert {name: meaning[name] for name in MEANING} == MEANING
    assert names_in(path.parent) == [path.name]


@settings(max_examples=20)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=30))
def test_every_finite_number_survives(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("s") / "x"
    values = torch.tensor(numbers, dtype=torch.float64)
    write_state(path, {"x": values}, {})
    assert read_state(path)[0]["x"].numpy().tobytes() == values.numpy().tobytes()


def test_layout_of_memory_does_not_matter(tmp_path):
    matrix = torch.randn(4, 6).double()
    write_state(tmp_path / "x", {"t": matrix.T, "s": matrix[::2, 1::2]}, {})
    tensors, _ = read_state(tmp_path / "x")
    assert torch.equal(tensors["t"], matrix.T)
    assert torch.equal(tensors["s"], matrix[::2, 1::2])


def test_any_safetensors_reader_understands_it(path):
    from safetensors.torch import load_file

    assert torch.equal(load_file(path)["a"], TENSORS["a"])


def test_a_new_file_is_readable_as_the_user_wishes(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_state(tmp_path / "nowhere")


def test_truncated_anywhere(path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 8, 7), len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptState, match="restore it from a copy"):
            read_state(path)


def test_longer_than_it_says(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CorruptState):
        read_state(path)


@settings(max_examples=60)
@given(st.data())
def test_changed_bytes_are_refused_or_read_as_tensors(tmp_path_factory, data):
    path = write_state(tmp_path_factory.mktemp("s") / "x", TENSORS, MEANING)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tensors, meaning = read_state(path)
    except CorruptState:
        return
    assert isinstance(meaning, dict)
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point())


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/lipogram-trap-was-sprung",))


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickles_are_refused_and_not_run(tmp_path, write):
    with open(tmp_path / "x", "wb") as file:
        write(Trap(), file)
    with pytest.raises(CorruptState, match="no Lipogram state"):
        read_state(tmp_path / "x")
    assert not os.path.exists("/tmp/lipogram-trap-was-sprung")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"PK\3\4", os.urandom(500)])
def test_what_is_no_state_at_all(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorruptState):
        read_state(tmp_path / "x")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"other": "{}"},
        {"lipogram": "{"},
        {"lipogram": "[1]"},
        {"lipogram": "null"},
        {"lipogram": '{"schema": 1, "x": NaN}'},
        {"lipogram": '{"schema": 1, "x": -Infinity}'},
        {"lipogram": "[" * 100_000},
        {"lipogram": '{"schema": 2}'},
        {"lipogram": '{"schema": "1"}'},
        {"lipogram": "{}"},
    ],
    ids=lambda value: str(value)[:40],
)
def test_foreign_or_newer_descriptions(tmp_path, metadata):
    save_file({"x": torch.ones(2)}, tmp_path / "x", metadata=metadata)
    with pytest.raises(CorruptState):
        read_state(tmp_path / "x")


def test_the_schema_that_was_found_is_named(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x", metadata={"lipogram": '{"schema": 7}'})
    with pytest.raises(CorruptState, match="schema 7, this version reads 1"):
        read_state(tmp_path / "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_no_sum_can_have(tmp_path, value):
    write_state(tmp_path / "x", {"fine": torch.ones(2), "bad": torch.tensor([1.0, value])}, {})
    with pytest.raises(CorruptState, match="'bad' holds NaN or infinity"):
        read_state(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.complex64, torch.float8_e5m2])
def test_types_that_we_never_write(tmp_path, dtype):
    tensor = torch.zeros(2).to(dtype)
    save_file({"x": tensor}, tmp_path / "x", metadata={"lipogram": json.dumps({"schema": 1})})
    with pytest.raises(CorruptState):
        read_state(tmp_path / "x")


def test_a_header_that_promises_terabytes(tmp_path):
    header = json.dumps(
        {
            "__metadata__": {"lipogram": '{"schema": 1}'},
            "x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]},
        }
    ).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    with pytest.raises(CorruptState):
        read_state(tmp_path / "x")


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file_and_no_other(path, monkeypatch, when, error):
    def fail(*arguments):
        raise error

    before = path.read_bytes()
    monkeypatch.setattr(os, when, fail)
    with pytest.raises(type(error)):
        write_state(path, {"x": torch.ones(1000)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


def test_a_description_that_is_no_json_writes_nothing(path):
    before = path.read_bytes()
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_state(path, TENSORS, bad)
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


KILLS = """
import os, signal, sys, time
import torch
from lipogram.analytic.state import read_state, write_state
torch.set_num_threads(1)
path = sys.argv[1]
for attempt in range(15):
    reader, writer = os.pipe()
    child = os.fork()
    while not child:
        for i in range(1, 1000):
            write_state(path, {"x": torch.full((1_000_000,), float(i)).double()}, {"i": i})
            os.write(writer, bytes([i % 256]))
    os.close(writer)
    os.read(reader, 1)
    time.sleep(0.002 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    saved = 1 + len(os.read(reader, 1000))
    tensors, meaning = read_state(path)
    assert meaning["i"] in (saved, saved + 1), (meaning, saved)
    assert bool((tensors["x"] == meaning["i"]).all())
    del tensors
    os.close(reader)
print(sum(name.endswith(".tmp") for name in os.listdir(os.path.dirname(path))))
"""


def test_killed_in_the_middle_of_a_save(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "state")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 0  # at least one of the kills came in the middle
