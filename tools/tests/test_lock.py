import importlib.util
import shutil
import subprocess
import sys

import pytest

LOCK = """version = 1

[[package]]
name = "one"
version = "1.0"
source = { registry = "https://index.invalid/simple" }
dependencies = [
    { name = "two", marker = "sys_platform == 'linux'" },
]
sdist = { url = "https://files.invalid/one.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://files.invalid/one.whl", hash = "sha256:00", size = 1 },
    { url = "https://files.invalid/one-win.whl", hash = "sha256:00", size = 1 },
]

[[package]]
name = "ours"
version = "0.1.0"
source = { editable = "shared" }
dependencies = [
    { name = "one" },
]

[package.dev-dependencies]
test = [
    { name = "two" },
]

[package.metadata]
requires-dist = [
    { name = "one" },
]
provides-extras = ["x"]

[package.metadata.requires-dev]
test = [{ name = "two" }]

[[package]]
name = "two"
version = "2.0"
source = { registry = "/folder/of/a/machine" }
wheels = [
    { path = "two.whl" },
]
"""

STRIPPED = """version = 1

[[package]]
name = "one"
version = "1.0"
source = { registry = "." }
dependencies = [
    { name = "two", marker = "sys_platform == 'linux'" },
]

[[package]]
name = "ours"
version = "0.1.0"
source = { editable = "shared" }
dependencies = [
    { name = "one" },
]

[package.dev-dependencies]
test = [
    { name = "two" },
]

[[package]]
name = "two"
version = "2.0"
source = { registry = "." }
"""


@pytest.fixture(scope="module")
def lock(root):
    spec = importlib.util.spec_from_file_location("lock", root / "tools" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_strip_keeps_versions_and_graph_only(lock):
    assert lock.strip(LOCK) == STRIPPED


def test_strip_is_idempotent(lock):
    assert lock.strip(STRIPPED) == STRIPPED


def test_committed_lock_is_stripped(lock, root):
    text = (root / "uv.lock").read_text()
    assert text == lock.strip(text)
    assert "://" not in text


def test_committed_lock_can_be_exported_without_network(root, run, tools, packages):
    pins = run(
        tools / "uv", "export", "--frozen", "--offline", "--all-packages", "--no-hashes"
    ).stdout
    assert "-e ./shared" in pins.splitlines()
    assert {f"-e ./packages/{name}" for name in packages} <= set(pins.splitlines())
    assert "\ntorch==" in pins


def test_language_models_need_no_torchvision(run, tools):
    """In the pins of a plain `pip install packages/ftunlearn`."""
    flags = ["--frozen", "--offline", "--no-dev", "--no-hashes", "--no-header", "--no-annotate"]
    pins = run(tools / "uv", "export", *flags, "--package=lipogram-ftunlearn").stdout
    names = {line.partition("==")[0] for line in pins.splitlines()}
    assert {"torch", "transformers", "peft", "gguf"} <= names
    assert not {"torchvision", "timm", "trl", "datasets", "pandas", "wandb", "nnsight"} & names


@pytest.mark.slow
def test_check_notices_a_new_dependency_and_a_host(checkout, run, tools):
    def check():
        script = [sys.executable, "tools/lock.py", "--check"]
        return subprocess.run(["bash", "tools/index.sh", *script], cwd=checkout).returncode

    assert check() == 0
    original = checkout / "uv.lock"
    shutil.copy(original, checkout / "uv.lock.before")
    run("bash", "tools/index.sh", sys.executable, "tools/lock.py", cwd=checkout)
    assert original.read_bytes() == (checkout / "uv.lock.before").read_bytes()

    pyproject = checkout / "packages/air/pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"numpy>=2",', '"numpy>=2", "tabulate",'))
    assert check() == 1
    run("bash", "tools/index.sh", sys.executable, "tools/lock.py", cwd=checkout)
    assert check() == 0

    run("bash", "tools/index.sh", tools / "uv", "lock", cwd=checkout)
    assert "://" in original.read_text()
    assert check() == 1
    pins = original.read_text()
    run("bash", "tools/index.sh", sys.executable, "tools/lock.py", cwd=checkout)
    assert '"tabulate"' in pins
    assert "://" not in original.read_text()
