import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from afl import spent_file
from afl.budget import Account, Budget, cost_of
from afl.client_stats import ClientStats
from afl.errors import BudgetSpent
from afl.federation import Federation
from afl.spent_file import read_spent, spend
from lipogram.analytic.datasets import digits
from lipogram.errors import CorruptState, InvalidSetting
from lipogram.gaussian_mechanism import epsilon_of, mu_of

COST = cost_of("row", 1.0, 1e-5, clip=1.0)
KNOWN = "--clip 1 --classes 0,1,2,3,4,5,6,7,8,9 --epsilon 1"


def never():
    raise AssertionError("nothing may be drawn")


def test_releases_add_up_exactly_until_the_budget_refuses(tmp_path):
    path = tmp_path / "spent.json"
    budget = Budget(1.7, 1e-5)
    for number in (1, 2):
        drawn, held = spend(path, COST, lambda n=number: n, budget=budget, note={"round": number})
        assert drawn == number
        expected = epsilon_of(number**0.5 * mu_of(1.0, 1e-5), 1e-5)
        assert held.account.row.epsilon(1e-5) == pytest.approx(expected)
        assert read_spent(path) == held
    before = path.read_bytes()
    with pytest.raises(BudgetSpent, match="left"):
        spend(path, COST, never, budget=budget)
    with pytest.raises(BudgetSpent):  # the file remembers the budget, and the tightest one holds
        spend(path, COST, never)
    with pytest.raises(BudgetSpent):
        spend(path, COST, never, budget=Budget(50.0, 1e-5))
    assert path.read_bytes() == before
    assert [each["round"] for each in read_spent(path).releases] == [1, 2]
    with pytest.raises(InvalidSetting, match="for a row, not a client"):
        spend(path, COST, never, budget=Budget(9.0, 1e-5, "client"))


def test_a_later_budget_may_be_tighter(tmp_path):
    path = tmp_path / "spent.json"
    spend(path, COST, lambda: None)
    assert read_spent(path).budget is None
    spend(path, cost_of("row", 0.1, 1e-5, clip=1.0), lambda: None, budget=Budget(1.1, 1e-5))
    with pytest.raises(BudgetSpent):
        spend(path, COST, never)


def test_a_release_that_cannot_be_drawn_costs_nothing(tmp_path):
    path = tmp_path / "spent.json"
    with pytest.raises(ZeroDivisionError):
        spend(path, COST, lambda: 1 / 0)
    assert not path.exists()
    assert read_spent(path).account == Account()


def test_the_cost_is_on_disk_before_the_release_is_handed_out(tmp_path, monkeypatch):
    path = tmp_path / "spent.json"

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("afl.spent_file.write_atomically", fails)
    with pytest.raises(OSError, match="disk full"):
        spend(path, COST, lambda: "noise")


def test_nobody_else_counts_between_the_look_and_the_writing(tmp_path, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def recorded(path):
        seen.append("lock")
        yield
        seen.append("unlock")

    def told(word, call):
        return lambda *arguments: (seen.append(word), call(*arguments))[1]

    monkeypatch.setattr("afl.spent_file.locked", recorded)
    for name in ("read_spent", "write_atomically"):
        monkeypatch.setattr(f"afl.spent_file.{name}", told(name, getattr(spent_file, name)))
    spend(tmp_path / "spent.json", COST, lambda: seen.append("draw"))
    assert seen == ["lock", "read_spent", "draw", "write_atomically", "unlock"]


@pytest.mark.parametrize("what", ["cost", "dropped", "budget", "format", "text", "list", "nan"])
def test_a_file_that_was_changed_is_refused(tmp_path, what):
    path = tmp_path / "spent.json"
    spend(path, COST, lambda: None, budget=Budget(5.0, 1e-5))
    told = json.loads(path.read_text())
    match what:
        case "cost":
            told["releases"][0]["row_mu"] = 0.0
        case "dropped":
            told["releases"] = []
        case "budget":
            told["budget"]["epsilon"] = 9.0
        case "format":
            told["format"] = "other/1"
        case "text":
            told = "spent"
        case "list":
            told = [told]
        case "nan":
            told["releases"][0]["row_mu"] = float("nan")
    path.write_text(json.dumps(told))
    with pytest.raises(CorruptState, match=r"spent\.json"):
        spend(path, COST, never)
    path.write_bytes(b"\xff\x00")
    with pytest.raises(CorruptState):
        read_spent(path)
    with pytest.raises(InvalidSetting, match="folder"):
        spend(tmp_path, COST, never)


# ---------------------------------------------------------------------- kill -9


def killed(at, *arguments):
    """The command, killed by SIGKILL when it is about to write a file of that name."""
    code = f"""
import os, signal, sys
from pathlib import Path
import lipogram.files, lipogram.analytic.state
def guard(original):
    def write(path, *rest):
        if Path(path).name == {at!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, *rest)
    return write
lipogram.files.write_atomically = guard(lipogram.files.write_atomically)
lipogram.analytic.state.write_state = guard(lipogram.analytic.state.write_state)
from afl.cli import main
sys.argv = ["afl", *{[str(a) for a in arguments]!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def rows(tmp_path):
    X, y = digits()
    np.savez(tmp_path / "rows.npz", X=X[:400], y=y[:400])
    federation = Federation(budget=Budget(2.0, 1e-5))
    federation.add("a", ClientStats.compute(X, y, clip=1.0))
    federation.save(tmp_path / "sum.st")
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_before_the_statistics_are_written_their_cost_is_counted(rows):
    spent, out = rows / "spent.json", rows / "c.st"
    asked = ["stats", rows / "rows.npz", "-o", out, *KNOWN.split(), "--spent", spent]
    killed("c.st", *asked)
    assert len(read_spent(spent).releases) == 1
    assert not out.exists()
    killed("spent.json", *asked)  # and nothing is written that was not counted before
    assert len(read_spent(spent).releases) == 1
    assert not out.exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_before_the_head_is_written_its_cost_is_counted(rows):
    total, out = rows / "sum.st", rows / "head.st"
    asked = ["solve", total, "-o", out, "--epsilon", "1", "--classes", "0,1,2,3,4,5,6,7,8,9"]
    killed("head.st", *asked)
    assert Federation.load(total).spent.epsilon(1e-5) == pytest.approx(1.0)
    assert not out.exists()
    killed("sum.st", *asked)
    assert Federation.load(total).spent.epsilon(1e-5) == pytest.approx(1.0)
    assert not out.exists()


def test_two_commands_at_once_both_count(rows):
    asked = ["-o", "h{}.st", "--epsilon", "0.5", "--classes", "0,1,2,3,4,5,6,7,8,9"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "afl", "solve", "sum.st", *(a.format(n) for a in asked)],
            cwd=rows,
            stdout=subprocess.DEVNULL,
        )
        for n in range(3)
    ]
    assert [each.wait() for each in started] == [0, 0, 0]
    expected = 3**0.5 * mu_of(0.5, 1e-5)
    assert Federation.load(rows / "sum.st").spent.mu == pytest.approx(expected)
