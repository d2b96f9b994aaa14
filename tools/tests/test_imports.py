"""Importing a package or its command line is no work: nothing heavy is loaded."""

import subprocess
import sys

import pytest

HEAVY = {
    "datasets",
    "flwr",
    "gguf",
    "matplotlib",
    "onnx",
    "opacus",
    "pandas",
    "peft",
    "timm",
    "torchvision",
    "transformers",
    "trl",
}


def loaded(module):
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def pytest_generate_tests(metafunc):
    if "package" in metafunc.fixturenames:
        folder = metafunc.config.rootpath / "packages"
        names = sorted(path.parent.name for path in folder.glob("*/pyproject.toml"))
        metafunc.parametrize("package", names)


def test_package(package):
    assert not HEAVY & loaded(package)


def test_command_line(package):
    assert not (HEAVY | {"numpy", "torch", "sklearn", "scipy"}) & loaded(f"{package}.cli")


@pytest.mark.parametrize(
    "module",
    ["lipogram", "lipogram.errors", "lipogram.llm", "lipogram.console", "lipogram.options"],
)
def test_shared(module):
    assert not (HEAVY | {"numpy", "torch", "sklearn", "scipy"}) & loaded(module)
