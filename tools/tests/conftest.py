import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, cwd=ROOT, **options):
    """A command's result; its output is in the message if it fails."""
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def tracked(root):
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    return [Path(name) for name in listed.stdout.split("\0") if name and (root / name).is_file()]


@pytest.fixture(scope="session", name="run")
def run_fixture():
    return run


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def packages():
    return sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


@pytest.fixture(scope="session")
def tools():
    """The folder of the interpreter's commands."""
    return Path(sys.executable).parent


def copied(names, copy):
    """Files of this tree in a repository of their own with one commit."""
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    run("git", *identity, "commit", "--quiet", "--message=copy", cwd=copy)
    return copy


@pytest.fixture
def checkout(tmp_path):
    """A copy of what git tracks here, in a repository of its own with one commit."""
    return copied(tracked(ROOT), tmp_path / "checkout")


@pytest.fixture
def few_files(tmp_path):
    """The same with one package, and of its and lipogram's modules the outermost."""

    def wanted(name):
        folder, *rest = name.parts
        if folder == "packages":
            return rest[0] == "air" and "tests" not in rest
        return folder != "shared" or (len(rest) < 4 and "tests" not in rest)

    return copied(filter(wanted, tracked(ROOT)), tmp_path / "checkout")
