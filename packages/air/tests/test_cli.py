"""The real command, as a person types it."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from air import AIRClassifier
from air.cli import main
from lipogram.analytic.datasets import digits

X, Y = digits()


class Done(NamedTuple):
    stdout: str
    stderr: str


def air(*arguments: object, ok: int = 0) -> Done:
    """The command in this process, by its entry point."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["air", *map(str, arguments)]
    shown, code = warnings.showwarning, 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.argv, warnings.showwarning = before, shown
    done = Done(out.getvalue(), err.getvalue())
    assert code == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def process(*arguments: object, ok: int = 0) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    done = subprocess.run(
        [sys.executable, "-c", "from air.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """Exit code and stderr of a command that fails, in this process: the same entry point."""
    monkeypatch.setattr(sys, "argv", ["air", *map(str, arguments)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "first.npz", X=X[:600], y=Y[:600])
    np.savez(folder / "second.npz", X=X[600:1200], y=Y[600:1200])
    np.savez(folder / "all.npz", X=X[:1200], y=Y[:1200])
    np.savez(folder / "test.npz", X=X[1200:], y=Y[1200:])
    np.savez(folder / "unlabelled.npz", X=X[1200:])
    for name in ("first", "second", "all"):
        air("fit", folder / f"{name}.npz", "--out", folder / f"{name}.safetensors", "--buffer", 128)
    return folder


def test_help_and_version() -> None:
    shown = process("--help").stdout
    for command in "demo extract run fit predict merge forget inspect bench".split():
        assert command in shown
    assert process("--version").stdout.startswith("air ")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from air.cli import app; import lipogram;"
        "heavy = ('torch', 'sklearn', 'scipy', 'numpy', 'matplotlib', 'torchvision');"
        "print([m for m in heavy if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_import_air_loads_no_torchvision() -> None:
    code = (
        "import sys, air; air.AIRClassifier;"
        "print([m for m in ('torchvision', 'transformers', 'timm') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_fit_in_two_goes_is_fit_at_once(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown.safetensors"
    process("fit", files / "second.npz", "--into", files / "first.safetensors", "--out", out)
    grown, whole = (AIRClassifier.load(p) for p in (out, files / "all.safetensors"))
    np.testing.assert_allclose(grown.coef_, whole.coef_, rtol=0, atol=1e-9 * abs(whole.coef_).max())


def test_predict_writes_a_row_each_and_says_how_many_were_right(
    files: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    said = air("predict", files / "all.safetensors", files / "test.npz", "--out", out).stderr
    lines = out.read_text().splitlines()
    assert lines[0] == "row,label,share"
    assert len(lines) == 1 + len(X) - 1200
    predicted = np.array([int(line.split(",")[1]) for line in lines[1:]])
    assert f"accuracy {(predicted == Y[1200:]).mean():.4f}" in said
    assert (predicted == Y[1200:]).mean() > 0.85


def test_merge_equals_one_head_that_saw_everything(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    air("merge", files / "first.safetensors", files / "second.safetensors", "--out", out)
    merged, whole = (AIRClassifier.load(p) for p in (out, files / "all.safetensors"))
    np.testing.assert_allclose(
        merged.coef_, whole.coef_, rtol=0, atol=1e-9 * abs(whole.coef_).max()
    )


def test_forget_equals_never_seen(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "less.safetensors"
    air("forget", files / "all.safetensors", files / "second.npz", "--out", out)
    less, never = (AIRClassifier.load(p) for p in (out, files / "first.safetensors"))
    np.testing.assert_allclose(less.coef_, never.coef_, rtol=0, atol=1e-8 * abs(never.coef_).max())
    air("forget", files / "all.safetensors", "--drop", 3, "--out", out)
    assert 3 not in AIRClassifier.load(out).classes_


def test_inspect_counts(files: Path) -> None:
    facts = json.loads(air("inspect", files / "all.safetensors", "--json").stdout)
    assert facts["rows"] == 1200
    assert [row[1] for row in facts["class_weight"]] == np.bincount(Y[:1200]).tolist()
    assert "condition" in air("inspect", files / "all.safetensors").stdout


def test_run_gcil_on_digits(tmp_path: Path) -> None:
    start = time.monotonic()
    air(
        "run",
        "--dataset",
        "digits",
        "--scenario",
        "gcil",
        "--every",
        200,
        "--out",
        tmp_path / "run",
    )
    assert time.monotonic() - start < 60
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"a_auc", "a_avg", "a_last"} <= set(summary["orders"]["mixed"]["air"])
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert '"evaluation"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("tasks: 3\nscenario: cil\ndataset: synthetic\nmethods: [air]\nseeds: [4]\n")
    out = tmp_path / "run"
    air(
        "run",
        "--preset",
        "acl-defaults",
        "--config",
        config,
        "--tasks",
        2,
        "--buffer",
        64,
        "--out",
        out,
    )
    held = json.loads((out / "config.json").read_text())["config"]
    assert (held["tasks"], held["scenario"], held["gamma"]) == (2, "cil", 0.1)
    assert (held["seeds"], held["buffer_size"]) == ([4], 64)


@pytest.mark.slow
def test_demo_runs_everywhere_on_digits(tmp_path: Path) -> None:
    printed = air("demo", "--dataset", "digits", "--out", tmp_path).stdout
    assert "AIR" in printed
    assert len(list(tmp_path.rglob("report.html"))) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "nothing.npz"], 1, "nothing.npz"),
        (["fit", "{}/unlabelled.npz"], 1, "no labels"),
        (["fit", "{}/all.npz", "--gamma", "-1"], 2, "gamma is -1"),
        (["fit", "{}/all.npz", "--class-weight", "even"], 2, "class_weight"),
        (["predict", "{}/all.npz", "{}/all.npz"], 1, "no Lipogram state"),
        (["predict", "{}/missing.safetensors", "{}/all.npz"], 1, "missing.safetensors"),
        (["merge", "{}/all.safetensors"], 2, "at least two"),
        (["forget", "{}/first.safetensors"], 2, "--drop"),
        (["forget", "{}/first.safetensors", "{}/all.npz"], 1, "were seen"),
        (["run", "--dataset", "cifar1000"], 2, "cifar1000"),
        (["run", "--dataset", "cifar100"], 2, "--data"),
        (["run", "--scenario", "til"], 2, "til"),
        (["run", "--preset", "best"], 2, "best"),
        (["extract", "no-such-folder", "out"], 2, "no-such-folder"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    monkeypatch.chdir(tmp_path)
    ended, said = refused(monkeypatch, capsys, *(a.format(files) for a in arguments))
    assert ended == code, said
    assert said.startswith("error: ")
    assert message in said
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", "empty"),
        ("ragged.csv", "a,b,label\n1,2,x\n1,x\n", "line 3"),
        ("words.csv", "a,b,label\n1,two,x\n", "line 2"),
        ("nan.csv", "a,b,label\n1,nan,x\n", "NaN in row 0"),
        ("not-numpy.npz", "hello", "npz"),
    ],
)
def test_bad_tables(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    message: str,
) -> None:
    (tmp_path / name).write_text(content)
    out = ("--out", tmp_path / "h.safetensors")
    ended, said = refused(monkeypatch, capsys, "fit", tmp_path / name, *out)
    assert ended == 1
    assert message in said
    assert not (tmp_path / "h.safetensors").exists()


def test_a_pickled_array_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "objects.npz", X=np.array([{}], dtype=object), y=np.zeros(1))
    ended, said = refused(monkeypatch, capsys, "fit", tmp_path / "objects.npz")
    assert ended == 1
    assert "plain array" in said


def test_csv_with_words_as_labels(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2},{i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(20))
    (tmp_path / "t.csv").write_text("parity,count,label\n" + rows)
    air("fit", tmp_path / "t.csv", "--out", tmp_path / "h.safetensors", "--buffer", 0)
    assert AIRClassifier.load(tmp_path / "h.safetensors").classes_.tolist() == ["even", "odd"]
