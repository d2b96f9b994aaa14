"""The real command, as a person types it."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from ftunlearn import DissectionReport
from ftunlearn.cli import main


def typed(*arguments: object, ok: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ftunlearn", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ftunlearn", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def given(files):
    return ("--vanilla", files / "vanilla", "--probes", files / "facts.jsonl")


def test_help_and_version():
    shown = typed("--help").stdout
    for name in "demo unlearn dissect relearn side-effects report models".split():
        assert name in shown
    assert typed("--version").stdout.startswith("ftunlearn 0")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from ftunlearn.cli import app; import lipogram, lipogram.llm;"
        "heavy = ('torch', 'transformers', 'numpy', 'matplotlib', 'peft', 'pandas', 'datasets');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dissect_leaves_a_report_and_goes_on_only_if_told(command, given, files, tmp_path):
    out = tmp_path / "run"
    settings = tmp_path / "settings.yaml"
    settings.write_text("window: 3\nn-new-tokens: 2\nrelearn: {lr: 1e-3, steps: [1, 2], k: 2}\n")
    arguments = ("dissect", *given, "--unlearned", files / "hidden-1", "--out", out)
    arguments += ("--config", settings, "--window", 1, "--components", "coef+attn,values")
    code, said, error = command(*arguments)
    assert code == 0, error
    assert "report.html" in said
    report = DissectionReport.load(out)
    held = report.content["settings"]
    assert (held["window"], held["n_new_tokens"], held["relearn"]["lr"]) == (1, 2, 1e-3)
    assert {c["component"] for c in report.content["curves"]} == {"coef+attn", "values"}
    assert report.verdict.sentence in said
    assert report.content["relearn"]["steps"] == [1, 2]
    before = (out / "scores.csv").read_bytes()
    code, _, error = command(*arguments)
    assert code == 2
    assert "--resume" in error
    assert command(*arguments, "--resume")[0] == 0
    assert (out / "scores.csv").read_bytes() == before


def test_dissect_many_redacted(command, given, files, tmp_path):
    code, said, error = command(
        "dissect", *given, "--unlearned", files / "hidden-*", "--out", tmp_path, "--redact",
        "--components", "values", "--no-relearn", "--no-side-effects",
    )  # fmt: skip
    assert code == 0, error
    for name in ("hidden-1", "hidden-2"):
        report = DissectionReport.load(tmp_path / name)
        assert report.content["relearn"] is None
        assert "gain" in report.content["skipped"]
        written = b"".join(p.read_bytes() for p in (tmp_path / name).iterdir() if p.is_file())
        assert b"Land a" not in written
        assert name in said


def test_print_config_can_be_read_back(command, tmp_path):
    code, said, _ = command("dissect", "--stride", 2, "--no-relearn", "--print-config")
    assert code == 0
    (tmp_path / "c.yaml").write_text(said)
    assert yaml.safe_load(said)["stride"] == 2
    assert yaml.safe_load(said)["relearn"] is None
    assert command("dissect", "--config", tmp_path / "c.yaml", "--print-config")[1] == said
    code, said, _ = command("unlearn", "--model", "smollm2", "--method", "npo", "--print-config")
    assert (code, yaml.safe_load(said)) == (0, {"model": "smollm2", "method": "npo"})


def test_relearn_and_side_effects(command, given, files):
    pair = (*given, "--unlearned", files / "hidden-1")
    code, said, error = command(
        "relearn", *pair, "--steps", "1,2", "--k", 2, "--lr", 1e-3, "--json"
    )
    assert code == 0, error
    found = json.loads(said)
    assert found["steps"] == [1, 2]
    assert found["facts"] == 4
    assert command("relearn", *pair, "--steps", "1,2", "--k", 2, "--made-up")[0] == 0
    code, said, error = command("side-effects", *pair, "--json")
    assert code == 0, error
    assert set(json.loads(said)["behaviour"]) == {"forget", "retain", "unrelated"}
    code, said, _ = command("side-effects", *pair)
    assert "probability vanilla" in said


@pytest.mark.parametrize("lora", [(), ("--lora",)], ids=["full", "lora"])
def test_unlearn_then_dissect(command, given, files, tmp_path, lora):
    settings = tmp_path / "settings.yaml"
    settings.write_text("max_steps: 2\nlearning_rate: 1e-3\n")
    code, said, error = command(
        "unlearn", "--model", files / "vanilla", "--probes", files / "facts.jsonl",
        "--method", "graddiff", "--config", settings, "--out", tmp_path / "model", *lora,
    )  # fmt: skip
    assert code == 0, error
    assert f"model: {tmp_path / 'model'}" in said
    assert (tmp_path / "model" / "adapter_config.json").exists() == bool(lora)
    code, _, error = command(
        "dissect", *given, "--unlearned", tmp_path / "model", "--out", tmp_path / "run",
        "--components", "values", "--no-relearn", "--no-side-effects",
    )  # fmt: skip
    assert code == 0, error


def test_unlearn_texts(command, files, tmp_path):
    (tmp_path / "forget.jsonl").write_text('{"text": "Land a is aa."}\n{"text": "Land b is bb."}\n')
    (tmp_path / "retain.txt").write_text("Land e is ee. Land f is ff.")
    (tmp_path / "settings.yaml").write_text("max_steps: 1\n")
    code, _, error = command(
        "unlearn", "--model", files / "vanilla", "--forget", tmp_path / "forget.jsonl", "--retain",
        tmp_path / "retain.txt", "--config", tmp_path / "settings.yaml", "--out", tmp_path / "m",
    )  # fmt: skip
    assert code == 0, error
    assert (tmp_path / "m" / "model.safetensors").exists()


def test_report_draws_the_page_again(command, make_findings, tmp_path):
    DissectionReport(make_findings(4, reference=False)).save(tmp_path)
    whole = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    code, said, _ = command("report", tmp_path)
    assert code == 0
    assert "Suppressed" in said
    assert (tmp_path / "report.html").read_bytes() == whole
    code, _, _ = command("report", tmp_path, "--redact", "--out", tmp_path / "public.html")
    assert code == 0
    assert b"capital of Land" not in (tmp_path / "public.html").read_bytes()


def test_models_names_forty_released_ones(command):
    code, said, _ = command("models", "--json")
    assert code == 0
    released = [name for kind in json.loads(said) for name in kind["names"] if "Yihuai" in name]
    assert len(set(released)) == 40
    assert "YihuaiHong/olmo-7b_grad_diff_unlearn_on_id_147_concept" in released
    assert "smollm2" in command("models")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dissect"], 2, "--unlearned is needed"),
        (["dissect", "--unlearned", "{0}/hidden-1"], 2, "--probes is needed"),
        (["dissect", "--unlearned", "{0}/none-*"], 2, "matches no folder"),
        (["dissect", "--window", "0"], 2, "window must be >= 1"),
        (["dissect", "--components", "coef,brain"], 2, "brain"),
        (["dissect", "--protocol", "loose"], 2, "loose"),
        (["dissect", "--config", "{0}/bad.yaml"], 2, "windows"),
        (["dissect", "--unlearned x --vanilla x --probes other:thing"], 2, "other:thing"),
        (["dissect", "--unlearned x --vanilla x --probes {0}/none.jsonl"], 3, "none.jsonl"),
        (["dissect", "--unlearned x --vanilla x --probes {0}/bad.jsonl"], 2, "bad.jsonl"),
        (["dissect", "--unlearned x --vanilla no-model {1}"], 3, "no-model"),
        (["dissect", "--vanilla {0}/vanilla --unlearned {0}/vanilla {1}"], 3, "bit for bit"),
        (["dissect", "--vanilla {0}/vanilla --unlearned {0}/deeper {1}"], 2, "differ in"),
        (["relearn", "--steps", "one"], 2, "whole numbers"),
        (["relearn", "--k", "3"], 2, "k must be one of"),
        (["unlearn", "--model", "x"], 2, "--out"),
        (["report", "{0}"], 1, "report.json"),
        (["report"], 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    command, files, tmp_path, monkeypatch, arguments, code, message
):
    (files / "bad.yaml").write_text("windows: 3\n")
    (files / "bad.jsonl").write_text('{"prompt": ""}\n')
    monkeypatch.chdir(tmp_path)
    probes = f"--probes {files / 'facts.jsonl'}"
    words = " ".join(arguments).format(files, probes).split()
    ended, _, said = command(*words)
    assert ended == code, said
    assert message in said, said
    assert "Traceback" not in said
    if code != 2 or "Usage" not in said:
        assert said.strip().splitlines()[-1].startswith("error: ")


def test_debug_shows_where_it_happened(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ftunlearn", "--debug", "dissect", "--window", "0"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(ValueError, match="window"):
        main()


def test_models_are_left_as_they_were(command, given, files, tmp_path):
    def held():
        return {p.relative_to(files): p.read_bytes() for p in Path(files).rglob("*") if p.is_file()}

    before = held()
    assert (
        command("relearn", *given, "--unlearned", files / "hidden-1", "--steps", "1", "--k", 1)[0]
        == 0
    )
    assert held() == before
