import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from afl.byte_planes import join_bytes, split_bytes
from afl.errors import RejectedUpload

BITS = {torch.float64: np.uint64, torch.float32: np.uint32, torch.bfloat16: np.uint16}


@pytest.mark.parametrize("dtype", BITS)
@given(data=st.data())
def test_not_a_bit_is_lost(dtype, data):
    """Any bits: NaN with payloads, infinities, subnormal numbers and both zeros are among them."""
    words = data.draw(arrays(BITS[dtype], st.integers(0, 40)))
    repeated = np.repeat(words, data.draw(st.sampled_from([1, 50])))
    signed = repeated.view(f"i{repeated.itemsize}")
    numbers = torch.from_numpy(signed).view(dtype)
    packed, lengths = split_bytes(numbers)
    assert len(lengths) == repeated.itemsize
    back = join_bytes(packed, lengths, dtype, len(numbers))
    assert back.dtype == dtype
    assert np.array_equal(back.view(torch.from_numpy(signed).dtype).numpy(), signed)


def test_planes_go_from_the_highest_byte_to_the_lowest():
    """0x3FF0… is 1.0 in float64, so the layout is IEEE's and not this machine's."""
    numbers = torch.tensor([1.0, -2.0], dtype=torch.float64)
    packed, lengths = split_bytes(numbers)
    assert lengths == [2] * 8
    assert packed.tolist() == [0x3F, 0xC0, 0xF0, 0x00] + [0] * 12


def test_only_planes_that_shrink_by_an_eighth_are_deflated():
    rng = np.random.default_rng(0)
    packed, lengths = split_bytes(torch.from_numpy(rng.standard_normal(10_000)))
    assert lengths[0] < 3000
    assert lengths[1] < 8750
    assert lengths[2:] == [10_000] * 6
    assert len(packed) == sum(lengths)
    for values, shorter in ((150, False), (64, True)):  # 7.2 bits of 8, 6 bits of 8
        words = rng.integers(0, 2**56, 10_000) * 256 + rng.integers(0, values, 10_000)
        _, lengths = split_bytes(torch.from_numpy(words).view(torch.float64))
        assert (lengths[-1] < 10_000) == shorter
    _, zeros = split_bytes(torch.zeros(10_000, dtype=torch.float64))
    assert max(zeros) < 100


def deflated(size, level=9):
    return torch.frombuffer(bytearray(zlib.compress(bytes(size), level)), dtype=torch.uint8)


def test_no_plane_is_inflated_beyond_its_numbers(monkeypatch):
    packed, lengths = split_bytes(torch.ones(1000, dtype=torch.float64))
    bomb = deflated(10**8)
    assert len(bomb) < 10**5
    asked, inflater = [], zlib.decompressobj()

    class Watched:
        def decompress(self, data, most):
            asked.append(most)
            return inflater.decompress(data, most)

    with pytest.raises(RejectedUpload):  # longer than a raw plane of these numbers
        join_bytes(torch.cat([bomb, packed[lengths[0] :]]), [len(bomb), *lengths[1:]], *ONES)
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    small = deflated(500_000)
    with pytest.raises(RejectedUpload):
        join_bytes(torch.cat([small, packed[lengths[0] :]]), [len(small), *lengths[1:]], *ONES)
    assert asked == [1001]


ONES = torch.float64, 1000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed, lengths: (packed[:-1], lengths),
        lambda packed, lengths: (packed[:-1], [*lengths[:-1], lengths[-1] - 1]),
        lambda packed, lengths: (torch.cat([packed, packed[:1]]), lengths),
        lambda packed, lengths: (torch.cat([packed, packed[:1]]), [*lengths[:-1], lengths[-1] + 1]),
        lambda packed, lengths: (packed.flip(0), lengths),
        lambda packed, lengths: (packed, lengths[:-1]),
        lambda packed, lengths: (packed, [*lengths, 0]),
        lambda packed, lengths: (packed, [-1, lengths[0] + lengths[1] + 1, *lengths[2:]]),
        lambda packed, lengths: (packed, [float(n) for n in lengths]),
        lambda packed, lengths: (packed, [2**62, *lengths[1:]]),
        lambda packed, lengths: (packed.to(torch.int64), lengths),
        lambda packed, lengths: (packed.reshape(1, -1), lengths),
        lambda packed, lengths: (torch.cat([deflated(999), packed[lengths[0] :]]), None),
        lambda packed, lengths: (torch.cat([deflated(1001), packed[lengths[0] :]]), None),
        lambda packed, lengths: (torch.cat([deflated(1000, 0), packed[lengths[0] :]]), None),
    ],
)
def test_damaged_planes_are_refused(spoil):
    packed, lengths = split_bytes(torch.ones(*ONES[1:], dtype=ONES[0]))
    assert join_bytes(packed, lengths, *ONES).tolist() == [1.0] * 1000
    data, told = spoil(packed, lengths)
    told = [len(data) - sum(lengths[1:]), *lengths[1:]] if told is None else told
    with pytest.raises(RejectedUpload):
        join_bytes(data, told, *ONES)


def test_only_bytes_are_taken_for_bytes():
    numbers = torch.from_numpy(np.random.default_rng(0).standard_normal(8))
    packed, lengths = split_bytes(numbers)
    assert lengths == [8] * 8
    with pytest.raises(RejectedUpload):
        join_bytes(packed.to(torch.int16), lengths, torch.float64, 8)
