import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import CorruptState
from psfuture.trace import Trace

words = st.lists(st.text(min_size=1, max_size=4), max_size=5).map(tuple)


@given(words, words, st.data(), st.none() | st.text(max_size=9))
def test_json_keeps_a_trace(source, target, data, reference):
    delays = st.integers(0, len(source))
    at = tuple(sorted(data.draw(st.lists(delays, min_size=len(target), max_size=len(target)))))
    trace = Trace(source, target, at, tuple(range(len(at))), at, "RW", reference, (0.5, 2.0))
    assert Trace.from_json(json.loads(json.dumps(trace.as_json()))) == trace


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"source": "ab"},
        {"source": [1]},
        {"delays": [1, 2]},
        {"delays": [2]},
        {"delays": [-1]},
        {"delays": [True]},
        {"delays": [1.0]},
        {"words": ["b", "c"], "delays": [1, 0]},
        {"words": 3},
        {"tokens": [7, 8]},
        {"actions": "RX"},
        {"actions": None},
        {"reference": 3},
        {"compute_ms": [float("nan")]},
        {"compute_ms": [-1.0]},
    ],
)
def test_what_is_no_trace_is_refused(broken):
    whole = Trace(("a",), ("b",), (1,), (5,), (1,), "RW").as_json()
    held = whole | broken if isinstance(broken, dict) and broken else broken
    with pytest.raises(CorruptState):
        Trace.from_json(held)
