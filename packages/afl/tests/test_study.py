import json

import numpy as np
import pytest
from typer.testing import CliRunner

from afl import wire
from afl.cli import app
from afl.client_folds import leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import TooFewClients
from afl.head import LinearHead
from afl.study import Life, live, split_rows
from lipogram.analytic.datasets import digits
from lipogram.errors import InvalidSetting, NotSeen

X, y = digits()


def afl(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("split", ["dirichlet", "shards", "iid"])
def test_the_head_is_that_of_the_rows_that_are_left(split, dtype):
    parts = split_rows(y, 30, split, shards=2)
    life = Life(drop_out=0.2, late=0.2, leave=0.1, seed=3)
    lived = live(X / 3, y, parts, life, gamma=1.0, dtype=dtype)  # not exact in float32
    busy = [n for n, part in enumerate(parts) if len(part)]
    assert lived.dropped == round(0.2 * len(busy))
    assert len(lived.done.federation.clients) == len(busy) - lived.dropped - lived.left
    assert lived.rows == lived.done.federation.n_rows
    assert lived.off_pooled < (1e-10 if dtype == "float64" else 1e-2)
    added = [e.client for e in lived.done.federation.ledger.entries if e.action == "add"]
    assert added[: -lived.late] == sorted(added[: -lived.late])
    assert added != sorted(added)  # those who are late come last
    actions = [entry.action for entry in lived.done.federation.ledger.entries]
    assert actions.count("remove") == lived.left > 0


def test_gamma_is_chosen_by_clients_that_stay():
    parts = split_rows(y, 12, "iid")
    lived = live(X, y, parts, Life(), gamma="clients")
    own = {f"client-{n:04d}": ClientStats.compute(X[p], y[p]) for n, p in enumerate(parts)}
    assert lived.done.head.gamma == leave_clients_out(own).best


@pytest.mark.parametrize("wrong", [{"late": -0.1}, {"leave": 1.1}, {"drop_out": 0.6, "late": 0.6}])
def test_impossible_lives_are_refused(wrong):
    with pytest.raises(InvalidSetting):
        Life(**wrong)


def test_a_federation_that_everybody_left_is_refused():
    with pytest.raises(TooFewClients, match="nobody is left"):
        live(X, y, split_rows(y, 4, "iid"), Life(drop_out=1.0))
    with pytest.raises(InvalidSetting):
        split_rows(y, 4, "odd")


def test_the_command_prints_what_happened():
    words = ["simulate", "digits", "--clients", 40, "--alpha", 0.05, "--drop-out", 0.1]
    done = afl(*words, "--late", 0.1, "--leave", 0.1, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["largest difference from the pooled head"] < 1e-10
    assert told["predictions that differ from the pooled head's"] == 0
    assert told["test rows"] == 360
    assert afl(*words, "--json").stdout != done.stdout
    assert isinstance(afl("simulate", "--gamma", "odd").exception, InvalidSetting)
    assert isinstance(afl("simulate", "--split", "odd").exception, InvalidSetting)
    assert isinstance(afl("simulate", "--clients", 0).exception, InvalidSetting)
    assert isinstance(afl("simulate", "gone.npz").exception, FileNotFoundError)


@pytest.fixture
def files(tmp_path):
    made = []
    for number, part in enumerate(np.array_split(np.argsort(y % 7), 4)):
        path = tmp_path / f"c{number}.st"
        wire.save(ClientStats.compute(X[part], y[part]), path, client=f"c{number}")
        made.append(path)
    assert afl("merge", *made, "-o", tmp_path / "sum.st").exit_code == 0
    return made


def test_gamma_by_clients_takes_the_very_statistics_of_the_sum(files, tmp_path):
    total, out = tmp_path / "sum.st", tmp_path / "head.st"
    given = [word for path in files for word in ("--with", path)]
    done = afl("solve", total, "-o", out, "--gamma", "clients", *given)
    assert done.exit_code == 0, done.output
    expected = leave_clients_out({p.stem: wire.load(p).stats for p in files}).best
    assert LinearHead.load(out).gamma == expected
    missing = afl("solve", total, "-o", out, "--gamma", "clients", *given[:-2])
    assert isinstance(missing.exception, NotSeen)
    assert "misses 1" in str(missing.exception)
    for words in (["--gamma", "clients"], ["--gamma", "1", *given]):
        assert isinstance(afl("solve", total, "-o", out, *words).exception, InvalidSetting)


def test_the_leverage_of_files_is_shown(files):
    done = afl("leverage", *files, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert sorted(each["client"] for each in told) == ["c0", "c1", "c2", "c3"]
    assert sum(each["share_of_rows"] for each in told) == pytest.approx(1)
    assert afl("leverage", *files).exit_code == 0
    assert "twice" in str(afl("leverage", files[0], files[0]).exception)
