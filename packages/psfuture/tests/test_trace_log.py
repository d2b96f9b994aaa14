"""Logs: what is written is read, what was torn is cut off, and what is broken is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.instances import instance_of, trace_of_instance
from psfuture.metrics import latency
from psfuture.trace import Trace
from psfuture.trace_log import TraceLog, read_instances, read_traces

SENTENCES = [
    Trace(("the", "cat"), ("o", "gato"), (1, 2), (5, 6), (1, 2), "RWRW", "o gato", (3.0, 4.5)),
    Trace((), (), (), reference=""),
    Trace(('ß"\\',), ("漢字",), (1,), (7,), (1,), "RW", None),
]
FORMS = {"instances": read_instances, "traces": read_traces}


def core(trace):
    """What instances.log keeps of a trace."""
    return trace.source, trace.words, trace.delays, trace.reference, trace.compute_ms


def simuleval_line(**changes):
    line = {
        "index": 0,
        "prediction": "o gato",
        "delays": [1, 2],
        "elapsed": [0, 0],
        "prediction_length": 2,
        "reference": "o gato\n",
        "source": "the cat",
        "source_length": 2,
    }
    return line | changes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", range(4))
def test_a_log_taken_up_is_the_log_of_one_run(tmp_path, form, stop):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    log = TraceLog(whole, form)
    for at, trace in enumerate(SENTENCES):
        log.append(at, trace)
    for part in (SENTENCES[:stop], SENTENCES):
        log = TraceLog(parts, form)
        for at, trace in enumerate(part):
            if at not in log.held:
                log.append(at, trace)
    assert parts.read_bytes() == whole.read_bytes()


def test_what_is_written_is_read(tmp_path):
    for form, read in FORMS.items():
        log = TraceLog(tmp_path / form, form)
        for at in (2, 0, 1):
            log.append(at, SENTENCES[at])
        found = read(tmp_path / form)
        assert list(found) == [2, 0, 1]
        for at, trace in enumerate(SENTENCES):
            assert found[at] == trace if form == "traces" else core(found[at]) == core(trace)


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_any_byte_a_log_keeps_the_sentences_before(tmp_path, form):
    path = tmp_path / "log"
    log = TraceLog(path, form)
    log.append(0, SENTENCES[0])
    first = path.stat().st_size
    log.append(1, SENTENCES[2])
    content = path.read_bytes()
    for size in range(first, len(content)):
        path.write_bytes(content[:size])
        assert list(FORMS[form](path)) == ([0, 1] if size == len(content) - 1 else [0])
        assert path.stat().st_size == size  # reading mends nothing
        again = TraceLog(path, form)
        if 1 not in again.held:
            again.append(1, SENTENCES[2])
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "[" * 100_000,
        json.dumps(simuleval_line(index=-1)),
        json.dumps(simuleval_line(index="0")),
        json.dumps(simuleval_line(index=7)),
        json.dumps(simuleval_line(source_length=3)),
        json.dumps(simuleval_line(delays=[2, 1])),
        json.dumps(simuleval_line(delays=[1, 3])),
        json.dumps(simuleval_line(delays=3)),
        json.dumps(simuleval_line(prediction=None)),
        json.dumps(simuleval_line(prediction_spm=["▁o"])),
        json.dumps(simuleval_line(reference=4)),
        json.dumps({key: 0 for key in simuleval_line() if key != "delays"}),
    ],
)
def test_a_broken_line_is_named_and_the_file_is_left(tmp_path, line):
    path = tmp_path / "instances.log"
    good = json.dumps(simuleval_line(index=7))
    path.write_text(f"{good}\n{line}\n{good.replace('7', '8', 1)}\n")
    before = path.read_bytes()
    for attempt in (read_instances, TraceLog):
        with pytest.raises(CorruptState, match=r"instances\.log, line 2"):
            attempt(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (simuleval_line(source=["samplerate: 16000"]), "speech"),
        (simuleval_line(prediction="ogato", delays=[1, 1, 2, 2, 2]), "another unit"),
    ],
)
def test_logs_of_another_kind_are_refused(tmp_path, line, message):
    path = tmp_path / "instances.log"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InvalidSetting, match=message):
        read_instances(path)


def test_a_sentence_is_written_once(tmp_path):
    log = TraceLog(tmp_path / "log")
    log.append(3, SENTENCES[0])
    before = log.path.read_bytes()
    with pytest.raises(InvalidSetting, match="sentence 3"):
        log.append(3, SENTENCES[2])
    with pytest.raises(InvalidSetting, match="source unit"):
        log.append(4, Trace(("a", "b"), ("c",), (1,), compute_ms=(1.0,)))
    assert log.path.read_bytes() == before
    assert list(log.held) == [3]
    with pytest.raises(InvalidSetting, match="csv"):
        TraceLog(tmp_path / "other", "csv")
    with pytest.raises(InvalidSetting, match="byte"):
        TraceLog(tmp_path / "other", unit="byte")
    assert not (tmp_path / "other").exists()


def test_pieces_become_words_with_the_delay_of_their_last():
    line = simuleval_line(prediction="o gato", prediction_spm=["▁o", "▁ga", "to"], delays=[1, 1, 2])
    read = trace_of_instance(line)
    assert (read.words, read.delays) == (("o", "gato"), (1, 2))


@given(st.lists(st.floats(0, 5000), min_size=4, max_size=4), st.floats(10, 1000))
def test_emissions_are_delays_and_the_time_of_the_work_in_source_units(compute, pace):
    trace = Trace(tuple("abcd"), tuple("wxyz"), (1, 1, 3, 4), compute_ms=tuple(compute))
    line = instance_of(0, trace, unit_ms=pace)
    assert line["emission_cu"] == line["delays"] == [1, 1, 3, 4]
    assert line["emission_ca"] == [shown / pace for shown in line["elapsed"]]
    aware = latency(trace, computation_aware=True, unit_ms=pace)
    assert aware["StartOffset"] == line["emission_ca"][0]
    assert trace_of_instance(json.loads(json.dumps(line))) == trace


def test_without_a_clock_a_line_says_what_simuleval_says():
    line = instance_of(5, Trace(("a",), ("b", "c"), (1, 1)))
    assert line["elapsed"] == [0, 0]
    assert not {"emission_ca", "compute_ms"} & set(line)
