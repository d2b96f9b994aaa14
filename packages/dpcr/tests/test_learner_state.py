"""A learner on disk: what comes back, what is refused, and what a kill at any instant leaves."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dpcr import DPCR, TrainConfig
from lipogram.errors import CorruptState, InvalidLabels, NotSeen, RunMismatch

QUICK = TrainConfig(
    first_epochs=3, epochs=2, first_milestones=(), milestones=(), batch_size=16, checkpoint_every=1
)


def network(width=5):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(width)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, width))


def task(number, names=None):
    rng = np.random.default_rng(number)
    y = np.repeat([2 * number, 2 * number + 1], 12)
    x = rng.normal(size=(24, 6)) + 3 * np.eye(10)[y % 10][:, :6]
    return torch.tensor(x, dtype=torch.float32), y if names is None else np.array(names)[y]


def learnt(tasks=2, names=None, **options):
    made = DPCR(network(), **{"gamma": 0.5, "train": QUICK, **options})
    for t in range(made.tasks, tasks):
        made.fit_task(task(t, names))
    return made


def equal(a, b):
    x = task(0)[0]
    assert a.classes_.tolist() == b.classes_.tolist()
    assert a.predict_proba(x).tobytes() == b.predict_proba(x).tobytes()
    assert torch.equal(a.calibrator.bank.sums, b.calibrator.bank.sums)
    weights = b.network.state_dict()
    assert all(torch.equal(value, weights[n]) for n, value in a.network.state_dict().items())


@pytest.mark.parametrize("names", [None, ["ant", "bee", "cat", "dog", "eel", "fox"]])
@pytest.mark.parametrize("options", [{}, {"cip": "rank", "eps": "auto"}, {"repeat": "merge"}])
def test_what_was_saved_comes_back_and_goes_on_with_the_same_bits(tmp_path, names, options):
    made = learnt(names=names, **options)
    assert made.save(tmp_path / "kept") == tmp_path / "kept"
    back = DPCR.load(tmp_path / "kept", network())
    equal(back, made)
    assert (back.settings(), back.train, back.tasks) == (made.settings(), made.train, 2)
    assert back.reports == made.reports
    for each in (made, back):
        each.fit_task(task(2, names))
    equal(back, made)


def test_a_save_replaces_the_state_before_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    made = learnt(tasks=1)
    made.save(tmp_path)
    made.fit_task(task(1)).as_dict()
    made.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "notes.txt").read_text() == "mine"
    equal(DPCR.load(tmp_path, network()), made)


def test_a_learner_without_a_task_keeps_its_network(tmp_path):
    DPCR(network()).save(tmp_path)
    other = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
    back = DPCR.load(tmp_path, other)
    weights = network().state_dict()
    assert all(torch.equal(weights[name], w) for name, w in back.backbone.state_dict().items())
    with pytest.raises(NotSeen):
        back.predict(task(0)[0])


def test_a_folder_keeps_the_finished_tasks(tmp_path):
    folder = tmp_path / "new" / "folder"
    made = learnt(tasks=2, folder=folder)
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == [
        "calibrator",
        "learner.json",
        "network",
    ]
    again = learnt(tasks=2, folder=folder)
    assert again.tasks == 2
    equal(again, made)
    with pytest.raises(InvalidLabels, match="earlier task"):
        again.fit_task(task(1))
    equal(learnt(tasks=3, folder=folder), learnt(tasks=3))


def stopped(folder, tasks, at):
    """A learner that was interrupted when it told of something."""

    def stop(line):
        if at in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(tasks=tasks, folder=folder, progress=stop)


@pytest.mark.parametrize("at", ["task 2: epoch 2", "task 2: statistics", "task 2: solving"])
def test_the_beginning_of_a_task_is_gone_on_with_only_if_it_is_that_task(tmp_path, at):
    stopped(tmp_path, 2, at)
    made = DPCR(network(), gamma=0.5, train=QUICK, folder=tmp_path)
    x, y = task(1)
    for other, named in (((x, y[::-1].copy()), "data"), ((x + 1, y), "data")):
        with pytest.raises(RunMismatch, match=named):
            made.fit_task(other)
    made.train = TrainConfig(first_epochs=3, epochs=9, batch_size=16, checkpoint_every=1)
    with pytest.raises(RunMismatch, match="epochs is 2 in the folder, 9"):
        made.fit_task((x, y))
    made.train = QUICK
    lines = []
    made.progress = lines.append
    made.fit_task((x, y))
    told = [line for line in lines if "epoch" in line or "statistics" in line]
    left = {"epoch 2": 2, "statistics": 1, "solving": 0}
    assert len(told) == next(n for name, n in left.items() if name in at)
    equal(made, learnt(tasks=2))


def test_other_settings_are_told_apart(kept):
    for options, named in (({"gamma": 7.0}, "gamma is 0.5"), ({"seed": 5}, "seed is 0")):
        with pytest.raises(RunMismatch, match=named):
            learnt(tasks=1, folder=kept, **options)


def test_another_architecture_is_told(kept):
    for other, named in ((network(4), "3.weight"), (nn.Linear(6, 5), "another network")):
        with pytest.raises(CorruptState, match=named):
            DPCR.load(kept, other)


def test_no_learner_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"learner\.json"):
        DPCR.load(tmp_path, network())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with one finished task."""
    learnt(tasks=1, folder=tmp_path_factory.mktemp("finished") / "task")
    return next(tmp_path_factory.getbasetemp().glob("finished*/task"))


@pytest.fixture
def kept(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


HOSTILE = [
    ("kind", "dpcr-bank"),
    ("schema", 2),
    ("files", {"network": "../network-0123456789abcdef.safetensors", "calibrator": "x"}),
    ("files", {"network": "network-0123456789abcdef.safetensors"}),
    ("files", {"network": 3, "calibrator": 4}),
    ("classes", [1, 0]),
    ("classes", [0, 0]),
    ("classes", [[0], {}]),
    ("classes", {}),
    ("reports", []),
    ("reports", [1]),
    ("reports", [{"number": 0}]),
    ("settings", {"gamma": "much"}),
    ("settings", {"backbone": 1, "folder": "/"}),
    ("settings", 3),
    ("train", {"lr": -1}),
    ("train", {"speed": 1}),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_a_description_that_was_tampered_with_is_refused(kept, key, value):
    path = kept / "learner.json"
    described = json.loads(path.read_text())
    described[key] = value
    path.write_text(json.dumps(described))
    with pytest.raises(CorruptState):
        DPCR.load(kept, network())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b'{"a": NaN}', b"[" * 100_000])
def test_a_description_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "learner.json").write_bytes(content)
    with pytest.raises(CorruptState, match=r"learner\.json"):
        DPCR.load(tmp_path, network())


@pytest.mark.parametrize("part", ["network", "calibrator"])
def test_files_that_are_missing_or_swapped_are_refused(kept, part):
    (path,) = kept.glob(f"{part}-*")
    (other,) = (each for each in kept.glob("*-*") if each != path)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    with pytest.raises(CorruptState, match="holds"):
        DPCR.load(kept, network())
    path.write_bytes(content[:-9])
    with pytest.raises(CorruptState, match="damaged"):
        DPCR.load(kept, network())
    path.unlink()
    with pytest.raises(CorruptState, match="is not there"):
        DPCR.load(kept, network())


def test_statistics_of_another_learner_are_not_taken(tmp_path):
    stopped(tmp_path / "a", 2, "task 2: solving")
    stopped(tmp_path / "b", 1, "task 1: solving")
    wrong = (tmp_path / "b" / "observed.safetensors").read_bytes()
    (tmp_path / "a" / "observed.safetensors").write_bytes(wrong)
    with pytest.raises(CorruptState, match="another learner"):
        learnt(tasks=2, folder=tmp_path / "a")


BODY = """
import os, signal, sys, hashlib
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_learner_state import answers, learnt
folder = sys.argv[2]
moments = ("os.rename", "os.remove")  # every step that a file system sees
def child(path, kill=None):
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seen = [0]
    def count(event, arguments):
        if event in moments and str(arguments[0]).startswith(path):
            if seen[0] == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
    sys.addaudithook(count)
    made = learnt(tasks=2, folder=path)
    with open(path + ".txt", "w") as file:
        file.write(f"{seen[0]} {answers(made)} {sorted(os.listdir(path))}")
    os._exit(0)
assert not child(f"{folder}/whole")
steps, expected, files = open(f"{folder}/whole.txt").read().split(" ", 2)
for kill in range(int(steps)):
    path = f"{folder}/{kill}"
    assert child(path, kill) == -signal.SIGKILL, kill
    assert not child(path), f"cannot go on after step {kill}"
    _, found, left = open(path + ".txt").read().split(" ", 2)
    assert found == expected, f"other answers after step {kill}"
    assert left.count(",") == files.count(",") == 2, left  # no rubbish either
print(steps)
"""


def answers(made):
    digest = hashlib.sha256(made.predict_proba(task(0)[0]).tobytes())
    digest.update(made.calibrator.bank.sums.numpy().tobytes())
    for gram in made.calibrator.bank.store.grams.values():
        digest.update(gram.lower().numpy().tobytes())
    return digest.hexdigest()


def test_killed_before_any_step_of_any_file_it_ends_at_the_same_bits(tmp_path):
    here = os.path.dirname(__file__)
    ended = subprocess.run(
        [sys.executable, "-c", BODY, here, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert not ended.returncode, ended.stderr
    assert int(ended.stdout) >= 20
