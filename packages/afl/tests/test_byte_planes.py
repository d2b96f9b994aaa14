import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from afl import wire
from afl.byte_planes import join_bytes, split_bytes
from afl.client_stats import ClientStats
from afl.errors import RejectedUpload

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(arrays(np.float64, st.integers(0, 60), elements=FLOATS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_not_a_bit_is_lost(dtype, values):
    numbers = torch.from_numpy(values).to(dtype)
    back = join_bytes(*split_bytes(numbers), dtype, len(numbers))
    assert back.dtype == dtype
    assert back.shape == numbers.shape
    assert not len(values) or torch.equal(back.view(torch.uint8), numbers.view(torch.uint8))


def test_a_message_is_less_than_half_of_the_papers_bytes():
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.standard_normal((400, 256)), 0).astype(np.float32)
    stats = ClientStats.compute(rows, np.arange(400) % 10)
    paper = 8 * (256 * 256 + 256 * 10)
    assert len(wire.to_bytes(stats)) < 0.48 * paper
    assert len(wire.to_bytes(stats, dtype="float32")) < 0.26 * paper


def bomb(size):
    return torch.frombuffer(bytearray(zlib.compress(bytes(size), 9)), dtype=torch.uint8)


def test_no_more_is_inflated_than_the_numbers_need():
    top, low = split_bytes(torch.ones(5, dtype=torch.float64))
    spoiled = [
        (bomb(10**8), low),
        (bomb(4), low),
        (top[:-1], low),
        (torch.cat([top, top]), low),
        (torch.zeros(9, dtype=torch.uint8), low),
        (torch.zeros(0, dtype=torch.uint8), low),
        (top, low[:-1]),
        (top, low.reshape(5, 7)),
        (top.to(torch.int64), low),
        (top, low.to(torch.int64)),
    ]
    tracemalloc.start()
    for part in spoiled:
        with pytest.raises(RejectedUpload):
            join_bytes(*part, torch.float64, 5)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
