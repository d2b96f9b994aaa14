import importlib.metadata
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "psfuture"


def psfuture(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_version_is_the_distributions():
    result = psfuture("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"psfuture {importlib.metadata.version('lipogram-psfuture')}"


def test_command_line_loads_nothing_heavy():
    code = "import sys, psfuture.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"numpy", "torch", "transformers"} & set(result.stdout.split())
    assert "psfuture.cli" in result.stdout


def test_demo_leaves_a_summary(tmp_path):
    result = psfuture("demo", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["headline"]["version"] == importlib.metadata.version("lipogram-psfuture")


def test_error_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    result = psfuture("demo", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("psfuture: ")
    assert "Traceback" not in result.stderr
