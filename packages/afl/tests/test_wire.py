import json

import numpy as np
import pytest
import safetensors.torch

from afl import wire
from afl.client_stats import ClientStats
from afl.errors import RejectedUpload
from lipogram.analytic.buffer import RandomBuffer

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 8)) + 1
Y = rng.choice(["bus", "car", "tram"], 60)
STATS = ClientStats.compute(X, Y, clip=20.0, space="backbone-1")
MESSAGE = wire.to_bytes(STATS, client="ward 7", round=3)


def rewritten(**changes):
    """The message with another description, sealed again: only the lie itself can be found."""
    size = int.from_bytes(MESSAGE[:8], "little")
    header = json.loads(MESSAGE[8 : 8 + size])
    described = json.loads(header["__metadata__"]["afl"]) | changes
    described.pop("crc32")
    described["crc32"] = wire._checksum(described, safetensors.torch.load(MESSAGE))
    header["__metadata__"]["afl"] = json.dumps(described | changes)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + MESSAGE[8 + size :]


def test_a_description_that_was_sealed_again_is_read():
    assert wire.from_bytes(rewritten(client="ward 8")).client == "ward 8"


def test_a_message_says_all():
    read = wire.from_bytes(MESSAGE)
    assert (read.client, read.round, read.n_bytes) == ("ward 7", 3, len(MESSAGE))
    assert read.digest == STATS.digest == read.stats.digest
    assert (read.stats.clip, read.stats.space) == (20.0, "backbone-1")


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_less_precise_messages_are_smaller_and_say_so(dtype, error):
    message = wire.to_bytes(STATS, dtype=dtype)
    read = wire.from_bytes(message).stats
    assert len(message) < len(MESSAGE)
    assert read.rounding == dtype
    assert np.allclose(read.gram_packed, STATS.gram_packed, rtol=error)


def test_per_class_weighted_and_mapped_sums_travel():
    buffer = RandomBuffer(8, 12, seed=5)
    for stats in (
        ClientStats.compute(X, Y, per_class=True),
        ClientStats.compute(X, Y, feature_map=buffer),
        ClientStats(8).update(X, Y, sample_weight=rng.random(60)),
        ClientStats.compute(X[:0], Y[:0]),
    ):
        read = wire.from_bytes(wire.to_bytes(stats)).stats
        assert read.digest == stats.digest
        assert read.per_class == stats.per_class


@pytest.mark.parametrize(("k", "most"), [(10, 0.5), (100, 0.59)])
def test_a_message_is_shorter_than_the_papers_upload(k, most):
    d = 256
    stats = ClientStats.compute(rng.standard_normal((20 * k, d)), np.arange(20 * k) % k)
    square = d * d + d * k
    assert len(wire.to_bytes(stats)) / (8 * square) < most
    assert len(wire.to_bytes(stats, dtype="float32")) / (4 * square) < most


def test_nobody_sends_next_to_nothing():
    empty = ClientStats.compute(np.zeros((0, 512)), np.zeros(0, dtype=int), classes=range(100))
    assert len(wire.to_bytes(empty)) < 5000


def test_a_bit_that_changed_on_the_way_is_noticed_or_means_nothing():
    sent, noticed = wire.from_bytes(MESSAGE), 0
    for position in range(len(MESSAGE)):
        changed = bytearray(MESSAGE)
        changed[position] ^= 1 << position % 8
        try:
            read = wire.from_bytes(bytes(changed))
        except RejectedUpload:
            noticed += 1
            continue
        assert (read.client, read.round, read.digest) == (sent.client, sent.round, sent.digest)
        assert read.stats.classes == sent.stats.classes
    assert noticed > 0.99 * len(MESSAGE)


def test_sums_that_would_not_fit_are_refused_before_they_are_inflated(monkeypatch):
    """A short message may describe any width: what it needs is asked before memory is taken."""
    wide = ClientStats.compute(np.zeros((0, 400)), np.zeros(0, dtype=int))
    message = wire.to_bytes(wide)
    needed = 8 * 400 * 401 // 2
    assert len(message) < 5000 < needed
    assert wire.from_bytes(message, max_bytes=needed).stats.n_features == 400
    monkeypatch.setattr(wire, "join_bytes", None)
    with pytest.raises(RejectedUpload, match=f"take {needed:,} bytes"):
        wire.from_bytes(message, max_bytes=needed - 1)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, len(MESSAGE) - 1])
def test_a_truncated_message_is_refused(cut):
    with pytest.raises(RejectedUpload):
        wire.from_bytes(MESSAGE[:cut])


def test_an_oversized_message_is_refused():
    with pytest.raises(RejectedUpload, match="at most 100"):
        wire.from_bytes(MESSAGE, max_bytes=100)
    with pytest.raises(RejectedUpload, match="truncated"):
        wire.from_bytes((2**62).to_bytes(8, "little") + b"{}" * 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "lipogram-afl/1"},
        {"planes": {"gram": [36] * 8, "cross": []}},
        {"planes": {"gram": None, "cross": None}},
        {"planes": None},
        {"dtype": "float16"},
        {"dtype": "float32"},
        {"per_class": True},
        {"crc32": None},
        {"classes": ["bus", 1, "tram"]},
        {"classes": ["bus", "bus", "tram"]},
        {"classes": "bus"},
        {"n_features": 9},
        {"n_features": 2**40},
        {"clip": -1.0},
        {"clip": 0.5},
        {"client": "x" * 300},
        {"client": "\x1b[31m"},
        {"round": -1},
        {"round": "3"},
        {"space": None},
        {"feature_map": {"kind": "random", "in_features": 10**9, "out_features": 10**9}},
        {"feature_map": {"kind": "os"}},
    ],
)
def test_a_message_that_was_changed_is_refused(changes):
    with pytest.raises(RejectedUpload):
        wire.from_bytes(rewritten(**changes))


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"not a message at all" * 9])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(RejectedUpload):
        wire.from_bytes(data)


def test_a_file_holds_the_same_bytes(tmp_path):
    path = wire.save(STATS, tmp_path / "c.st", client="ward 7", round=3)
    assert path.read_bytes() == MESSAGE
    assert wire.load(path).digest == STATS.digest
    with pytest.raises(FileNotFoundError, match=r"none\.st"):
        wire.load(tmp_path / "none.st")
    path.write_bytes(MESSAGE[:50])
    with pytest.raises(RejectedUpload, match=r"c\.st"):
        wire.load(path)
