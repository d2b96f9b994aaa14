import errno
import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.runs import Run

SETTINGS = {"gamma": 100.0, "seeds": (0, 1), "buffer": {"size": 64, "init": None}}


def fields(run):
    return [{k: v for k, v in event.items() if k != "time"} for event in run.events()]


@contextmanager
def full_disk(monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


def test_a_run_holds_its_settings_events_and_summary(tmp_path):
    run = Run.create(tmp_path / "runs" / "first", SETTINGS)
    run.log("task", number=1, accuracy=np.float32(0.5), per_class=np.array([0.25, np.nan]))
    run.log("end")
    run.summary({"accuracy": 0.5})
    again = Run.open(run.folder)
    assert again.config == {"gamma": 100.0, "seeds": [0, 1], "buffer": {"size": 64, "init": None}}
    task = {"event": "task", "number": 1, "accuracy": 0.5, "per_class": [0.25, None]}
    assert fields(again) == [task, {"event": "end"}]
    assert [event["event"] for event in again.events("end")] == ["end"]
    assert again.result == {"accuracy": 0.5}
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "summary.json",
    ]


def test_the_environment_is_told_without_naming_person_or_machine(tmp_path):
    run = Run.create(tmp_path / "run", {"data": Path.home() / "pictures", "out": Path("/data")})
    assert run.config == {"data": "~/pictures", "out": "/data"}
    versions = run.environment["versions"]
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert {"lipogram", "torch"} <= versions.keys()
    assert run.environment["threads"]["torch"] >= 1
    text = (run.folder / "config.json").read_text()
    for private in (platform.node(), str(Path.home()), str(tmp_path), sys.prefix):
        assert private not in text


def test_the_same_settings_reopen_a_run(tmp_path):
    @dataclass(frozen=True)
    class Settings:
        gamma: float = 100.0
        seeds: tuple[int, ...] = (0, 1)

    Run.create(tmp_path, Settings()).log("a")
    run = Run.create(tmp_path, {"seeds": [0, 1], "gamma": 100.0})
    run.log("b")
    assert fields(run) == [{"event": "a"}, {"event": "b"}]


def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path):
    Run.create(tmp_path, SETTINGS).log("a")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = {"gamma": 300.0, "buffer": {"size": 64, "init": None, "scale": 1}}
    with pytest.raises(RunMismatch) as caught:
        Run.create(tmp_path, other)
    message = str(caught.value)
    assert "gamma is 100.0 in the folder, 300.0 asked for" in message
    assert "buffer.scale (not in the folder)" in message
    assert "seeds (only in the folder)" in message
    assert "buffer.size" not in message
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("asked", [True, 1.0, "1", [1], None])
def test_settings_that_python_calls_equal_may_still_differ(tmp_path, asked):
    Run.create(tmp_path, {"budget": 1})
    with pytest.raises(RunMismatch, match="budget is 1 in the folder"):
        Run.create(tmp_path, {"budget": asked})


def test_another_environment_is_no_other_run_but_is_told(tmp_path, monkeypatch):
    Run.create(tmp_path, SETTINGS)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run = Run.create(tmp_path, SETTINGS)
    (event,) = run.events()
    assert event["event"] == "environment"
    assert event["threads"]["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a": {"b": [1, float("nan")]}}, r"config\.a\.b\[1\] is nan"),
        ({"model": object()}, r"config\.model is a object"),
        ([1], "mapping or a dataclass"),
    ],
)
def test_settings_that_json_cannot_hold_are_refused_before_the_folder_is_made(
    tmp_path, settings, message
):
    with pytest.raises(InvalidSetting, match=message):
        Run.create(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_events_that_json_cannot_hold_are_refused_and_leave_the_file_alone(tmp_path):
    run = Run.create(tmp_path, {})
    run.log("a")
    with pytest.raises(InvalidSetting, match="model is a object"):
        run.log("b", model=object())
    with pytest.raises(InvalidSetting, match="time"):
        run.log("b", time=1)
    with pytest.raises(InvalidSetting, match="summary"):
        run.summary({"x": {1, 2}})
    assert fields(run) == [{"event": "a"}]
    assert run.result is None


@given(st.binary(max_size=30).filter(lambda torn: b"\n" not in torn))
def test_a_torn_last_event_is_dropped(tmp_path_factory, torn):
    run = Run.create(tmp_path_factory.mktemp("run"), {})
    run.log("kept", text="line\nbreak \u2028 ü")
    path = run.folder / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [event["event"] for event in Run.open(run.folder).events()] == ["kept"]
    assert path.read_bytes() == whole + torn  # to read is not to repair
    Run.create(run.folder, {}).log("next")
    assert path.read_bytes().startswith(whole)
    assert [event["event"] for event in run.events()] == ["kept", "next"]


def test_a_broken_event_that_is_not_the_last_is_an_error(tmp_path):
    run = Run.create(tmp_path, {})
    run.log("a")
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "b"\n[1]\n')
    with pytest.raises(CorruptState, match=r"metrics\.jsonl, line 2"):
        run.events()
    with pytest.raises(CorruptState, match=r"metrics\.jsonl, line 2"):
        Run.create(tmp_path, {})


def test_an_event_that_the_disk_has_no_room_for_leaves_no_trace(tmp_path, monkeypatch):
    run = Run.create(tmp_path, {})
    run.log("a")

    with full_disk(monkeypatch), pytest.raises(OSError, match="No space"):
        run.log("b")
    run.log("c")
    assert fields(run) == [{"event": "a"}, {"event": "c"}]


def test_a_summary_that_fails_to_be_written_leaves_the_former_one(tmp_path, monkeypatch):
    run = Run.create(tmp_path, {})
    run.summary({"accuracy": 0.5})

    with full_disk(monkeypatch), pytest.raises(OSError, match="No space"):
        run.summary({"accuracy": 0.6})
    assert run.result == {"accuracy": 0.5}
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ('{"schema": 1, "config"', "not JSON"),
        ("[1, 2]", "list"),
        ('{"schema": 9}', "schema 9.*reads 1"),
        ('{"schema": 1}', "lacks"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CorruptState, match=message):
        Run.create(tmp_path, {})


def test_folders_without_a_configuration_are_refused(tmp_path):
    with pytest.raises(CorruptState, match=r"config\.json is missing"):
        Run.open(tmp_path / "nothing")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CorruptState, match=r"no config\.json"):
        Run.create(tmp_path, {})


def test_figures_have_plain_names(tmp_path):
    run = Run.create(tmp_path, {})
    assert run.figure("curves") == tmp_path / "curves.png"
    assert run.figure("curves.svg") == tmp_path / "curves.svg"
    for name in ("../x", "a/b", "", ".hidden", "a\\b", "c:x"):
        with pytest.raises(InvalidSetting, match="figure"):
            run.figure(name)


WORK = """
import sys
from lipogram.runs import Run

run = Run.create(sys.argv[1], {"seed": 0})
done = len(run.events("step"))
for step in range(done, 10**6):
    run.log("step", step=step, padding="x" * (997 * step % 4000))
    run.summary({"steps": step + 1, "padding": "y" * 5000})
    print(step, flush=True)
"""


def test_a_run_killed_at_any_instant_keeps_what_was_reported_and_goes_on(tmp_path):
    folder = tmp_path / "run"
    reported = -1
    for round_ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", WORK, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(20 + 7 * round_):
                reported = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines(keepends=True)
        assert process.returncode == -signal.SIGKILL
        reported = max([reported, *(int(line) for line in rest if line.endswith("\n"))])
        with open(folder / "metrics.jsonl", "ab") as file:
            file.write(b'{"event": "step", "st')
        run = Run.open(folder)
        steps = [event["step"] for event in run.events("step")]
        assert steps == list(range(len(steps)))
        assert len(steps) > reported
        assert run.result["steps"] in (len(steps), len(steps) - 1)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()[:-1]
    assert all(json.loads(line) for line in lines)
