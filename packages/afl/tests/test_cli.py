import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import pytest

from afl import wire
from afl.cli import main
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.head import LinearHead
from lipogram.analytic.datasets import digits

PRIVATE = "--clip 1 --classes 0,1,2,3,4,5,6,7,8,9 --epsilon 1".split()
COMMAND = Path(sysconfig.get_path("scripts")) / "afl"


def afl(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same entry point in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["afl", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def silos(tmp_path_factory):
    """Three silos with a few classes each, and the rest of digits to test on."""
    folder = tmp_path_factory.mktemp("silos")
    X, y = digits()
    for name, rows in (
        ("north", np.flatnonzero(y[:1200] < 4)),
        ("south", np.flatnonzero((y[:1200] >= 4) & (y[:1200] < 8))),
        ("west", np.flatnonzero(y[:1200] >= 8)),
    ):
        np.savez(folder / f"{name}.npz", X=X[rows], y=y[rows])
    np.savez(folder / "test.npz", X=X[1200:], y=y[1200:])
    return folder


@pytest.fixture(scope="module")
def prepared(silos):
    """A sum, the statistics behind it, and those of a client with one row."""
    wire.save(ClientStats.compute(np.ones((1, 4)), [0]), silos / "one.st", client="one")
    held = np.load(silos / "north.npz")
    stats = ClientStats.compute(held["X"], held["y"])
    wire.save(stats, silos / "c.st", client="c")
    federation = Federation()
    federation.add("c", stats)
    federation.save(silos / "sum.st")
    return {
        "SUM": silos / "sum.st",
        "STATS": silos / "c.st",
        "ONE": silos / "one.st",
        "DATA": silos / "test.npz",
    }


def test_version_is_the_distributions():
    result = afl("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"afl {importlib.metadata.version('lipogram-afl')}"


def test_command_line_loads_nothing_heavy():
    code = "import sys, afl.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"numpy", "torch", "flwr", "sklearn"} & set(result.stdout.split())
    assert "afl.cli" in result.stdout


def test_silos_exchange_files(silos, tmp_path):
    """The whole round by files gives, to the last bit, what the library gives."""
    names = ["north", "south", "west"]
    for name in names:
        done = afl("stats", silos / f"{name}.npz", "-o", tmp_path / f"{name}.st")
        assert done.returncode == 0, done.stderr
    files = [tmp_path / f"{name}.st" for name in names]
    done = afl("merge", *files, "-o", tmp_path / "sum.st")
    assert done.returncode == 0, done.stderr
    assert afl("solve", tmp_path / "sum.st", "-o", tmp_path / "head.st").returncode == 0
    library = Federation()
    for name in names:
        held = np.load(silos / f"{name}.npz")
        library.add(name, ClientStats.compute(held["X"], held["y"]))
    head = LinearHead.load(tmp_path / "head.st")
    assert np.array_equal(head.weight, library.solve(1.0).weight)
    done = afl("eval", tmp_path / "head.st", silos / "test.npz")
    accuracy = float(re.search(r"accuracy (\S+)", done.stdout)[1])
    assert accuracy > 0.85

    left = afl("unlearn", tmp_path / "sum.st", tmp_path / "south.st", "-o", tmp_path / "left.st")
    assert left.returncode == 0, left.stderr
    others = afl("merge", files[0], files[2], "-o", tmp_path / "others.st")
    total = re.search(r"total ([0-9a-f]{64})", left.stdout)[1]
    assert f"total {total}" in others.stdout

    entries = json.loads(afl("ledger", tmp_path / "left.st", "--json").stdout)
    assert [e["action"] for e in entries] == ["add", "add", "add", "remove"]
    assert "south" in afl("ledger", tmp_path / "left.st").stdout
    back = afl("merge", tmp_path / "south.st", "--into", tmp_path / "left.st", "-o", tmp_path / "x")
    assert back.returncode == 1
    assert "round 0 is over" in back.stderr
    assert not (tmp_path / "x").exists()


def test_a_bad_file_leaves_the_sum_as_it_was(silos, tmp_path, inside):
    for name in ("north", "west"):
        assert inside("stats", silos / f"{name}.npz", "-o", tmp_path / f"{name}.st")[0] == 0
    assert inside("merge", tmp_path / "north.st", "-o", tmp_path / "sum.st")[0] == 0
    before = (tmp_path / "sum.st").read_bytes()
    (tmp_path / "bad.st").write_bytes((tmp_path / "west.st").read_bytes()[:-9])
    for files in (["west.st", "bad.st"], ["north.st"], ["none.st"]):
        paths = [tmp_path / name for name in files]
        code, _, said = inside(
            "merge", *paths, "--into", tmp_path / "sum.st", "-o", tmp_path / "sum.st"
        )
        assert code == 1
        assert said.startswith("error: ")
        assert len(said.splitlines()) == 1
        assert (tmp_path / "sum.st").read_bytes() == before


def test_noise_and_private_heads_are_a_few_words_away(silos, tmp_path, inside):
    known = ("--clip", "1", "--epsilon", "8", "--classes", "0,1,2,3,4,5,6,7,8,9")
    for name in ("north", "south", "west"):
        assert inside("stats", silos / f"{name}.npz", "-o", tmp_path / f"{name}.st", *known)[0] == 0
    files = [tmp_path / f"{name}.st" for name in ("north", "south", "west")]
    assert inside("merge", *files, "-o", tmp_path / "noisy.st")[0] == 0
    assert inside("solve", tmp_path / "noisy.st", "-o", tmp_path / "h.st", "--gamma", "30")[0] == 0
    said = inside("eval", tmp_path / "h.st", silos / "test.npz")[1]
    assert float(said.split()[1]) > 0.6
    assert inside("stats", silos / "test.npz", "-o", tmp_path / "t.st", "--clip", "1")[0] == 0
    assert inside("merge", tmp_path / "t.st", "-o", tmp_path / "sum.st")[0] == 0
    private = ("--epsilon", "1", "--classes", known[-1])
    for cost in ("ε 1 ", "ε 1.47 "):
        code, said, _ = inside("solve", tmp_path / "sum.st", "-o", tmp_path / "p.st", *private)
        assert code == 0
        assert cost in said


def test_a_budget_ends_private_heads_and_allows_no_others(silos, tmp_path, inside):
    sent, total, out = tmp_path / "t.st", tmp_path / "sum.st", tmp_path / "h.st"
    known = ("--classes", "0,1,2,3,4,5,6,7,8,9")
    assert inside("stats", silos / "test.npz", "-o", sent, "--clip", "1")[0] == 0
    assert inside("merge", sent, "-o", total, "--budget-epsilon", "2")[0] == 0
    code, said, _ = inside("solve", total, "-o", out, "--epsilon", "1", *known)
    assert code == 0
    assert "a row ε 1 together" in said
    assert "leaves ε 1.66 for one more" in said
    before = total.read_bytes()
    for asked, message in (
        ((), "without noise"),
        (("--epsilon", "1.9", *known), "ε 1.658 at δ 1e-05 is left"),
    ):
        code, _, said = inside("solve", total, "-o", tmp_path / "x.st", *asked)
        assert code == 1
        assert message in said
    assert inside("solve", total, "-o", tmp_path / "no" / "x.st", "--epsilon", "1", *known)[0] == 1
    assert total.read_bytes() == before
    assert not (tmp_path / "x.st").exists()
    entries = json.loads(inside("ledger", total, "--json")[1])
    assert [e["action"] for e in entries] == ["terms", "add", "release"]
    assert "row, ε 1" in " ".join(inside("ledger", total)[1].split())


def test_a_sum_is_locked_from_reading_to_writing(prepared, tmp_path, inside, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def recorded(path):
        seen.append(f"lock {Path(path).name}")
        yield
        seen.append("unlock")

    def told(word, call):
        return lambda *arguments: (seen.append(word), call(*arguments))[1]

    total = tmp_path / "total.st"
    total.write_bytes(prepared["SUM"].read_bytes())
    monkeypatch.setattr("lipogram.files.locked", recorded)
    monkeypatch.setattr(Federation, "load", told("load", Federation.load))
    monkeypatch.setattr(Federation, "save", told("save", Federation.save))
    wire.save(ClientStats.compute(np.eye(64)[:30], [0] * 30), tmp_path / "d.st", client="d")
    for words in (
        ("solve", total, "-o", tmp_path / "h.st"),
        ("merge", tmp_path / "d.st", "--into", total, "-o", total),
        ("unlearn", total, prepared["STATS"]),
    ):
        assert inside(*words)[0] == 0
        assert seen == ["lock total.st", "load", "save", "unlock"]
        seen.clear()


def test_clients_are_hidden_at_the_server_or_by_themselves(silos, tmp_path, inside):
    known = ("--clip", "1", "--classes", "0,1,2,3,4,5,6,7,8,9")
    files = [tmp_path / f"{name}.st" for name in ("north", "south", "west")]
    for file in files:
        rows = silos / f"{file.stem}.npz"
        assert inside("stats", rows, "-o", file, "--clip", "1")[0] == 0
    total, asked = tmp_path / "sum.st", ("--client-bound", "300", "--budget-epsilon", "3")
    assert inside("merge", *files, "-o", total, *asked)[0] == 0
    head = ("-o", tmp_path / "h.st", "--epsilon", "2", *known[2:])
    code, said, _ = inside("solve", total, *head)
    assert code == 0
    assert "a client ε 2 together" in said
    assert Federation.load(total).privacy.budget.unit == "client"
    alone = ("--epsilon", "2", "--unit", "client", "--bound", "300", *known)
    spent = ("--spent", tmp_path / "s.json", "--budget-epsilon", "2")
    mine = ("stats", silos / "north.npz", "-o", tmp_path / "n.st")
    code, said, _ = inside(*mine, *alone, *spent)
    assert code == 0
    assert "cost a client ε 2 at δ 1e-05" in said
    assert wire.load(tmp_path / "n.st").stats.noise["unit"] == "client"
    noted = json.loads((tmp_path / "s.json").read_text())["releases"][0]
    assert (noted["client"], noted["round"], noted["unit"], noted["epsilon"]) == (
        "n",
        0,
        "client",
        2,
    )
    code, _, said = inside(*mine, *alone, "--spent", tmp_path / "s.json", "--round", "1")
    assert code == 1
    assert "nothing is left" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["solve", "SUM", "-o", "OUT", "--gamma", "-1"], 2, "gamma"),
        (["solve", "SUM", "-o", "OUT", "--gamma", "much"], 2, "much"),
        (["solve", "SUM", "-o", "OUT", "--class-weight", "balanced"], 2, "per_class"),
        (["solve", "STATS", "-o", "OUT"], 1, "no Lipogram state"),
        (["eval", "SUM", "DATA"], 1, "no head"),
        (["stats", "nowhere.npz", "-o", "OUT"], 1, "nowhere"),
        (["stats", "DATA", "-o", "OUT", "--dtype", "int8"], 2, "int8"),
        (["stats", "DATA", "-o", "OUT", "--clip", "0"], 2, "clip"),
        (["stats", "DATA", "-o", "OUT", "--epsilon", "1", "--classes", "0,1"], 2, "clip"),
        (["stats", "DATA", "-o", "OUT", "--epsilon", "1", "--clip", "1"], 2, "labels"),
        (["stats", "DATA", "-o", "OUT", "--epsilon", "1", "--clip", "1", "--classes", "a"], 2, "a"),
        (["solve", "SUM", "-o", "OUT", "--epsilon", "1"], 2, "--classes"),
        (["solve", "SUM", "-o", "OUT", "--epsilon", "1", "--classes", "0,1,2,3"], 2, "clip"),
        (["merge", "ONE", "-o", "OUT"], 1, "at least 20"),
        (["merge", "STATS", "-o", "OUT", "--client-bound", "5"], 2, "clip"),
        (["merge", "STATS", "-o", "OUT", "--budget-epsilon", "0"], 2, "epsilon"),
        (
            ["merge", "STATS", "-o", "OUT", "--budget-epsilon", "1", "--budget-delta", "2"],
            2,
            "delt",
        ),
        (["merge", "STATS", "--into", "SUM", "-o", "OUT", "--client-bound", "5"], 2, "bound"),
        (["stats", "DATA", "-o", "OUT", "--unit", "client"], 2, "--epsilon"),
        (["stats", "DATA", "-o", "OUT", "--spent", "OUT"], 2, "--epsilon"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--unit", "client"], 2, "bound"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--bound", "3"], 2, "unit client"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--unit", "all"], 2, "unit"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--budget-epsilon", "3"], 2, "--spent"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--spent", "DATA"], 1, "no count of releases"),
        (["stats", "DATA", "-o", "OUT", *PRIVATE, "--spent", "nowhere/s"], 1, "no folder nowhere"),
    ],
)
def test_bad_input_is_one_line(prepared, tmp_path, inside, arguments, code, message):
    named = prepared | {"OUT": tmp_path / "out.st"}
    ended, _, said = inside(*[named.get(word, word) for word in arguments])
    assert ended == code, said
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "out.st").exists()
