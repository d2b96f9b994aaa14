"""Marian's files: what was written is read, and nothing else is."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import CorruptState
from psfuture.marian_file import read_marian

from .marian_models import (
    archive,
    binary,
    options_of,
    options_text,
    quantised,
    random_weights,
)

SMALL = {"Wemb": np.arange(12, dtype=np.float32).reshape(6, 2), "b": np.ones((1, 2), np.float32)}
SMALL_FILE = binary(SMALL, {"type": "transformer"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def read(path: Path, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path.write_bytes(content)
    return read_marian(path)


def refused(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptState, match=match) as caught:
        read_marian(path)
    assert str(path) in str(caught.value)


# What is there


def test_floats_come_back_as_they_were(path: Path) -> None:
    weights = random_weights(options_of())
    found, options = read(path, binary(weights, options_of()))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name].numpy(), value)
    assert options["dec-cell"] == "ssru"
    assert options["dim-vocabs"] == "[60, 60]"
    assert options["transformer-preprocess"] == ""
    assert options["version"].endswith("00:28:35 +0100")


def test_bytes_are_divided_by_the_multiplier_and_turned_but_for_embeddings(path: Path) -> None:
    stored, multipliers, meant = quantised(random_weights(options_of("tied target")))
    found, _ = read(path, binary(stored, options_of("tied target"), multipliers))
    assert {name for name in meant if name.endswith("Wemb")} == {"encoder_Wemb", "decoder_Wemb"}
    for name, value in meant.items():
        np.testing.assert_array_equal(found[name].numpy(), value)


def test_half_precision_is_widened(path: Path) -> None:
    found, _ = read(path, binary({"w": np.float16([[1.5, -2]])}, {}))
    assert found["w"].dtype == torch.float32
    assert found["w"].tolist() == [[1.5, -2.0]]


def test_an_archive_of_arrays_is_read_like_a_binary_file(tmp_path: Path) -> None:
    weights, options = random_weights(options_of()), options_of()
    one, found = read(tmp_path / "model.bin", binary(weights, options))
    other, as_well = read(tmp_path / "model.npz", archive(weights, options))
    assert found == as_well
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_archive_may_be_in_columns(tmp_path: Path) -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    found, _ = read(tmp_path / "m.npz", archive({"w": np.asfortranarray(value)}, {}))
    np.testing.assert_array_equal(found["w"].numpy(), value)


def test_a_missing_file_is_missing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_marian(path)


# What is broken


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    for end in range(len(SMALL_FILE)):
        refused(path, SMALL_FILE[:end], "truncated|not a Marian")


def test_more_bytes_than_it_tells_of_are_refused(path: Path) -> None:
    refused(path, SMALL_FILE + b"\0", "1 bytes after its end")


def changed(offset: int, form: str, value: float) -> bytes:
    content = bytearray(SMALL_FILE)
    struct.pack_into(form, content, offset, value)
    return bytes(content)


HEADER = 16  # of the first tensor: name, type, dimensions, data
SHAPES = 16 + 3 * 32 + len(b"Wemb\0b\0special:model.yml\0")


@pytest.mark.parametrize(
    ("offset", "form", "value", "match"),
    [
        (0, "<Q", 2, "version 1"),
        (8, "<Q", 100_001, "claims 100001 tensors"),
        (8, "<Q", 2**64 - 1, "claims 18446744073709551615 tensors"),
        (8, "<Q", 100_000, "truncated"),
        (HEADER, "<Q", 0, "a name of 0 bytes"),
        (HEADER, "<Q", 2**63, "a name of"),
        (HEADER + 8, "<Q", 0x4102, "type 0x4102"),
        (HEADER + 16, "<Q", 9, "claims 9 dimensions"),
        (HEADER + 16, "<Q", 2**63, "dimensions"),
        (HEADER + 24, "<Q", 2**63, "truncated"),
        (HEADER + 24, "<Q", 47, "needs 48 bytes"),
        (SHAPES, "<i", -6, r"shape \(-6, 2\)"),
        (SHAPES, "<i", 2**31 - 1, "needs 17179869176 bytes"),
        (SHAPES + 4, "<i", 2**31 - 1, "needs"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(
    path: Path, offset: int, form: str, value: int, match: str
) -> None:
    refused(path, changed(offset, form, value), match)


def test_two_tensors_of_one_name_are_refused(path: Path) -> None:
    content = binary({"a": SMALL["b"], "b": SMALL["b"]}, {}).replace(b"a\0b\0", b"b\0b\0")
    refused(path, content, "two tensors of one name")


@pytest.mark.parametrize("multiplier", [0.0, np.inf, -np.inf, np.nan])
def test_a_multiplier_must_be_finite_and_not_zero(path: Path, multiplier: float) -> None:
    tensors = {"w": np.ones((2, 2), np.int8)}
    refused(path, binary(tensors, {}, {"w": np.float32(multiplier)}), "w has the multiplier")


def test_a_multiplier_that_leaves_no_finite_weight_is_refused(path: Path) -> None:
    tensors = {"w": np.full((2, 2), 127, np.int8)}
    refused(path, binary(tensors, {}, {"w": np.float32(1e-38)}), "w holds values")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.bin", "model.npz"])
def test_a_weight_must_be_finite(tmp_path: Path, name: str, value: float) -> None:
    write = archive if name.endswith("npz") else binary
    refused(tmp_path / name, write({"w": np.float32([[1, value]])}, {}), "w holds values")


def test_claims_allocate_nothing(path: Path) -> None:
    path.write_bytes(changed(SHAPES, "<i", 2**31 - 1))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptState):
            read_marian(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


# Archives


def member(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("w.npy", content)
    return file.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no archive"),
        (b"PK\x03\x04 and no more", "no archive"),
        (member(b"no array"), "w is no array"),
        (member(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", b"123")), "3 b"),
        (member(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -2), }")), "shape"),
        (
            member(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40},), }}")),
            "has 0 bytes",
        ),
        (member(npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"x" * 8)), "obj"),
        (
            member(npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", b"xxxx")),
            "int32",
        ),
        (member(npy("{'descr': __import__('os'), 'shape': (), 'fortran_order': 0}")), "no array"),
        (member(bytes(10**6), zipfile.ZIP_DEFLATED), "is compressed"),
    ],
)
def test_a_broken_archive_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    refused(tmp_path / "model.npz", content, match)


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    empty = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }")
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("w.npy", empty)
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("w.npy", empty)
    refused(tmp_path / "model.npz", file.getvalue(), "two tensors of one name")


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    whole = member(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }", bytes(256)))
    start, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    tail = bytearray(whole[end:])
    struct.pack_into("<2H2L", tail, 8, 9, 9, 9 * (end - start), start)
    refused(tmp_path / "model.npz", whole[:end] + whole[start:end] * 8 + bytes(tail), "larger than")


def test_a_damaged_archive_is_refused_or_read(tmp_path: Path) -> None:
    whole = archive(SMALL, {"type": "transformer"})
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        survives(tmp_path / "model.npz", bytes(damaged))


# Anything at all


def survives(path: Path, content: bytes) -> None:
    """Read, or refused by the error that says so."""
    path.write_bytes(content)
    try:
        weights, _ = read_marian(path)
    except CorruptState:
        return
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert sum(tensor.numel() for tensor in weights.values()) <= len(content)


@given(
    st.lists(st.tuples(st.integers(0, len(SMALL_FILE) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(SMALL_FILE)),
)
def test_any_damage_is_survived(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], end: int
) -> None:
    damaged = bytearray(SMALL_FILE)
    for offset, value in changes:
        damaged[offset] = value
    for content in (bytes(damaged), bytes(damaged[:end])):
        survives(tmp_path_factory.getbasetemp() / "damaged.bin", content)


@given(st.integers(0, SHAPES + 20), st.sampled_from([1, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1]))
def test_any_count_is_survived(
    tmp_path_factory: pytest.TempPathFactory, offset: int, value: int
) -> None:
    content = bytearray(SMALL_FILE)
    struct.pack_into("<Q", content, offset, value)
    survives(tmp_path_factory.getbasetemp() / "counted.bin", bytes(content))


LIMITED = """
import resource, sys
from pathlib import Path
from psfuture.marian_file import read_marian
from lipogram.errors import CorruptState
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20,) * 2)
for name in sys.argv[1:]:
    try:
        read_marian(Path(name))
    except CorruptState:
        print("refused")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_hostile_claims_are_refused_with_little_memory_left(tmp_path: Path) -> None:
    hostile = {
        "count.bin": changed(8, "<Q", 99_999),
        "name.bin": changed(HEADER, "<Q", 2**40),
        "shape.bin": changed(SHAPES, "<i", 2**31 - 1),
        "data.bin": changed(HEADER + 24, "<Q", 2**40),
        "shape.npz": member(
            npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40},), }}")
        ),
        "bomb.npz": member(bytes(60 * 2**20), zipfile.ZIP_DEFLATED),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in hostile)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["refused"] * len(hostile), done.stderr


def test_options_that_are_no_text_are_none(path: Path) -> None:
    weights, options = read(path, SMALL_FILE.replace(b"type: transformer", b"\xff" * 17))
    assert "type" not in options
    assert len(weights) == 2
    assert options_text({"a": [1, 2]}) == b"a:\n  - 1\n  - 2\n\0"
