"""A simulation's folder, whole and in pieces."""

import json

import pytest

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from psfuture.futures import Fixed, Oracle
from psfuture.metrics import score
from psfuture.policies import Offline, PsFuture, WaitK
from psfuture.simulation import simulate
from psfuture.simulation_run import run_simulation
from psfuture.trace_log import read_instances, read_traces

from .toy_backend import ToyBackend

SOURCES = ["the cat sat on every mat", "", "did not want to leave", " \t ", "every second cat sat"]
REFERENCES = [trace.text + " ." for trace in simulate(ToyBackend(), Offline(), SOURCES)]


@pytest.fixture
def toy():
    return ToyBackend()


def test_a_folder_holds_the_traces_the_log_and_the_scores(toy, tmp_path):
    policy = PsFuture(0.05, future=Fixed("x y"))
    found = run_simulation(tmp_path, toy, policy, SOURCES, REFERENCES)
    traces = simulate(toy, policy, SOURCES, REFERENCES)
    assert found == pytest.approx(score(traces), nan_ok=True)
    assert found["empty"] >= 2
    assert list(read_traces(tmp_path / "trace.jsonl").values()) == traces
    logged = read_instances(tmp_path / "instances.log")
    assert [logged[at].delays for at in sorted(logged)] == [trace.delays for trace in traces]
    assert json.loads((tmp_path / "summary.json").read_text())["headline"]["AL"] == found["AL"]


@pytest.mark.parametrize("lost", ["trace.jsonl", "instances.log", "both"])
def test_it_goes_on_after_the_last_sentence(toy, tmp_path, lost):
    found = run_simulation(tmp_path, toy, WaitK(2), SOURCES, REFERENCES)
    files = {name: (tmp_path / name).read_bytes() for name in ("trace.jsonl", "instances.log")}
    for name, content in files.items():
        if lost in (name, "both"):
            lines = content.splitlines(keepends=True)
            (tmp_path / name).write_bytes(b"".join(lines[:2]) + lines[2][:20])
    toy.asked.clear()
    again = run_simulation(tmp_path, toy, WaitK(2), SOURCES, REFERENCES)
    assert again == pytest.approx(found, nan_ok=True)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert (toy.asked["rows"] > 0) == (lost != "instances.log")


def test_without_a_folder_nothing_is_written(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_simulation(None, toy, WaitK(2), SOURCES, REFERENCES, batch_size=2)
    assert found == pytest.approx(
        run_simulation(tmp_path / "run", toy, WaitK(2), SOURCES, REFERENCES), nan_ok=True
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_timed_sentences_run_alone_and_count_their_computation(toy, tmp_path):
    found = run_simulation(tmp_path, toy, WaitK(2), SOURCES, timed=True)
    plain = run_simulation(None, toy, WaitK(2), SOURCES)
    assert found["AL"] == pytest.approx(plain["AL"])
    assert found["AL_CA"] >= found["AL"]
    assert "AL_CA" not in plain


def test_another_test_set_is_refused(toy, tmp_path):
    run_simulation(tmp_path, toy, WaitK(2), SOURCES)
    for policy, sources in ((WaitK(3), SOURCES), (WaitK(2), SOURCES[:2])):
        with pytest.raises(RunMismatch):
            run_simulation(tmp_path, toy, policy, sources)
    with pytest.raises(InvalidSetting, match="references"):
        run_simulation(tmp_path / "new", toy, WaitK(2), SOURCES, REFERENCES[:2])
    with pytest.raises(InvalidSetting, match="analysis"):
        run_simulation(tmp_path / "new", toy, PsFuture(0.1, Oracle()), SOURCES)
    assert not (tmp_path / "new").exists()
    (tmp_path / "trace.jsonl").write_text("{}\n")
    with pytest.raises(CorruptState, match=r"trace\.jsonl"):
        run_simulation(tmp_path, toy, WaitK(2), SOURCES)
