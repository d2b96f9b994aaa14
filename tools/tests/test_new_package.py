import json
import subprocess
import sys

import pytest


def new_package(checkout, name):
    return subprocess.run(
        [sys.executable, checkout / "tools/new_package.py", name], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "name",
    ["", "Foo", "foo-bar", "foo_bar", "1foo", "f", "../foo", "class", "json", "lipogram", "x" * 17],
)
def test_bad_names_are_refused(checkout, packages, name):
    result = new_package(checkout, name)
    assert result.returncode == 1
    assert repr(name) in result.stderr
    assert sorted(path.name for path in (checkout / "packages").iterdir()) == packages


def test_existing_name_is_refused_and_untouched(checkout):
    readme = (checkout / "packages/air/README.md").read_bytes()
    result = new_package(checkout, "air")
    assert result.returncode == 1
    assert "packages/air exists" in result.stderr
    assert (checkout / "packages/air/README.md").read_bytes() == readme


@pytest.mark.parametrize("name", ["foo", "longestnamethere"])
def test_skeleton_keeps_the_rules(checkout, run, tools, name):
    assert new_package(checkout, name).returncode == 0
    folder = checkout / "packages" / name
    assert not list(folder.rglob("*.in")), "templates are left"
    assert not any("$" in path.read_text() for path in folder.rglob("*") if path.is_file())
    run(tools / "ruff", "format", "--check", folder, cwd=checkout)
    run(tools / "ruff", "check", folder, cwd=checkout)
    script = [sys.executable, "tools/check_tree.py"]
    found = subprocess.run(script, cwd=checkout, capture_output=True, text=True).stdout
    assert f"packages/{name}" not in found, found


def test_make_and_matrix_pick_it_up_without_an_edit(checkout, run, packages):
    assert new_package(checkout, "foo").returncode == 0
    for verb in ("test", "demo", "bench", "build", "isolated"):
        run("make", "--dry-run", f"{verb}-foo", cwd=checkout)
    found = sorted([*packages, "foo"])
    listed = run("make", "--no-print-directory", "help", cwd=checkout).stdout.splitlines()[0]
    assert sorted(listed.removeprefix("packages: ").split()) == found
    listed = run("make", "--no-print-directory", "packages", cwd=checkout).stdout
    assert sorted(json.loads(listed)) == found


@pytest.mark.slow
def test_skeleton_passes_lint_tests_demo_and_bench(checkout, run):
    run("make", "new-package", "NAME=foo", cwd=checkout)
    assert 'name = "lipogram-foo"' in (checkout / "uv.lock").read_text()
    closing = run("make", "test-foo", cwd=checkout).stdout
    assert "4 passed" in closing
    run(checkout / ".venv/bin/mypy", "packages/foo/src", cwd=checkout)
    run(
        checkout / ".venv/bin/deptry",
        "packages/foo/src",
        "--config",
        "packages/foo/pyproject.toml",
        cwd=checkout,
    )
    assert "foo" in run("make", "demo-foo", cwd=checkout).stdout
    assert "times the bare interpreter" in run("make", "bench-foo", cwd=checkout).stdout
    run("make", "build-foo", cwd=checkout)
    assert "4 passed" in run("make", "isolated-foo", cwd=checkout).stdout
    assert run("make", "lock-check", cwd=checkout)
