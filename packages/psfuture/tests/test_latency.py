"""Every measure against SimulEval's own scorers, and OmniSTEval's for what SimulEval lacks."""

import json
import math
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from psfuture.instances import instance_of, trace_of_instance
from psfuture.latency import MEASURES, Timing
from psfuture.metrics import latency
from psfuture.trace import Trace

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-simuleval/bin/python"
needs_simuleval = pytest.mark.skipif(
    not PYTHON.exists(), reason="no SimulEval beside the workspace: make .venv-simuleval/.ready"
)
LETTERS = "abcdé語 "


def random_trace(rng):
    source = tuple(f"s{at}" for at in range(rng.randint(1, 12)))
    words = tuple(f"w{at}" for at in range(rng.randint(1, 14)))
    delays = tuple(sorted(rng.randint(1, len(source)) for _ in words))
    reference = "".join(rng.choices(LETTERS, k=rng.randint(0, 30)))
    if rng.random() < 0.2:
        delays = (len(source),) * len(words)
    compute = tuple(rng.choice([0.0, 30.0, 390.0, 1500.0]) for _ in source)
    return Trace(source, words, delays, reference=reference, compute_ms=compute)


def case(trace, unit):
    plain = Trace(trace.source, trace.words, trace.delays, reference=trace.reference)
    return {
        "source": " ".join(trace.source),
        "reference": trace.reference,
        "words": trace.words,
        "delays": trace.delays,
        "unit": unit,
        "line": instance_of(0, plain, unit=unit),
        "computed": instance_of(0, trace, unit=unit),
    }


@pytest.fixture(scope="module")
def judged():
    rng = random.Random(7)
    cases = []
    for number in range(500):
        trace, unit = random_trace(rng), "char" if number % 3 == 0 else "word"
        if number % 7 == 0:
            trace = trace.with_reference(None)
        elif unit == "char" and not trace.reference.strip():
            trace = trace.with_reference("a b\n")
        elif number % 5 == 0:
            trace = trace.with_reference(trace.reference + "\n")
        cases.append((trace, unit))
    ran = subprocess.run(
        [PYTHON, Path(__file__).with_name("simuleval_oracle.py")],
        input=json.dumps([case(trace, unit) for trace, unit in cases]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [(*pair, held) for pair, held in zip(cases, json.loads(ran.stdout), strict=True)]


@needs_simuleval
def test_measures_are_simulevals(judged):
    for trace, unit, theirs in judged:
        ours = latency(trace, unit=unit)
        for name, value in theirs["memory"].items():
            assert ours[name] == pytest.approx(value, rel=1e-12, abs=1e-12), (name, trace)


@needs_simuleval
def test_yaal_is_its_authors(judged):
    undefined = 0
    for trace, unit, theirs in judged:
        ours = latency(trace, unit=unit)["YAAL"]
        undefined += theirs["yaal"] is None
        expected = math.nan if theirs["yaal"] is None else theirs["yaal"]
        assert ours == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)
    assert 50 < undefined < 450


@needs_simuleval
def test_omnisteval_reads_when_words_were_shown_from_our_log(judged):
    for trace, unit, theirs in judged:
        ours = latency(trace, unit=unit, computation_aware=True)
        for name, value in theirs["computed"].items():
            assert ours[name] == pytest.approx(value, rel=1e-9)


@needs_simuleval
def test_simuleval_scores_our_log_as_its_own(judged):
    for _, _, theirs in judged:
        for name, value in theirs["log"].items():
            assert value == theirs["memory"][name]


@needs_simuleval
def test_our_line_has_every_key_of_simulevals(judged):
    for trace, unit, theirs in judged:
        plain = Trace(trace.source, trace.words, trace.delays, reference=trace.reference)
        ours = instance_of(0, plain, unit=unit)
        assert {key: ours[key] for key in theirs["line"]} == theirs["line"]
        read = trace_of_instance(theirs["line"], unit=unit)
        if unit == "word":
            assert read == plain
        assert latency(read, unit=unit) == pytest.approx(latency(trace, unit=unit), nan_ok=True)


@st.composite
def timings(draw):
    source = draw(st.integers(1, 9))
    reads = sorted(draw(st.lists(st.integers(1, source), min_size=1, max_size=9)))
    return Timing(reads, reads, source, draw(st.integers(1, 9)))


# Averaging up to the first unit *shown* after the end would leave most of these units out.
@example(
    Timing([1, *[3] * 6, 4], [1, *[3] * 6, 4], 4, 100), [1.0 * (read == 3) for read in range(10)]
)
@given(timings(), st.lists(st.floats(0, 9), min_size=10, max_size=10))
def test_nothing_is_earlier_for_time_that_was_needed(timing, waits):
    later = Timing(
        timing.reads,
        [read + waits[read] for read in timing.reads],
        timing.source,
        timing.target,
    )
    for name, measure in MEASURES.items():
        before, after = measure(timing), measure(later)
        assert math.isnan(before) == math.isnan(after)
        assert not after < before - 1e-9, name


@given(st.integers(1, 12), st.integers(1, 12))
def test_reading_all_first_is_as_late_as_can_be(source, target):
    offline = Timing([source] * target, [source] * target, source, target)
    found = {name: measure(offline) for name, measure in MEASURES.items()}
    assert found["AL"] == found["LAAL"] == found["CW"] == found["StartOffset"] == source
    assert found["AP"] == pytest.approx(1)
    assert found["DAL"] == pytest.approx(source)
    assert found["EndOffset"] == 0
    assert math.isnan(found["YAAL"])


@given(st.integers(1, 6), st.integers(7, 20))
def test_wait_k_lags_by_k(k, length):
    # One target word a source word: STACL's own check of the definition.
    reads = [min(k + at, length) for at in range(length)]
    timing = Timing(reads, reads, length, length)
    for name in ("AL", "LAAL", "YAAL"):
        assert MEASURES[name](timing) == pytest.approx(k)
    assert MEASURES["DAL"](timing) == pytest.approx(k)
