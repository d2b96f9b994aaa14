"""Distances between distributions, against plain float64 formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from psfuture.divergences import RANGES, TOP, check_threshold, divergence
from psfuture.policies import PsFuture

SYMMETRIC = ("cosine", "js", "tv", "l2", "agree", "topk_cosine")
BOUNDED = ("cosine", "js", "tv", "agree", "topk_cosine")


def _cosine(p, q):
    return 1 - p @ q / math.sqrt((p @ p) * (q @ q))


def _relative(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def _js(p, q):
    middle = (p + q) / 2
    return (_relative(p, middle) + _relative(q, middle)) / 2 / math.log(2)


def _topk(p, q):
    def of(x):
        return x >= np.sort(x)[-min(TOP, len(x))]

    kept = of(p) | of(q)
    return _cosine(p * kept, q * kept)


ORACLES = {
    "cosine": _cosine,
    "js": _js,
    "kl": lambda p, q: _relative(p, np.maximum(q, 1e-12)),
    "tv": lambda p, q: abs(p - q).sum() / 2,
    "l2": lambda p, q: math.sqrt(((p - q) ** 2).sum()),
    "agree": lambda p, q: float(p.argmax() != q.argmax()),
    "topk_cosine": _topk,
}


def distributions(seed, *, rows=5, v=40, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(rows, v, generator=generator)).softmax(-1)


seeds = st.integers(0, 10**6)
scales = st.floats(0.01, 20)
names = pytest.mark.parametrize("name", RANGES)


def test_every_divergence_has_an_oracle():
    assert set(ORACLES) == set(RANGES)


@names
@given(one=seeds, other=seeds, scale=scales)
def test_it_is_what_float64_says(name, one, other, scale):
    p, q = distributions(one, scale=scale), distributions(other, scale=scale)
    found = divergence(name)(p, q)
    assert found.shape == (5,)
    wanted = [ORACLES[name](*map(np.double, rows)) for rows in zip(p, q, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6, rel=1e-5)


@names
@given(one=seeds, scale=scales)
def test_equal_distributions_are_not_apart(name, one, scale):
    p = distributions(one, scale=scale)
    assert divergence(name)(p, p.clone()).tolist() == [0.0] * 5


@pytest.mark.parametrize("name", SYMMETRIC)
@given(one=seeds, other=seeds)
def test_it_is_symmetric(name, one, other):
    p, q = distributions(one), distributions(other)
    assert torch.allclose(divergence(name)(p, q), divergence(name)(q, p), rtol=1e-6, atol=1e-9)


@names
@given(one=seeds, other=seeds, scale=st.floats(0.1, 200))
def test_it_stays_in_its_range(name, one, other, scale):
    found = divergence(name)(distributions(one, scale=scale), distributions(other, scale=scale))
    assert (found >= 0).all()
    assert (found <= RANGES[name][1] + 1e-6).all()


@pytest.mark.parametrize("name", [*BOUNDED, "l2"])
def test_distributions_without_a_common_token_are_as_far_apart_as_can_be(name):
    p, q = torch.eye(30)[:1], torch.eye(30)[7:8]
    assert divergence(name)(p, q).item() == pytest.approx(RANGES[name][1], abs=1e-6)
    assert divergence("kl")(p, q).item() == pytest.approx(12 * math.log(10), rel=1e-6)


@pytest.mark.parametrize("far", [1e-3, 1e-4, 1e-5, 1e-6])
def test_cosine_keeps_its_digits_where_both_are_sure_of_the_same_token(far):
    p = torch.tensor([[1 - far, far, 0.0]])
    q = torch.tensor([[1 - far, 0.0, far]])
    wanted = _cosine(p[0].double().numpy(), q[0].double().numpy())
    if wanted > 1e-12:  # below, the oracle itself has no digits
        assert divergence("cosine")(p, q).item() == pytest.approx(wanted, rel=1e-3)
    assert divergence("cosine")(p, q).item() == pytest.approx(far**2, rel=3 * far + 1e-5)


def test_topk_looks_at_the_largest_of_either_alone():
    p = torch.full((1, 5000), 1e-5)
    q = p.clone()
    p[0, :TOP], q[0, :TOP] = 0.02, 0.02
    p[0, 4000:4500], q[0, 4500:] = 2e-5, 2e-5  # a tail that differs
    assert divergence("topk_cosine")(p, q).item() == pytest.approx(0, abs=1e-9)
    assert divergence("cosine")(p, q).item() > 1e-6


def test_a_small_vocabulary_has_fewer_than_ten():
    p, q = distributions(1, v=3), distributions(2, v=3)
    assert torch.equal(divergence("topk_cosine")(p, q), divergence("cosine")(p, q))


@names
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_one_number_a_row_whatever_the_other_rows(name, rows):
    p, q = distributions(3, rows=7)[:rows], distributions(4, rows=7)[:rows]
    found = divergence(name)(p, q)
    assert found.shape == (rows,)
    assert found.dtype == torch.float32
    alone = [divergence(name)(p[i : i + 1], q[i : i + 1]).item() for i in range(rows)]
    assert found.tolist() == pytest.approx(alone, abs=1e-7)


def test_a_function_is_a_divergence():
    def mine(p, q):
        return (p - q).abs().amax(-1)

    assert divergence(mine) is mine
    check_threshold(mine, 1e9)
    assert PsFuture(5.0, divergence=mine).divergence is mine


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(InvalidSetting, match=r"cosin'.*cosine, js, kl, tv, l2, agree, topk_cosine"):
        divergence("cosin")
    with pytest.raises(InvalidSetting, match="topk_cosine"):
        PsFuture(divergence="nothing")


@names
def test_a_threshold_reaches_to_the_largest_value(name):
    highest = RANGES[name][1]
    for good in (-math.inf, -1.0, 0.0, min(highest, 50.0)):
        check_threshold(name, good)
    for bad in (math.nan, highest * 1.01):
        if not bad <= highest:
            with pytest.raises(InvalidSetting, match=f"{bad}.*{name}"):
                check_threshold(name, bad)
            with pytest.raises(InvalidSetting, match=name):
                PsFuture(bad, divergence=name)
