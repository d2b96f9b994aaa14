import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from lipogram.errors import CorruptState, InvalidSetting, NotFinite
from privacyrestore.errors import BankMismatch
from privacyrestore.restoration_bank import RestorationBank, identify, spanned

from .banks import loose_identity, random_bank, tiny, tiny_bank

SITES = [(0, 1), (1, 0), (2, 3)]


def bank_of(n_spans=6, **settings):
    return random_bank(loose_identity(), SITES, n_spans, **settings)


@pytest.fixture
def bank():
    return bank_of(aliases={"amber": ("ambers", "amber glow")}, statement="nothing")


def test_a_saved_bank_comes_back_whole(bank, tmp_path):
    bank.save(tmp_path / "bank")
    for found in (
        RestorationBank.load(tmp_path / "bank", expect_sha256=bank.sha256),
        RestorationBank.from_bytes(bank.to_bytes(), expect_sha256=bank.sha256),
    ):
        assert torch.equal(found.vectors, bank.vectors)
        assert torch.equal(found.basis, bank.basis)
        for name in ("sites", "vocabulary", "groups", "aliases", "model", "rule", "gamma"):
            assert getattr(found, name) == getattr(bank, name)
        assert found.sha256 == bank.sha256


def test_saving_again_replaces_and_leaves_no_rest(bank, tmp_path):
    bank.save(tmp_path)
    other = bank_of(seed=1)
    other.save(tmp_path)
    assert RestorationBank.load(tmp_path).sha256 == other.sha256
    assert len(list(tmp_path.iterdir())) == 3


def test_killed_while_it_saves_one_of_the_two_banks_is_there(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from privacyrestore.restoration_bank import RestorationBank\n"
        "banks = [RestorationBank.from_bytes(Path(p).read_bytes()) for p in sys.argv[2:]]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for bank in banks: bank.save(sys.argv[1])\n"
    )
    banks = [bank_of(seed=seed) for seed in (0, 1)]
    for i, bank in enumerate(banks):
        (tmp_path / f"{i}").write_bytes(bank.to_bytes())
    banks[0].save(tmp_path / "bank")
    command = [sys.executable, "-c", program, tmp_path / "bank", tmp_path / "0", tmp_path / "1"]
    for delay in (0.05, 0.3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = RestorationBank.load(tmp_path / "bank")
        assert found.sha256 in {bank.sha256 for bank in banks}


@given(st.lists(st.integers(0, 5), max_size=5, unique=True), st.integers(0, 1000))
def test_a_signal_is_a_unit_vector_of_the_span(ids, seed):
    bank = bank_of(seed=seed % 7)
    weights = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) + 0.01
    z = bank.signal(ids, weights.tolist())
    assert z.norm() == pytest.approx(1.0 if ids else 0.0, abs=1e-12)
    c = bank.coordinates(z)
    assert c.norm() == pytest.approx(float(z.norm()), abs=1e-5)
    assert torch.allclose(bank.expand(c), z, atol=1e-5)
    assert torch.allclose(z, bank.signal(ids, (4 * weights).tolist()), atol=1e-12)


@given(st.integers(0, 30))
def test_the_basis_is_an_isometry_on_signals(seed):
    bank = bank_of(5, seed=seed % 5)
    draw = torch.Generator().manual_seed(seed)
    pair = [
        bank.signal(torch.randperm(5, generator=draw)[: 1 + seed % 4].tolist()) for _ in range(2)
    ]
    apart = (pair[0] - pair[1]).norm()
    assert (bank.coordinates(pair[0]) - bank.coordinates(pair[1])).norm() == pytest.approx(
        float(apart), abs=1e-5
    )
    assert apart <= bank.diameter + 1e-9


def test_the_diameter_is_attained_where_it_is_named():
    identity = loose_identity(1, 1, 2)
    opposed = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    bank = RestorationBank.build(opposed, [(0, 0)], ["a", "b"], identity)
    assert bank.diameter == 2
    assert (bank.signal([0]) - bank.signal([1])).norm() == 2
    square = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    bank = RestorationBank.build(square, [(0, 0)], ["a", "b"], identity)
    assert bank.diameter == math.sqrt(2)
    assert (bank.signal([0]) - bank.signal([1])).norm() == pytest.approx(math.sqrt(2))
    assert not bank.signal([]).any()


def test_dependent_vectors_span_less():
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, rows[:1] + rows[1:2]])
    assert spanned(rows).shape == (12, 3)


def test_spans_may_share_a_vector(bank):
    shared = replace(bank, groups=(0, 0, 1, 2, 3, 4), vectors=bank.vectors[:5], basis=None)
    assert torch.equal(shared.signal([0]), shared.signal([1]))
    assert not torch.equal(shared.signal([0]), shared.signal([2]))
    assert RestorationBank.from_bytes(shared.to_bytes()).groups == shared.groups


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vectors": torch.zeros(6, 3)}, "G, K, D"),
        ({"vectors": torch.zeros(6, 3, 32)}, "is zero"),
        ({"vectors": torch.full((6, 3, 32), float("nan"))}, "NaN"),
        ({"vectors": torch.ones(6, 3, 31)}, "do not fit"),
        ({"sites": ((0, 1), (0, 1), (2, 3))}, "ascending"),
        ({"sites": ((1, 0), (0, 1), (2, 3))}, "ascending"),
        ({"sites": ((0, 1), (1, 0), (9, 3))}, "4 layers"),
        ({"vocabulary": ("a", "a", "b", "c", "d", "e")}, "none twice"),
        ({"vocabulary": ("a", "", "b", "c", "d", "e")}, "empty"),
        ({"vocabulary": ()}, "at least one"),
        ({"groups": (0, 1, 2, 3, 4)}, "groups must"),
        ({"groups": (0, 0, 2, 3, 4, 5)}, "groups must"),
        ({"groups": (0, 1, 2, 3, 4, 6)}, "groups must"),
        ({"aliases": {"zebra": ("z",)}}, "aliases"),
        ({"rule": "cubic"}, "rule"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": float("inf")}, "gamma"),
        ({"basis": torch.eye(96)[:, :5]}, "not that of"),
        ({"basis": torch.ones(96, 2)}, "orthonormal"),
        ({"basis": torch.eye(95)}, "must be finite"),
        ({"basis": torch.eye(96)}, "not that of"),
    ],
)
def test_parts_that_do_not_fit(bank, change, said):
    change = {"basis": None} | change if "vectors" in change else change
    with pytest.raises((InvalidSetting, NotFinite), match=said):
        replace(bank, **change)


def test_spans_and_weights_that_do_not_fit(bank):
    for ids, weights in (([6], None), ([-1], None), ([0], [0.0]), ([0], [1, 2]), ([0], [math.nan])):
        with pytest.raises(InvalidSetting):
            bank.signal(ids, weights)


def test_another_bank_than_the_pinned_one(bank, tmp_path):
    bank.save(tmp_path)
    with pytest.raises(BankMismatch, match="not 0000"):
        RestorationBank.load(tmp_path, expect_sha256="0" * 64)
    with pytest.raises(BankMismatch):
        RestorationBank.from_bytes(bank.to_bytes(), expect_sha256="0" * 64)


def test_files_that_are_no_bank(bank, tmp_path):
    with pytest.raises(CorruptState, match="manifest"):
        RestorationBank.load(tmp_path / "none")
    bank.save(tmp_path)
    manifest = tmp_path / "manifest.json"
    good = json.loads(manifest.read_text())
    for change in (
        {"gamma": 0.6},
        {"format": 2},
        {"files": {"vectors": "../x", "basis": "y"}},
        {"sites": [[0, 1]]},
        {"vocabulary": 3},
        {"model": {"name": "x"}},
        {"sha256": None},
    ):
        manifest.write_text(json.dumps(good | change))
        with pytest.raises(CorruptState):
            RestorationBank.load(tmp_path)
    for text in ("", "[]", "{", "null"):
        manifest.write_text(text)
        with pytest.raises(CorruptState):
            RestorationBank.load(tmp_path)
    manifest.write_text(json.dumps(good))
    file = tmp_path / good["files"]["vectors"]
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    with pytest.raises(CorruptState):
        RestorationBank.load(tmp_path)
    file.write_bytes(content)
    assert RestorationBank.load(tmp_path).sha256 == bank.sha256


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_never_read_as_a_bank(place, change):
    bank = bank_of(2)
    content = bytearray(bank.to_bytes())
    content[place % len(content)] ^= change
    try:
        found = RestorationBank.from_bytes(bytes(content))
    except CorruptState:
        return
    assert found.sha256 == bank.sha256  # a blank in the header, say


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, save({"vectors": torch.ones(1)})])
def test_bytes_that_are_no_bank(content):
    with pytest.raises(CorruptState, match="no bank"):
        RestorationBank.from_bytes(content)


def test_identity_is_of_the_configuration_alone():
    first, second = identify(tiny(seed=0)), identify(tiny(seed=1))
    assert first == second
    assert identify(tiny(layers=2)).config_sha256 != first.config_sha256
    assert identify(tiny("gpt2")).n_heads == 4
    assert tiny_bank(tiny()).model == first
