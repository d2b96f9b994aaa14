import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpcr import AnalyticHead, DriftCalibrator
from dpcr.cli import app, main
from lipogram.analytic.cifar import cifar10

RANDOM = np.random.default_rng(0)
DPCR = Path(sys.executable).with_name("dpcr")


def rows_of(task, n=80, d=12):
    """Rows of two classes under the network after ``task``, and their labels."""
    random = np.random.default_rng(task)
    labels = random.integers(2 * task, 2 * task + 2, n)
    centres = np.random.default_rng(99).normal(size=(8, d)) * 3
    return centres[labels] + random.normal(size=(n, d)), labels


OPERATOR = np.eye(12) + 0.2 * RANDOM.normal(size=(12, 12))


@pytest.fixture
def files(tmp_path):
    old, labels = rows_of(0)
    np.savez(tmp_path / "first.npz", X=old, y=labels)
    second, more = rows_of(1)
    np.savez(tmp_path / "second-old.npz", X=second, y=more)
    np.savez(tmp_path / "second-new.npz", X=second @ OPERATOR, y=more)
    np.savez(tmp_path / "other-order.npz", X=second, y=more[::-1])
    np.savez(tmp_path / "unlabelled.npz", X=old)
    every = np.concatenate([old, second]) @ OPERATOR
    np.savez(tmp_path / "test.npz", X=every, y=np.concatenate([labels, more]))
    return tmp_path


def said(capsys, monkeypatch, *arguments):
    """Exit code and the two streams of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["dpcr", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_and_version_load_nothing_heavy():
    shown = subprocess.run([DPCR, "--help"], capture_output=True, text=True, check=True).stdout
    for command in "demo run presets bench extract calibrate move eval".split():
        assert command in shown
    version = subprocess.run([DPCR, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("dpcr 0.")
    code = (
        "import sys, dpcr; from dpcr.cli import app;"
        "heavy = ('torch', 'sklearn', 'scipy', 'numpy', 'matplotlib', 'torchvision');"
        "print([m for m in heavy if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]"
    assert app.info.help is not None


def test_two_tasks_by_files(files, capsys, monkeypatch):
    bank, head = files / "bank.safetensors", files / "head.safetensors"
    where = ("--bank", bank, "--out", head)
    first = files / "first.npz"
    assert said(capsys, monkeypatch, "calibrate", first, *where, "--gamma", 1)[0] == 0
    new, old = files / "second-new.npz", files / "second-old.npz"
    code, out, err = said(capsys, monkeypatch, "calibrate", new, "--old", old, *where)
    assert code == 0, err
    assert "4 classes after 2 tasks" in out
    assert "effective rank" in err
    calibrator = DriftCalibrator(gamma=1.0)
    calibrator.observe(None, *rows_of(0)).finish()
    second, labels = rows_of(1)
    calibrator.observe(second, second @ OPERATOR, labels).finish()
    assert torch.equal(AnalyticHead.load(head).weight, calibrator.head.weight)
    code, out, err = said(capsys, monkeypatch, "eval", head, files / "test.npz", "--json")
    figures = json.loads(out)
    assert figures["accuracy"] > 0.9
    assert set(figures["per_class"]) == {"0", "1", "2", "3"}
    assert "accuracy: 1.0000" in said(capsys, monkeypatch, "eval", head, files / "test.npz")[1]
    moved = files / "moved.npz"
    code, out, _ = said(capsys, monkeypatch, "move", bank, files / "first.npz", "--out", moved)
    assert code == 0
    with np.load(moved, allow_pickle=False) as held:
        gap = held["X"] - rows_of(0)[0] @ OPERATOR
        assert np.abs(gap).max() < 1e-6
        assert (held["y"] == rows_of(0)[1]).all()


def test_presets_are_listed(capsys, monkeypatch):
    assert "cifar100-10" in said(capsys, monkeypatch, "presets")[1]
    one = json.loads(said(capsys, monkeypatch, "presets", "tinyimagenet-10-released")[1])
    assert (one["gamma"], one["cip"]) == (2000.0, "official")
    everything = json.loads(said(capsys, monkeypatch, "presets", "--json")[1])
    assert {"presets", "deviations"} == set(everything)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["calibrate", "nothing.npz"], 1, "nothing.npz"),
        (["calibrate", "{}/unlabelled.npz"], 1, "no labels"),
        (["calibrate", "{}/first.npz", "--eps", "some"], 2, "eps is 'some'"),
        (["calibrate", "{}/first.npz", "--gamma", "-1"], 2, "gamma is -1"),
        (["calibrate", "{}/second-new.npz", "--old", "{}/other-order.npz"], 1, "one order"),
        (["eval", "{}/first.npz", "{}/test.npz"], 1, "first.npz"),
        (["move", "{}/first.npz", "{}/test.npz"], 1, "first.npz"),
        (["presets", "cifar100-7"], 2, "7 equal tasks"),
        (["run", "--dataset", "cifar1000"], 2, "cifar1000"),
        (["run", "--dataset", "digits", "--methods", "best"], 2, "best"),
        (["run", "--dataset", "digits", "--preset", "cifar100-10"], 2, "one of"),
        (["run", "--preset", "cifar100-10"], 2, "--data"),
        (["run", "--preset", "cifar100-10", "--data", "{}"], 3, "cifar-100"),
        (["run", "--dataset", "digits", "--data", "{}"], 2, "--preset"),
        (["run", "--config", "{}/none.json"], 1, "none.json"),
        (["run", "--dataset", "digits", "--device", "tpu9"], 2, "tpu9"),
        (["demo", "--dataset", "mnist", "--out", "{}/demo"], 2, "mnist"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    files, capsys, monkeypatch, arguments, code, message
):
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    monkeypatch.chdir(files)
    ended, _, err = said(capsys, monkeypatch, *(a.format(files) for a in arguments))
    assert ended == code, err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert message in err
    left = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    assert left == before


def tiny_cifar(folder):
    """Thirty images of three of CIFAR-10's classes, in its own format."""
    base = folder / "cifar-10-batches-bin"
    base.mkdir()
    random = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird"]
    (base / "batches.meta.txt").write_text("\n".join(names))
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = np.arange(6) % 3
        pixels = random.integers(0, 100, (6, 3, 32, 32)) + 70 * (labels[:, None, None, None] == 1)
        rows = np.concatenate([labels[:, None], pixels.reshape(6, -1)], 1)
        (base / name).write_bytes(rows.astype(np.uint8).tobytes())
    return cifar10("train", folder=folder)


@pytest.mark.filterwarnings("ignore:after the first task")  # thirty images teach nothing
def test_a_file_of_pycil_runs_on_images_in_their_own_format(tmp_path, capsys, monkeypatch):
    assert len(tiny_cifar(tmp_path)) == 30
    settings = {
        "dataset": "cifar10",
        "init_cls": 2,
        "increment": 1,
        "convnet_type": "resnet18",
        "seed": [7],
        "device": ["-1"],
        "init_epoch": 1,
        "epochs": 1,
        "batch_size": 10,
        "rg": 20,
        "DPCR": True,
        "memory_size": 0,
    }
    (tmp_path / "lwf.json").write_text(json.dumps(settings))
    out = tmp_path / "run"
    where = ("--data", tmp_path, "--out", out, "--device", "cpu")
    code, printed, err = said(capsys, monkeypatch, "run", "--config", tmp_path / "lwf.json", *where)
    assert code == 0, err
    assert "dpcr: CNN top1 curve: [" in printed
    assert "memory_size = 0" in err
    assert (out / "report.html").stat().st_size > 10_000
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [len(e["classes"]) for e in events if e["event"] == "task"] == [2, 1]
