"""The real command, as a person types it."""

import csv
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aefocl import AEFOCLClassifier
from aefocl.cli import main
from lipogram.analytic.datasets import digits

from .clad_tree import write_tree

COMMAND = Path(sysconfig.get_path("scripts")) / "aefocl"
X, Y = digits()
Typed = tuple[int, str, str]
Type = Callable[..., Typed]


@pytest.fixture
def aefocl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Exit code, stdout and stderr of a command, in this process: the same entry point."""

    def run(*arguments: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["aefocl", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(stopped.value.code or 0), said.out, said.err

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in which nines are rare, in two parts, and a head of each part and of both."""
    folder = tmp_path_factory.mktemp("files")
    kept = np.flatnonzero((Y[:1200] != 9) | (np.arange(1200) % 20 == 0))
    first, second = kept[: len(kept) // 2], kept[len(kept) // 2 :]
    for name, rows in (("first", first), ("second", second), ("all", kept)):
        np.savez(folder / f"{name}.npz", X=X[rows], y=Y[rows])
        AEFOCLClassifier(gamma=1.0, buffer_size=64).fit(X[rows], Y[rows]).save(
            folder / f"{name}.safetensors"
        )
    np.savez(folder / "test.npz", X=X[1200:], y=Y[1200:])
    np.savez(folder / "unlabelled.npz", X=X[1200:])
    return folder


# ---------------------------------------------------------------------- what is installed


def test_version_is_the_distributions() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"aefocl {importlib.metadata.version('lipogram-aefocl')}"


def test_command_line_loads_nothing_heavy() -> None:
    code = "import sys, aefocl.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "sklearn", "scipy", "matplotlib", "torchvision", "transformers"}
    assert not heavy & set(done.stdout.split())


def test_help_names_every_command(aefocl: Type) -> None:
    code, out, _ = aefocl("--help")
    assert code == 0
    for command in "demo run prepare-clad fit predict merge forget inspect extract bench".split():
        assert command in out


# ---------------------------------------------------------------------- heads


def test_fit_in_two_goes_is_fit_at_once(aefocl: Type, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown.safetensors"
    first = ("--gamma", 1, "--buffer", 64, "--out", out)
    assert aefocl("fit", files / "first.npz", *first)[0] == 0
    code, said, _ = aefocl("fit", files / "second.npz", "--into", out, "--out", out)
    assert code == 0
    grown, whole = (AEFOCLClassifier.load(p) for p in (out, files / "all.safetensors"))
    assert f"{int(whole.pseudo_count_.sum())} pseudo-features" in said
    np.testing.assert_allclose(grown.coef_, whole.coef_, rtol=0, atol=1e-9 * abs(whole.coef_).max())


def test_fit_takes_its_settings(aefocl: Type, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    settings = ("--gamma", 3, "--buffer-size", 0, "--noise", 0.5, "--budget", 200, "--seed", 4)
    drawn = ("--sampler", "antithetic", "--covariance", "shared")
    assert aefocl("fit", files / "first.npz", "--out", out, *settings, *drawn)[0] == 0
    held = AEFOCLClassifier.load(out).get_params()
    expected = {"gamma": 3.0, "buffer_size": None, "noise": 0.5, "budget": 200, "seed": 4}
    expected |= {"sampler": "antithetic", "covariance": "shared"}
    assert {name: held[name] for name in expected} == expected


def test_a_head_does_not_go_on_with_features_of_another_backbone(
    aefocl: Type, files: Path, tmp_path: Path
) -> None:
    head = tmp_path / "h.safetensors"
    AEFOCLClassifier(buffer_size=None, space="a backbone").fit(X[:50], Y[:50]).save(head)
    before = head.read_bytes()
    code, _, said = aefocl("fit", files / "first.npz", "--into", head, "--out", head)
    assert code == 1
    assert "a backbone" in said
    assert head.read_bytes() == before


def test_predict_asks_the_balanced_head_or_the_plain_one(
    aefocl: Type, files: Path, tmp_path: Path
) -> None:
    head = AEFOCLClassifier.load(files / "all.safetensors")
    for options, balanced in (((), True), (("--plain",), False)):
        out = tmp_path / "labels.csv"
        code, _, said = aefocl(
            "predict", files / "all.safetensors", files / "test.npz", "--out", out, *options
        )
        assert code == 0
        labels = [int(line["label"]) for line in csv.DictReader(out.open())]
        expected = head.predict(X[1200:], balanced=balanced)
        np.testing.assert_array_equal(labels, expected)
        assert f"accuracy {(expected == Y[1200:]).mean():.4f}" in said
    assert (head.predict(X[1200:]) != expected).any()


def test_merge_equals_one_head_that_saw_everything(
    aefocl: Type, files: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.safetensors"
    parts = (files / "first.safetensors", files / "second.safetensors")
    assert aefocl("merge", *parts, "--out", out)[0] == 0
    merged, whole = (AEFOCLClassifier.load(p) for p in (out, files / "all.safetensors"))
    np.testing.assert_allclose(
        merged.coef_, whole.coef_, rtol=0, atol=1e-9 * abs(whole.coef_).max()
    )


def test_forget_equals_never_seen(aefocl: Type, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "less.safetensors"
    code, _, _ = aefocl("forget", files / "all.safetensors", files / "second.npz", "--out", out)
    assert code == 0
    less, never = (AEFOCLClassifier.load(p) for p in (out, files / "first.safetensors"))
    np.testing.assert_allclose(less.coef_, never.coef_, rtol=0, atol=1e-7 * abs(never.coef_).max())


def test_inspect_tells_what_is_drawn(aefocl: Type, files: Path) -> None:
    code, out, _ = aefocl("inspect", files / "all.safetensors", "--json")
    assert code == 0
    facts = json.loads(out)
    head = AEFOCLClassifier.load(files / "all.safetensors")
    assert (facts["sampler"], facts["covariance"], facts["rows"]) == (
        "iid",
        "diag",
        head.n_samples_seen_,
    )
    rows = {row[0]: row[1:] for row in facts["class_weight"]}
    most = max(n for n, *_ in rows.values())
    assert all(n + pseudo == most and drawn == pseudo for n, pseudo, drawn in rows.values())
    assert "pseudo-features" in aefocl("inspect", files / "all.safetensors")[1]


# ---------------------------------------------------------------------- streams


def test_run_on_a_table_with_times(aefocl: Type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["timestamp,label,a,b,c,split"]
    for i in range(120):
        label = ("car", "tram")[i % 6 == 0]
        z = rng.standard_normal(3) + 2 * (label == "tram")
        cells = ",".join(f"{v:.3f}" for v in z)
        lines.append(f"{i},{label},{cells},{'test' if i % 4 == 3 or i % 12 == 6 else 'train'}")
    (tmp_path / "frames.csv").write_text("\n".join(lines))
    out = tmp_path / "run"
    code, printed, said = aefocl(
        *("run", "--stream", f"chronological:{tmp_path / 'frames.csv'}", "--out", out),
        *("--boundary", 40, "--boundary", 80, "--batch", 4, "--compare", "plain,ncm", "--json"),
    )
    assert code == 0, said
    told = json.loads(printed)
    assert told["test_points"] == 3
    assert list(told["methods"]) == ["aefocl", "plain", "ncm"]
    assert told["rows"] == {"car": 70, "tram": 10}
    amca = json.loads((out / "amca.json").read_text())["amca"]
    assert amca["aefocl"] == told["methods"]["aefocl"]["amca"]
    lines_of_points = list(csv.DictReader((out / "per_point.csv").open()))
    assert len(lines_of_points) == 3 * 4
    assert (out / "report.html").stat().st_size > 10_000
    assert AEFOCLClassifier.load(out / "head.safetensors").n_samples_seen_ == 80


def test_options_win_over_the_file_and_the_file_over_the_preset(
    aefocl: Type, tmp_path: Path
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(
        "stream: synthetic\nsegments: 3\nbatch: 50\nbuffer-size: 32\nmethods: [ncm]\nseeds: [4]\n"
    )
    out = tmp_path / "run"
    code, printed, said = aefocl(
        *("run", "--preset", "paper", "--config", config, "--segments", 2, "--out", out),
        *("--budget", 0),
    )
    assert code == 0, said
    assert "nearest mean" in printed
    assert str(out / "report.html") in printed.replace("\n", "")
    held = json.loads((out / "config.json").read_text())["config"]
    assert (held["stream"], held["segments"], held["batch"]) == ("synthetic", 2, 50)
    assert (held["gamma"], held["buffer_size"], held["seeds"]) == (0.1, 32, [4])
    assert held["budget"] is None
    assert "Analytic-continual-learning" in held["source"]


def test_prepare_clad_then_run(aefocl: Type, tmp_path: Path) -> None:
    tree, out = write_tree(tmp_path / "soda"), tmp_path / "clad"
    pixels = ("--backbone", "pixels", "--image-size", 4)
    code, printed, _ = aefocl("prepare-clad", tree, "--out", out, *pixels)
    assert code == 0
    assert printed.count("repaired: ") == 3
    assert "left out of val: 1 (small)" in printed
    assert "Tricycle" in printed
    told = json.loads(aefocl("prepare-clad", tree, "--out", out, *pixels, "--json")[1])
    assert told["counts"]["train"]["Car"] == 7
    code, printed, said = aefocl(
        "run", "--stream", f"clad:{out}", "--compare", "plain", "--out", tmp_path / "run", "--json"
    )
    assert code == 0, said
    assert json.loads(printed)["test_points"] == 6


def test_demo_without_its_pictures_takes_digits_and_says_so(
    aefocl: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")  # no npm, so nothing is fetched
    code, printed, said = aefocl("demo", "--stream", "emoji", "--out", tmp_path / "demo")
    assert code == 0, said
    assert "note: emoji: " in said
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["streams"] == ["digits"]
    assert summary["fallback"]
    gain = summary["headline"]["AMCA on digits, AEF-OCL"]
    assert gain > summary["headline"]["AMCA on digits, plain ridge"]
    assert "streaming LDA" in printed
    assert (tmp_path / "demo" / "digits" / "report.html").is_file()


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "nothing.npz"], 1, "nothing.npz"),
        (["fit", "{}/unlabelled.npz"], 1, "no labels"),
        (["fit", "{}/all.npz", "--gamma", "-1"], 2, "gamma is -1"),
        (["fit", "{}/all.npz", "--noise", "-1"], 2, "noise is -1"),
        (["fit", "{}/all.npz", "--budget", "-1"], 2, "budget is -1"),
        (["fit", "{}/all.npz", "--covariance", "full"], 2, "covariance"),
        (["fit", "{}/all.npz", "--sampler", "expected"], 2, "buffer_size=None"),
        (["predict", "{}/all.npz", "{}/all.npz"], 1, "no Lipogram state"),
        (["predict", "{}/missing.safetensors", "{}/all.npz"], 1, "missing.safetensors"),
        (["merge", "{}/all.safetensors"], 2, "at least two"),
        (["forget", "{}/first.safetensors"], 2, "--drop"),
        (["forget", "{}/first.safetensors", "{}/all.npz"], 1, "were seen"),
        (["run", "--stream", "rails"], 2, "rails"),
        (["run", "--stream", "clad:nowhere"], 3, "prepare-clad"),
        (["run", "--stream", "chronological:nothing.csv"], 1, "nothing.csv"),
        (["run", "--compare", "icarl"], 2, "icarl"),
        (["run", "--preset", "best"], 2, "best"),
        (["run", "--batch", "0"], 2, "batch is 0"),
        (["demo", "--stream", "rails"], 2, "rails"),
        (["prepare-clad", "nowhere"], 3, "nowhere"),
        (["extract", "no-such-folder", "out"], 2, "no-such-folder"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    aefocl: Type,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    monkeypatch.chdir(tmp_path)
    ended, _, said = aefocl(*(argument.format(files) for argument in arguments))
    assert ended == code, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_an_unknown_setting_in_a_file_is_named(aefocl: Type, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("rho: 5\n")
    code, _, said = aefocl("run", "--config", tmp_path / "s.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert "'rho'" in said
    assert not (tmp_path / "run").exists()
