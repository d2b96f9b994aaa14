import importlib.metadata
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "dpcr"


def dpcr(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_version_is_the_distributions():
    result = dpcr("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"dpcr {importlib.metadata.version('lipogram-dpcr')}"


def test_command_line_loads_nothing_heavy():
    code = "import sys, dpcr.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"numpy", "torch", "transformers"} & set(result.stdout.split())
    assert "dpcr.cli" in result.stdout


def test_demo_leaves_a_summary(tmp_path):
    result = dpcr("demo", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["headline"]["version"] == importlib.metadata.version("lipogram-dpcr")


def test_error_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    result = dpcr("demo", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("dpcr: ")
    assert "Traceback" not in result.stderr
