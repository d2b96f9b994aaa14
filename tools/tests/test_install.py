"""What a user's pip does with a checkout, with built files and with git, in fresh environments."""

import shutil
import sys

import pytest

pytestmark = pytest.mark.slow
OLD_PIP = "pip==23.2.1"
PACKAGE = "air"


def lipogram_place(environment, run):
    """Where the installed `lipogram` comes from, as its metadata tells."""
    read = "print(importlib.metadata.distribution('lipogram').read_text('direct_url.json'))"
    code = f"import importlib.metadata; {read}"
    return run(environment / "bin/python", "-c", code, cwd="/").stdout


def works(environment, run):
    """The package imports and its command answers, away from the checkout."""
    run(environment / "bin/python", "-c", f"import {PACKAGE}, lipogram.analytic", cwd="/")
    answer = run(environment / "bin" / PACKAGE, "--version", cwd="/").stdout
    assert "0.1.0" in answer
    files = run(
        environment / "bin/python", "-m", "pip", "show", "--files", f"lipogram-{PACKAGE}", cwd="/"
    )
    assert "Requires: lipogram" in files.stdout


@pytest.fixture
def filled(root, run, tools, tmp_path):
    """Makes an environment that has a pip and all that the package needs from an index."""
    made = []

    def make(pip="pip"):
        environment, pins = tmp_path / f"environment{len(made)}", tmp_path / "pins.txt"
        made.append(environment)
        flags = ["--frozen", "--no-emit-workspace", "--no-hashes", "--no-dev", "--no-header"]
        run(tools / "uv", "export", *flags, f"--package=lipogram-{PACKAGE}", "-o", pins, cwd=root)
        run(tools / "uv", "venv", "--python", sys.executable, environment)
        options = ["--python", environment, "--requirement", pins, pip]
        run("bash", "tools/index.sh", tools / "uv", "pip", "install", *options, cwd=root)
        return environment

    yield make
    for environment in made:
        shutil.rmtree(environment, ignore_errors=True)


@pytest.mark.timeout(1500)
def test_plain_pip_in_an_empty_environment(checkout, run, tmp_path):
    environment = tmp_path / "environment"
    try:
        run(sys.executable, "-m", "venv", environment)
        python = environment / "bin/python"
        run(python, "-m", "pip", "install", f"packages/{PACKAGE}", cwd=checkout)
        works(environment, run)
        assert (checkout / "shared").as_uri() in lipogram_place(environment, run)
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def test_language_models_come_without_torchvision(checkout, run, tools, tmp_path):
    environment = tmp_path / "environment"
    try:
        run(tools / "uv", "venv", "--python", sys.executable, environment)
        command = [tools / "uv", "pip", "install", "--python", environment, "./packages/ftunlearn"]
        run("bash", "tools/index.sh", *command, cwd=checkout)
        assert "smollm2" in run(environment / "bin/ftunlearn", "models", cwd="/").stdout
        code = "from importlib.util import find_spec; print(find_spec('torchvision'))"
        assert run(environment / "bin/python", "-c", code, cwd="/").stdout.strip() == "None"
    finally:
        shutil.rmtree(environment, ignore_errors=True)


@pytest.mark.parametrize("pip", [OLD_PIP, "pip"], ids=["old pip", "current pip"])
def test_checkout_plain_then_editable(checkout, run, filled, pip):
    environment = filled(pip)
    install = [environment / "bin/python", "-m", "pip", "install"]
    run(*install, f"packages/{PACKAGE}", cwd=checkout)
    works(environment, run)
    assert (checkout / "shared").as_uri() in lipogram_place(environment, run)

    run(*install, "-e", f"packages/{PACKAGE}", cwd=checkout)
    works(environment, run)
    where = f"import {PACKAGE}; print({PACKAGE}.__file__)"
    found = run(environment / "bin/python", "-c", where, cwd="/").stdout
    assert found.startswith(str(checkout / "packages" / PACKAGE / "src"))


def test_built_wheels_without_an_index(checkout, run, filled, tools):
    for source in ["shared", f"packages/{PACKAGE}"]:
        command = [tools / "uv", "build", source, "--out-dir", "dist"]
        run("bash", "tools/index.sh", *command, cwd=checkout)
    environment = filled()
    install = [environment / "bin/python", "-m", "pip", "install", "--no-index"]
    run(*install, "--find-links", "dist", f"lipogram-{PACKAGE}", cwd=checkout)
    works(environment, run)
    assert lipogram_place(environment, run).strip() == "None"


def test_git_and_uv(checkout, run, filled, tools):
    environment = filled()
    url = f"git+{checkout.as_uri()}#subdirectory=packages/{PACKAGE}"
    run(environment / "bin/python", "-m", "pip", "install", url, cwd="/")
    works(environment, run)

    command = [tools / "uv", "pip", "install", "--python", environment, f"./packages/{PACKAGE}"]
    run("bash", "tools/index.sh", *command, cwd=checkout)
    works(environment, run)
