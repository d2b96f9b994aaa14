import json
import time

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from typer.testing import CliRunner

from afl import wire
from afl.cli import app
from afl.client_folds import leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import ReplayedUpload, RevealsOneClient, TooFewClients
from afl.federation import Federation
from afl.head import LinearHead
from afl.simulation import Costs
from afl.study import Life, held_out_fifth, live, split_rows
from lipogram.analytic.datasets import digits
from lipogram.errors import IncompatibleFeatures, InvalidSetting, NotSeen

X, y = digits()


def afl(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def staying(parts, life):
    dropped, _, left = life.cast(len(parts))
    return [n for n in range(len(parts)) if n not in {*dropped, *left}]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("split", "clip"), [("dirichlet", None), ("shards", 1.0), ("iid", None)])
def test_the_head_is_that_of_the_rows_that_are_left(split, clip, dtype):
    parts = split_rows(y, 30, split, shards=2, alpha=0.02)
    life = Life(drop_out=0.2, late=0.2, leave=0.1, seed=3)
    lived = live(X / 3, y, parts, life, gamma=1.0, clip=clip, dtype=dtype)
    assert (lived.dropped, lived.late, lived.left) == (6, 6, 3)
    kept = np.concatenate([parts[n] for n in staying(parts, life)])
    assert lived.rows == lived.done.federation.n_rows == len(kept)
    assert lived.empty == sum(not len(part) for part in parts)
    rows = X[kept] / 3
    if clip is not None:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True) / clip, 1)
    classes = np.unique(y[kept])
    oracle = Ridge(alpha=1.0, fit_intercept=False, solver="svd")
    oracle.fit(rows, (y[kept][:, None] == classes).astype(float))
    assert lived.done.head.classes == tuple(classes)
    off = np.abs(lived.done.head.weight.numpy().T - oracle.coef_).max()
    most = 1e-10 if dtype == "float64" else 1e-3
    assert off / np.abs(oracle.coef_).max() < most
    assert lived.off_pooled < most


def test_the_ledger_tells_who_came_and_went():
    parts = split_rows(y, 40, "iid")
    life = Life(drop_out=0.1, late=0.25, leave=0.05, seed=1)
    dropped, late, left = life.cast(40)
    assert not {*dropped} & {*late} | {*late} & {*left} | {*left} & {*dropped}
    assert (len(dropped), len(late), len(left)) == (4, 10, 2)
    lived = live(X, y, parts, life)
    told = [(e.action, int(e.client.split("-")[1])) for e in lived.done.federation.ledger.entries]
    early = [n for n in range(40) if n not in {*dropped, *late}]
    assert told[:26] == [("add", n) for n in early]
    assert told[26:36] == [("add", n) for n in sorted(late)]
    assert told[36:] == [("remove", n) for n in left]


def test_those_who_leave_take_their_class_with_them():
    """One client has all rows of a class: without it, nobody is told that class."""
    owner = np.where(y == 7, 0, 1 + np.arange(len(y)) % 5)
    parts = [np.flatnonzero(owner == n) for n in range(6)]
    seed = next(s for s in range(100) if Life(leave=1 / 6, seed=s).cast(6)[2] == [0])
    lived = live(X, y, parts, Life(leave=1 / 6, seed=seed))
    assert 7 not in lived.done.head.classes
    assert (lived.done.head.predict(X) == lived.pooled.predict(X)).all()


def test_what_is_sent_is_counted():
    parts = split_rows(y, 20, "iid")
    plain, left = live(X, y, parts, Life()), live(X, y, parts, Life(leave=0.5))
    sent = [
        len(wire.to_bytes(ClientStats.compute(X[p], y[p]), client="client-0000")) for p in parts
    ]
    assert plain.done.uploaded == sum(sent)
    again = [sent[n] for n in Life(leave=0.5).cast(20)[2]]
    assert left.done.uploaded == sum(sent) + sum(again)
    fewer = live(X, y, parts, Life(drop_out=0.5))
    assert fewer.done.uploaded < 0.6 * plain.done.uploaded
    assert min(plain.done.client_seconds, plain.done.server_seconds) > 0


def test_gamma_is_chosen_by_clients_that_stay():
    parts, life = split_rows(y, 12, "dirichlet"), Life(drop_out=0.1, leave=0.1, seed=2)
    lived = live(X, y, parts, life, gamma="clients")
    stays = staying(parts, life)
    assert len(stays) == 10
    own = {str(n): ClientStats.compute(X[parts[n]], y[parts[n]]) for n in stays}
    total = lived.done.federation.total()
    assert lived.done.head.gamma == pytest.approx(leave_clients_out(total, own).best)
    assert lived.done.head.gamma != live(X, y, parts, life, gamma="gcv").done.head.gamma


def test_statistics_of_clients_are_not_kept_to_choose_gamma(monkeypatch):
    from afl import study

    groups = []
    chosen = study.leave_clients_out
    monkeypatch.setattr(
        study,
        "leave_clients_out",
        lambda total, stats: (groups.append(stats), chosen(total, stats))[1],
    )
    live(X, y, split_rows(y, 300, "iid"), Life(), gamma="clients")
    assert len(groups[0]) == 10
    assert sum(each.n_rows for each in groups[0].values()) == len(y)


@pytest.mark.parametrize(
    "wrong", [{"late": -0.1}, {"leave": 1.1}, {"drop_out": float("nan")}, {"seed": -1}]
)
def test_impossible_lives_are_refused(wrong):
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        Life(**wrong)
    with pytest.raises(InvalidSetting, match="more than all"):
        Life(drop_out=0.6, late=0.6)
    Life(drop_out=0.33, late=0.56, leave=0.11)  # more than 1 in floating point only


def test_a_federation_that_everybody_left_is_refused():
    with pytest.raises(TooFewClients, match="no row is left"):
        live(X, y, split_rows(y, 4, "iid"), Life(drop_out=0.5, leave=0.5))
    with pytest.raises(InvalidSetting):
        split_rows(y, 4, "odd")


@pytest.mark.parametrize("wrong", [0.0, -1.0, "cv"])
def test_a_wrong_gamma_is_refused_before_anything_is_sent(wrong, monkeypatch):
    monkeypatch.setattr(Costs, "deliver", None)
    with pytest.raises(InvalidSetting, match="gamma"):
        live(X, y, split_rows(y, 4, "iid"), Life(), gamma=wrong)


def test_reading_is_the_servers_time(monkeypatch):
    read = wire.from_bytes
    monkeypatch.setattr(wire, "from_bytes", lambda data: (time.sleep(0.4), read(data))[1])
    done = live(X, y, split_rows(y, 3, "iid"), Life()).done
    assert done.server_seconds > 1.2
    assert done.client_seconds < 1.2


def test_a_fifth_of_each_class_is_held_out():
    held = held_out_fifth(y, seed=1)
    assert (np.bincount(y[held]) == np.bincount(y) // 5).all()
    assert (held_out_fifth(y, seed=2) != held).any()
    assert held_out_fifth(np.array(["a"] * 9 + ["b"])).sum() == 1
    with pytest.raises(InvalidSetting, match="five rows"):
        held_out_fifth(np.arange(10))


WORDS = ["simulate", "digits", "--clients", 40, "--alpha", 0.05, "--drop-out", 0.1, "--late", 0.1]


def test_the_command_prints_what_happened(tmp_path):
    done = afl(*WORDS, "--leave", 0.1, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["largest difference from the pooled head"] < 1e-10
    assert told["predictions that differ from the pooled head's"] == 0
    assert told["test rows"] == 355
    assert (told["clients in the sum"], told["dropped out"], told["came late"]) == (32, 4, 4)
    assert told["empty clients"] > 0
    assert told["MB sent"] > 0.1
    again = json.loads(afl(*WORDS, "--leave", 0.1, "--json").stdout)
    changing = ("seconds at clients", "seconds at the server")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in told.items() if k not in changing
    }
    assert json.loads(afl(*WORDS, "--seed", 1, "--json").stdout)["total"] != told["total"]
    assert "test accuracy" in afl(*WORDS).stdout
    np.savez(tmp_path / "test.npz", X=X[:90], y=y[:90])
    np.savez(tmp_path / "train.npz", X=X[90:], y=y[90:])
    given = afl("simulate", tmp_path / "train.npz", "--test", tmp_path / "test.npz", "--json")
    assert json.loads(given.stdout)["test rows"] == 90


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--gamma", "odd"], InvalidSetting),
        (["--gamma", "0"], InvalidSetting),
        (["--split", "odd"], InvalidSetting),
        (["--clients", "0"], InvalidSetting),
        (["--split", "shards", "--shards", "11"], InvalidSetting),
        (["--split", "shards", "--clients", "900"], InvalidSetting),
        (["--alpha", "0"], InvalidSetting),
        (["--late", "2"], InvalidSetting),
        (["--seed", "-1"], InvalidSetting),
        (["--dtype", "int8"], InvalidSetting),
        (["--clip", "0"], InvalidSetting),
        (["--test", "gone.npz"], FileNotFoundError),
    ],
)
def test_what_cannot_be_simulated_is_said(words, error):
    assert isinstance(afl("simulate", "digits", *words).exception, error)


def test_features_of_another_backbone_are_not_tested_on(tmp_path):
    np.savez(tmp_path / "test.npz", X=X[:90], y=y[:90])
    done = afl("simulate", "digits", "--test", tmp_path / "test.npz")
    assert isinstance(done.exception, IncompatibleFeatures)


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
    done = afl("solve", total, "-o", out, "--gamma", "clients", *files)
    assert done.exit_code == 0, done.output
    assert "on 4 clients left out in 4 folds" in done.stderr
    stats = {p.stem: wire.load(p).stats for p in files}
    expected = leave_clients_out(Federation.load(total).total(), stats).best
    assert LinearHead.load(out).gamma == expected
    done = afl("solve", total, "-o", out, "--gamma", "clients", "--intercept", *files[:3])
    assert "on 3 clients" in done.stderr
    stats.pop("c3")
    centred = leave_clients_out(Federation.load(total).total(), stats, fit_intercept=True)
    assert LinearHead.load(out).gamma == centred.best
    assert f"loses {centred.loss.min():.4g} ±" in done.stderr


def test_gamma_by_clients_refuses_what_is_not_in_the_sum(files, tmp_path):
    total, out = tmp_path / "sum.st", tmp_path / "head.st"
    wire.save(ClientStats.compute(X[:50], y[:50]), tmp_path / "other.st", client="other")
    by = ["solve", total, "-o", out, "--gamma", "clients"]
    for words, error in (
        ([*by, tmp_path / "other.st", *files], NotSeen),
        ([*by, files[0], files[0]], ReplayedUpload),
        ([*by, files[0]], TooFewClients),
        ([*by, tmp_path / "gone.st"], FileNotFoundError),
        (by, InvalidSetting),
        ([*by[:-2], *files], InvalidSetting),
        ([*by[:-1], "1", *files], InvalidSetting),
        ([*by, *files, "--epsilon", "1", "--classes", "0,1"], InvalidSetting),
        ([*by, *files, "--class-weight", "balanced"], InvalidSetting),
    ):
        assert isinstance(afl(*words).exception, error), words
        assert not out.exists()


def test_a_private_head_does_not_take_its_gamma_from_clients(tmp_path):
    made = []
    for name, part in (("a", slice(0, 900)), ("b", slice(900, None))):
        made.append(tmp_path / f"{name}.st")
        wire.save(ClientStats.compute(X[part], y[part], clip=1.0), made[-1], client=name)
    total, out = tmp_path / "sum.st", tmp_path / "head.st"
    assert afl("merge", *made, "-o", total).exit_code == 0
    private = ["solve", total, "-o", out, "--epsilon", "1", "--classes", "0,1,2,3,4,5,6,7,8,9"]
    assert afl(*private).exit_code == 0
    refused = afl(*private, "--gamma", "clients", *made)
    assert "itself" in str(refused.exception)


def test_a_look_at_clients_beside_a_cohort_counts_as_a_release(tmp_path):
    """What was looked at is kept, or two looks would differ by one client."""
    parts = np.array_split(np.arange(len(y)), 5)
    stats = [ClientStats.compute(X[part], y[part]) for part in parts]
    federation = Federation()
    federation.add("ward", stats[0], members=["a", "b", "c"])
    for name, each in zip("def", stats[1:4], strict=True):
        federation.add(name, each)
    total, own = federation.save(tmp_path / "sum.st"), tmp_path / "d.st"
    wire.save(stats[1], own, client="d")
    assert afl("leverage", total, own).exit_code == 0
    wire.save(stats[4], tmp_path / "g.st", client="g")
    assert afl("merge", tmp_path / "g.st", "--into", total, "-o", total).exit_code == 0
    assert isinstance(afl("leverage", total, own).exception, RevealsOneClient)
    wire.save(stats[0], tmp_path / "b.st", client="b")
    assert "masked cohort 'ward'" in str(afl("leverage", total, tmp_path / "b.st").exception)


def test_the_leverage_of_files_is_shown(files, tmp_path):
    done = afl("leverage", tmp_path / "sum.st", *files, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["gamma"] == 1.0
    assert sorted(each["client"] for each in told["clients"]) == ["c0", "c1", "c2", "c3"]
    assert sum(each["share_of_rows"] for each in told["clients"]) == pytest.approx(1)
    shown = afl("leverage", tmp_path / "sum.st", *files, "--gamma", "clients")
    assert "4 clients with rows, 0 flagged" in shown.stdout
    assert afl("leverage", tmp_path / "sum.st", files[0], "--gamma", "gcv").exit_code == 0
    for words, error in (
        ([files[0], files[0]], ReplayedUpload),
        ([files[0], "--gamma", "0"], InvalidSetting),
        ([files[0], "--gamma", "clients"], TooFewClients),
        ([tmp_path / "gone.st"], FileNotFoundError),
    ):
        assert isinstance(afl("leverage", tmp_path / "sum.st", *words).exception, error), words
