import json
import math
import multiprocessing
import os
import stat

import pytest

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from rewardds.accounting import BoundedRelease, Release, epsilon
from rewardds.errors import BudgetSpent
from rewardds.ledger import PrivacyLedger

RUN = Release(0.8, 0.02, 150)
DELTA = 1e-5


@pytest.fixture
def ledger(tmp_path):
    return PrivacyLedger(tmp_path / "state" / "ledger.jsonl")


def test_all_runs_on_a_set_compose_and_others_do_not(ledger):
    ledger.begin("set", "first", RUN)
    ledger.begin("set", "second", Release(1.1, 0.05, 60))
    ledger.begin("set", "choice", BoundedRelease(0.2))
    ledger.begin("another", "first", RUN)
    assert ledger.releases("set") == [RUN, Release(1.1, 0.05, 60), BoundedRelease(0.2)]
    assert ledger.epsilon("set", DELTA) == epsilon(ledger.releases("set"), DELTA)
    assert ledger.epsilon("another", DELTA) == epsilon([RUN], DELTA)
    assert ledger.epsilon("unknown", DELTA) == 0.0
    assert [row.run for row in ledger.rows()] == ["first", "second", "choice", "first"]


def test_a_run_counts_in_full_until_it_is_over(ledger):
    row = ledger.begin("set", "trial", RUN)
    assert not row.settled
    assert ledger.epsilon("set", DELTA) == epsilon([RUN], DELTA)  # also if it fails or is killed
    settled = ledger.settle("set", "trial", 20)
    assert settled.settled
    assert ledger.releases("set") == [Release(0.8, 0.02, 20)]
    ledger.begin("set", "longer", RUN)
    ledger.settle("set", "longer", 400)
    assert ledger.releases("set")[1].steps == 400


def test_a_run_that_is_taken_up_again_counts_once(ledger):
    row = ledger.begin("set", "run", RUN)
    held = ledger.path.read_bytes()
    assert ledger.begin("set", "run", RUN) == row
    assert ledger.path.read_bytes() == held
    with pytest.raises(RunMismatch, match="another name"):
        ledger.begin("set", "run", Release(0.9, 0.02, 150))
    ledger.settle("set", "run", 150)
    held = ledger.path.read_bytes()
    assert ledger.settle("set", "run", 150).settled
    for call in (
        lambda: ledger.begin("set", "run", RUN),
        lambda: ledger.settle("set", "run", 10),
        lambda: ledger.settle("set", "other", 10),
    ):
        with pytest.raises(RunMismatch):
            call()
    assert ledger.path.read_bytes() == held


def test_a_budget_is_kept(tmp_path):
    limit = epsilon([RUN, RUN], DELTA)
    ledger = PrivacyLedger(tmp_path / "ledger", (limit, DELTA))
    ledger.begin("set", "one", RUN)
    ledger.begin("set", "two", RUN)  # to the last digit
    held = ledger.path.read_bytes()
    with pytest.raises(BudgetSpent, match="2 runs have spent"):
        ledger.begin("set", "three", Release(5.0, 0.02, 10))
    with pytest.raises(BudgetSpent, match="inf"):
        ledger.begin("set", "four", Release(0.0, 0.02, 10))
    assert ledger.path.read_bytes() == held
    ledger.begin("another", "one", RUN)
    ledger.settle("set", "two", 0)
    ledger.begin("set", "three", Release(5.0, 0.02, 10))


def test_it_is_on_disk_and_for_the_user_alone(ledger):
    ledger.begin("set", "run", RUN)
    assert PrivacyLedger(ledger.path).rows() == ledger.rows()
    if os.name == "posix":
        assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
        ledger.path.chmod(0o644)
        with pytest.raises(InvalidSetting, match="chmod 600"):
            PrivacyLedger(ledger.path)


def test_a_line_that_is_changed_moved_or_missing_is_found(ledger):
    for name in ("a", "b", "c"):
        ledger.begin("set", name, RUN)
    ledger.settle("set", "b", 3)
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    weaker = lines[1].replace(b'"steps": 150', b'"steps": 15')
    assert weaker != lines[1]
    broken = {
        "changed": [lines[0], weaker, *lines[2:]],
        "missing": [lines[0], *lines[2:]],
        "first missing": lines[1:],
        "moved": [lines[1], lines[0], *lines[2:]],
        "twice": [*lines, lines[3]],
        "no JSON": [*lines, b"{\n"],
        "no object": [*lines, b"[]\n"],
        "nested": [*lines, b"[" * 100_000 + b"\n"],
    }
    for name, content in broken.items():
        ledger.path.write_bytes(b"".join(content))
        with pytest.raises(CorruptState, match="line"):
            PrivacyLedger(ledger.path)
        with pytest.raises(CorruptState):
            ledger.begin("set", "d", RUN)
        assert ledger.path.read_bytes() == b"".join(content), name


def test_a_well_chained_line_that_says_nonsense_is_found(ledger):
    import hashlib

    ledger.begin("set", "a", RUN)
    held = ledger.path.read_bytes()
    first = json.loads(held)
    follows = first | {"previous": hashlib.sha256(held[:-1]).hexdigest()}
    wrong = [
        follows,  # begins twice
        follows | {"run": "b", "begins": first["begins"] | {"sigma": -1}},
        follows | {"run": "b", "begins": first["begins"] | {"mechanism": "laplace"}},
        follows | {"run": 3},
        {k: v for k, v in follows.items() if k != "begins"} | {"took": -1},
        {k: v for k, v in follows.items() if k != "begins"} | {"took": 1, "run": "b"},
    ]
    for content in wrong:
        ledger.path.write_bytes(held + json.dumps(content).encode() + b"\n")
        with pytest.raises(CorruptState, match="line 2"):
            PrivacyLedger(ledger.path)


def test_lines_that_were_cut_from_the_end_change_the_head(ledger):
    assert ledger.head == ""
    ledger.begin("set", "a", RUN)
    head = ledger.head
    ledger.begin("set", "b", RUN)
    assert ledger.head != head
    held = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(held[0])
    assert ledger.head == head


def test_what_a_killed_process_left_of_a_line_was_never_counted_on(ledger):
    ledger.begin("set", "a", RUN)
    whole = ledger.path.read_bytes()
    ledger.begin("set", "b", RUN)
    both = ledger.path.read_bytes()
    for cut in range(len(whole), len(both)):
        ledger.path.write_bytes(both[:cut])
        assert [row.run for row in PrivacyLedger(ledger.path).rows()] == ["a"]
    ledger.begin("set", "c", RUN)  # goes over the rest
    assert [row.run for row in PrivacyLedger(ledger.path).rows()] == ["a", "c"]


def test_it_is_there_before_the_run_may_start(ledger, monkeypatch):
    """A line that could not be brought to the disk counts as a run that may not start."""
    ledger.begin("set", "a", RUN)

    def full(_handle):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.begin("set", "b", RUN)


def _begin(path, name):
    PrivacyLedger(path).begin("set", name, RUN)


def test_processes_share_a_file(ledger):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_begin, args=(ledger.path, f"run {k}")) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(row.run for row in ledger.rows()) == [f"run {k}" for k in range(6)]


@pytest.mark.parametrize("budget", [(0.0, 1e-5), (math.inf, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_a_budget_that_is_none_is_refused(tmp_path, budget):
    with pytest.raises(InvalidSetting):
        PrivacyLedger(tmp_path / "ledger", budget)


def test_names_are_needed_and_steps_are_counts(ledger):
    for names in (("", "run"), ("set", "")):
        with pytest.raises(InvalidSetting, match="name"):
            ledger.begin(*names, RUN)
    assert not ledger.path.exists()
    ledger.begin("set", "run", RUN)
    for steps in (-1, 1.5):
        with pytest.raises(InvalidSetting, match="steps"):
            ledger.settle("set", "run", steps)
