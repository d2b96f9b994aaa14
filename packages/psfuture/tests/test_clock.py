"""The clock of speech and machine, against a walk through time in small steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from psfuture.clock import done_ms, elapsed_ms
from psfuture.trace import Trace

work = st.lists(st.integers(0, 9), min_size=1, max_size=6)


def trace_of(compute):
    source = tuple("s" for _ in compute)
    words = tuple(f"w{at}" for at, _ in enumerate(compute))
    return Trace(source, words, tuple(range(1, len(source) + 1)), compute_ms=tuple(compute))


def walked(compute, pace):
    """When each unit's work ends, by looking at every millisecond."""
    left, ends, now = list(compute), [], 0
    while len(ends) < len(compute):
        at = len(ends)
        arrived = now >= (at + 1) * pace
        if arrived and left[at] == 0:
            ends.append(now)
            continue
        if arrived:
            left[at] -= 1
        now += 1
    return ends


@given(work, st.integers(1, 5))
def test_work_waits_for_its_word_and_for_the_work_before(compute, pace):
    assert done_ms(trace_of(compute), pace)[1:] == walked(compute, pace)


@given(work)
def test_no_work_is_the_pace_of_the_source(compute):
    trace = trace_of([0] * len(compute))
    assert elapsed_ms(trace, 400) == [400 * delay for delay in trace.delays]


@pytest.mark.parametrize("pace", [0, -1, float("nan"), float("inf")])
def test_a_pace_that_is_none_is_refused(pace):
    with pytest.raises(InvalidSetting, match="unit_ms"):
        done_ms(trace_of([1]), pace)


@pytest.mark.parametrize("compute", [(), (1.0,), (1.0, float("nan")), (1.0, -2.0)])
def test_work_that_nobody_measured_is_refused(compute):
    trace = Trace(("a", "b"), ("c",), (2,), compute_ms=compute)
    with pytest.raises(InvalidSetting, match="source unit"):
        done_ms(trace)
