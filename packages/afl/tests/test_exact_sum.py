from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afl.exact_sum import ExactSum
from lipogram.errors import InvalidFeatures

numbers = st.floats(-(2.0**55), 2.0**55, allow_nan=False).filter(lambda x: x == 0 or abs(x) >= 1)


@given(st.lists(numbers, min_size=1, max_size=30))
def test_the_sum_is_the_rational_one_rounded_once(values):
    held = ExactSum(1)
    for value in values:
        held.add(np.array([value]))
    exact = sum(map(Fraction, values), Fraction(0))
    assert held.value()[0] == pytest.approx(float(exact), rel=2.0**-52, abs=2.0**-62)
    inside = Fraction(int(held.whole[0])) + Fraction(int(held.fraction[0]), 2**62)
    assert inside == exact


@given(st.lists(st.floats(-1e15, 1e15, allow_nan=False), min_size=2, max_size=20), st.randoms())
def test_order_and_removal_leave_no_trace(values, random):
    first, second = ExactSum(1), ExactSum(1)
    for value in values:
        first.add(np.array([value]))
    shuffled = values.copy()
    random.shuffle(shuffled)
    for value in [*shuffled, *values]:
        second.add(np.array([value]))
    for value in shuffled:
        second.subtract(np.array([value]))
    assert first.whole[0] == second.whole[0]
    assert first.fraction[0] == second.fraction[0]


def test_tiny_and_negative_numbers_keep_their_digits():
    values = np.array([-1e-15, 1e-15, -3.5, -(2.0**40) - 2.0**-12, 0.0, 2.0**60])
    assert ExactSum(6).add(values).value() == pytest.approx(values, rel=1e-14, abs=2.0**-53)
    assert ExactSum(6).add(values).subtract(values).value().tolist() == [0.0] * 6


def test_long_vectors_go_in_blocks():
    values = np.random.default_rng(0).standard_normal(20_001)
    values = np.round(values, 6)
    assert ExactSum(20_001).add(values).value() == pytest.approx(values, rel=1e-12, abs=2.0**-53)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**61, -(2.0**61)])
def test_what_does_not_fit_is_refused_and_changes_nothing(bad):
    held = ExactSum(2).add(np.array([1.5, 2.5]))
    with pytest.raises(InvalidFeatures, match="finite and below"):
        held.add(np.array([1.0, bad]))
    assert held.value().tolist() == [1.5, 2.5]


def test_a_total_that_would_overflow_is_refused():
    held = ExactSum(1).add(np.array([2.0**60])).add(np.array([2.0**60])).add(np.array([2.0**60]))
    with pytest.raises(InvalidFeatures, match="2\\^62"):
        held.add(np.array([2.0**60]))
    with pytest.raises(InvalidFeatures, match=r"\(2,\)"):
        held.add(np.zeros(2))
