"""Checkpoints that were made to do harm, or are broken: nothing runs, and the error is ours."""

import argparse
import builtins
import io
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lipogram.errors import CorruptState, LipogramError, ModelNotFound, UnsafeCheckpoint
from psfuture.fairseq_checkpoint import read_fairseq

ARGS = argparse.Namespace(arch="transformer", encoder_layers=2, source_lang="en")


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


class Unknown:
    """A class of whoever wrote the file."""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def state(**more: Any) -> dict[str, Any]:
    return {"args": ARGS, "model": {"w": torch.ones(2, 2)}} | more


CALLS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "subprocess": lambda marker: Call(subprocess.call, ["touch", str(marker)]),
    "eval": lambda marker: Call(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Call(builtins.open, str(marker), "w"),
    "touch": lambda marker: Call(Path.touch, marker),
    "getattr": lambda marker: Call(builtins.getattr, Call(Path, marker), "touch"),
    "import": lambda marker: Call(builtins.__import__, "antigravity"),
    "torch.load": lambda marker: Call(torch.load, str(marker)),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda bad: bad,
    "weight": lambda bad: state(model={"w": bad}),
    "args": lambda bad: state(args=argparse.Namespace(encoder_layers=bad)),
    "cfg": lambda bad: state(cfg={"model": {"_name": bad}}),
    "optimiser": lambda bad: state(last_optimizer_state={"state": [[({1: bad},)]]}),
    "key": lambda bad: state(extra_state={(1, bad): 2}),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", list(PLACES))
def test_a_call_is_not_made_wherever_it_lies(
    place: str, zipped: bool, marker: Path, tmp_path: Path
) -> None:
    for call in CALLS.values():
        held = PLACES[place](call(marker))
        torch.save(held, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnsafeCheckpoint, match=r"model\.pt holds .*only tensors"):
            read_fairseq(tmp_path / "model.pt")
    assert not marker.exists()


def test_the_call_is_one_that_would_be_made(marker: Path) -> None:
    function, arguments = CALLS["os.system"](marker).__reduce__()
    function(*arguments)  # what unpickling does; or the tests above show nothing
    assert marker.exists()


def test_what_is_refused_is_named(marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(state(cfg=Call(os.system, f"touch {marker}")), path)
    with pytest.raises(UnsafeCheckpoint, match=r"(posix|nt)\.system"):
        read_fairseq(path)
    torch.save(state(extra_state=Unknown()), path)
    with pytest.raises(UnsafeCheckpoint, match=r"Unknown"):
        read_fairseq(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_of_any_protocol_runs_nothing(
    protocol: int, marker: Path, tmp_path: Path
) -> None:
    for call in CALLS.values():
        (tmp_path / "model.pt").write_bytes(pickle.dumps(call(marker), protocol=protocol))
        with pytest.raises((UnsafeCheckpoint, CorruptState)):
            read_fairseq(tmp_path / "model.pt")
    assert not marker.exists()


def opcodes(marker: Path) -> dict[str, bytes]:
    """Pickles by hand: ways to reach a call that no pickler writes."""
    text = str(marker).encode()
    touch = b"touch " + text
    return {
        "global": b"cposix\nsystem\n(V" + touch + b"\ntR.",
        "inst": b"(V" + touch + b"\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nV" + touch + b"\no.",
        "newobj": b"\x80\x02cposix\nsystem\n(V" + touch + b"\nt\x81.",
        "stack-global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93(V" + touch + b"\ntR.",
        "extension": b"\x80\x02\x82\x01.",
        "dotted": b"cargparse\n_sys.modules\n.",
        "namespace-of-module": b"cargparse\nNamespace.__init__\n(tR.",
        "call-of-an-instance": b"cargparse\nNamespace\n)R(tR.",
        "build-class": b"cargparse\nNamespace\n)\x81}V__class__\ncposix\nsystem\nsb.",
        "build-slots": b"cargparse\nNamespace\n)\x81N}V__reduce__\nV1\ns\x86b.",
        "persistent-text": b"PV" + text + b"\n.",
        "persistent-number": b"K\x05Q.",
        "persistent-tuple": b"(Vstorage\ncposix\nsystem\nV0\nVcpu\nK\x01tQ.",
        "persistent-unknown": b"(Vmodule\nV" + text + b"\nV0\nVcpu\nK\x01tQ.",
        "persistent-path": b"(Vstorage\nctorch\nFloatStorage\nV../../x\nVcpu\nK\x01tQ.",
        "persistent-endless": b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n\x8a\x08"
        + struct.pack("<q", 1 << 60)
        + b"tQ.",
        "rebuild-of-nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(tR.",
        "long-memo": b"\x80\x02r\xff\xff\xff\xff.",
        "huge-string": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "huge-long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "empty-stack": b"\x80\x02.",
        "bad-mark": b"\x80\x02t.",
        "no-stop": b"\x80\x02]",
        "deep": b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
        "protocol": b"\x80\xff}.",
    }


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    """A checkpoint whose pickle is `content`."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("model/data.pkl", content)
        file.writestr("model/byteorder", "little")
        file.writestr("model/data/0", b"\0" * 64)
        file.writestr("model/version", "3\n")


@pytest.mark.parametrize("trick", list(opcodes(Path("ran"))))
def test_no_trick_of_the_protocol_runs_anything(trick: str, marker: Path, tmp_path: Path) -> None:
    content = opcodes(marker)[trick]
    zipped, bare = tmp_path / "zipped.pt", tmp_path / "bare.pt"
    archive(zipped, content)
    numbers = [pickle.dumps(n, protocol=2) for n in (0x1950A86A20F9469CFC6C, 1001, {})]
    bare.write_bytes(b"".join(numbers) + content)
    for path in (zipped, bare):
        with pytest.raises((UnsafeCheckpoint, CorruptState), match=path.name):
            read_fairseq(path)
    assert not marker.exists()


def test_settings_are_read_without_a_look_at_their_class(tmp_path: Path) -> None:
    args = argparse.Namespace(encoder_layers=2)
    vars(args)["__class__"] = "Unknown"
    vars(args)["__dict__"] = {"encoder_layers": 9}
    torch.save(state(args=args), tmp_path / "model.pt")
    assert read_fairseq(tmp_path / "model.pt").model["encoder_layers"] == 2


def test_an_archive_that_grows_is_refused_before_it_does(tmp_path: Path) -> None:
    content = pickle.dumps({"model": {}, "args": None, "x": "0" * (1 << 27)}, protocol=2)
    path = tmp_path / "model.pt"
    archive(path, content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CorruptState, match="compressed"):
        read_fairseq(path)


def test_other_archives_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CorruptState, match=r"model\.pt"):
        read_fairseq(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises((CorruptState, UnsafeCheckpoint), match=r"model\.pt"):
        read_fairseq(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80", b"\0" * 99, b"{}"])
def test_other_files_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CorruptState, match=r"model\.pt"):
        read_fairseq(tmp_path / "model.pt")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(ModelNotFound, match="no checkpoint"):
            read_fairseq(path)


def good(zipped: bool) -> bytes:
    content = io.BytesIO()
    torch.save(state(), content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_named(zipped: bool, tmp_path: Path) -> None:
    whole, path = good(zipped), tmp_path / "model.pt"
    for length in range(0, len(whole) - 1, 1 + len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(LipogramError, match=r"model\.pt"):
            read_fairseq(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bits_load_or_raise_ours(zipped: bool, tmp_path: Path) -> None:
    whole, path, rng = good(zipped), tmp_path / "model.pt", random.Random(1)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        with suppress(LipogramError):
            read_fairseq(path)
