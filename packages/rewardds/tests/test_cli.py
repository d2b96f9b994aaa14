import importlib.metadata
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "rewardds"


def rewardds(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_version_is_the_distributions():
    result = rewardds("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"rewardds {importlib.metadata.version('lipogram-rewardds')}"


def test_command_line_loads_nothing_heavy():
    code = "import sys, rewardds.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"numpy", "torch", "transformers"} & set(result.stdout.split())
    assert "rewardds.cli" in result.stdout


def test_demo_leaves_a_summary(tmp_path):
    result = rewardds("demo", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["headline"]["version"] == importlib.metadata.version("lipogram-rewardds")


def test_error_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    result = rewardds("demo", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("rewardds: ")
    assert "Traceback" not in result.stderr
