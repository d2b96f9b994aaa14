import subprocess
import sys

import pytest

NO, YES = False, True  # apart, so that this file passes the check that it tests


def check(tree):
    return subprocess.run(
        [sys.executable, tree / "tools" / "check_tree.py"], capture_output=True, text=True
    )


def broken(tree, message):
    result = check(tree)
    assert result.returncode == 1
    assert message in result.stdout, result.stdout


def test_this_tree_keeps_the_rules(root):
    result = check(root)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "text",
    [
        "https://" + "pypi" + ".org/simple",
        "https://files." + "pythonhosted" + ".org/x",
        "/" + "root/.cache",
        "see /" + "opt/wheels",
        "'/" + "home/somebody/data'",
        "C:\\" + "Users\\somebody",
    ],
)
def test_hosts_and_machine_paths(few_files, text):
    (few_files / "notes.md").write_text(f"first line\n{text}\n")
    broken(few_files, "notes.md: line 2: a ")


@pytest.mark.parametrize(
    "text", ["packages/work/src", "see https://example.org/home/page", "~/opt/x", "network/root/x"]
)
def test_what_only_looks_like_a_machine_path(few_files, text):
    (few_files / "notes.md").write_text(text)
    result = check(few_files)
    assert "notes.md" not in result.stdout


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("import torch\ntorch.load('x')", "torch.load without weights_only=True"),
        (f"import torch\ntorch.load('x', weights_only={NO})", "torch.load without"),
        ("import torch\ntorch.save({}, 'x')", "torch.save writes a pickle"),
        (f"import numpy\nnumpy.load('x', allow_pickle={YES})", f"allow_pickle={YES}"),
        ("f(trust_remote_code=True)", "trust_remote_code=True"),
        ("f(trust_remote_code=flag)", "trust_remote_code=flag"),
    ],
)
def test_code_that_reads_or_writes_pickles(few_files, code, message):
    (few_files / "shared/src/lipogram/bad.py").write_text(code)
    broken(few_files, f"shared/src/lipogram/bad.py: line {code.count(chr(10)) + 1}: {message}")


def test_safe_loading_is_allowed(few_files):
    code = "import torch\nimport numpy\ntorch.load('x', weights_only=True)\nnumpy.load('x')\n"
    (few_files / "shared/src/lipogram/good.py").write_text(code)
    assert "good.py" not in check(few_files).stdout


def test_pickled_files_and_large_files(few_files):
    (few_files / "weights.pth").write_bytes(b"x")
    (few_files / "large.bin").write_bytes(b"\xff" * (1 << 20) + b"\xff")
    broken(few_files, "weights.pth: a kind of file that may hold a pickle")
    broken(few_files, "large.bin: larger than 1 MiB")


def test_what_git_ignores_is_not_checked(few_files):
    (few_files / "runs").mkdir()
    (few_files / "runs" / "state.pkl").write_bytes(b"x")
    assert "state.pkl" not in check(few_files).stdout


def test_long_module(few_files):
    (few_files / "shared/src/lipogram/long.py").write_text("x = 1\n" * 401)
    broken(few_files, "long.py: longer than 400 lines")


def test_packages_do_not_import_each_other(few_files, run):
    run(sys.executable, "tools/new_package.py", "foo", few_files)
    (few_files / "packages/foo/src/foo/bad.py").write_text("from air.cli import main\n")
    (few_files / "shared/src/lipogram/bad.py").write_text("def f():\n    import foo\n")
    broken(few_files, "packages/foo/src/foo/bad.py: line 1: foo imports air")
    broken(few_files, "shared/src/lipogram/bad.py: line 2: lipogram imports foo")


@pytest.mark.parametrize("name", ["hatch_build.py", "LICENSE"])
def test_copies_are_the_same(few_files, name):
    copy = few_files / "packages/air" / name
    copy.write_text(copy.read_text() + "\n")
    broken(few_files, f"packages/air/{name}: not the same as")
    copy.unlink()
    broken(few_files, f"packages/air/{name}: not the same as")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("analytic,cli,vision]>=0.1,<0.2", "analytic,cli,vision]>=0.2,<0.3", "does not hold 0.1.0"),
        ("[timm]>=0.1,<0.2", "[timm]>=0.0,<0.1", "does not hold 0.1.0"),
        ('"numpy>=2"', '"numpy>=2", "lipogram-sea>=0.1"', "requires lipogram-sea"),
    ],
)
def test_range_of_shared(few_files, old, new, message):
    pyproject = few_files / "packages/air/pyproject.toml"
    assert old in pyproject.read_text()
    pyproject.write_text(pyproject.read_text().replace(old, new))
    broken(few_files, message)


def test_lock_without_hosts(few_files):
    with open(few_files / "uv.lock", "a") as lock:
        lock.write('# "https://example.invalid/simple"\n')
    broken(few_files, "a lock without hosts has no address")
