"""Check the standing rules that a command can see; print what breaks them, exit code 1 if so.

no registry host, no path of somebody's machine, no host in uv.lock
no pickled file, no code that reads or writes pickles, no `trust_remote_code`
a package imports `lipogram` and libraries, never another package; `lipogram` imports no package
no file above 1 MiB, no module above 400 lines
every package has the same hatch_build.py and LICENSE, and a range that holds lipogram's version
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LARGEST_FILE = 1 << 20
LONGEST_MODULE = 400

# Written in pieces, so that this file passes its own check.
HOSTS = [
    ".".join(labels)
    for labels in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org", "whl"),
        ("npmjs", "org"),
        ("debian", "org", "debian"),
        ("deb", "debian", "org"),
        ("anaconda", "org"),
        ("golang", "org"),
        ("crates", "io"),
    ]
]
MACHINE_FOLDERS = ["work", "root", "opt", "home", "Users", "tmp/dev"]
FORBIDDEN_TEXT = [
    ("a registry's host", re.compile("|".join(re.escape(host) for host in HOSTS))),
    ("a machine's path", re.compile(rf"(?<![\w.~>}})/])/(?:{'|'.join(MACHINE_FOLDERS)})/[\w.]")),
    ("a machine's path", re.compile(r"\b[A-Z]:\\(?:Users|home)\\")),
]
PICKLED_FILES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"}
PICKLING_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def files(root: Path) -> list[Path]:
    """What git tracks in `root` or would track, and that exists."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [root / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def text_problems(path: Path) -> Iterator[str]:
    """Hosts and machine paths in a text file; sizes and kinds of any file."""
    if path.stat().st_size > LARGEST_FILE:
        yield f"larger than 1 MiB: {path.stat().st_size} bytes"
    if path.suffix in PICKLED_FILES:
        yield f"a kind of file that may hold a pickle: {path.suffix}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return
    if path.suffix == ".py" and "tests" not in path.parts and len(lines) > LONGEST_MODULE:
        yield f"longer than {LONGEST_MODULE} lines: {len(lines)}"
    for number, line in enumerate(lines, 1):
        for what, pattern in FORBIDDEN_TEXT:
            if match := pattern.search(line):
                yield f"line {number}: {what}: {match[0]}"
        if path.name == "uv.lock" and "://" in line:
            yield f"line {number}: a lock without hosts has no address"


def code_problems(path: Path, package: str, packages: set[str]) -> Iterator[str]:
    """Pickles and forbidden imports in a module of `package` (`lipogram`, or a package's name)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in imported(node):
                root = module.partition(".")[0]
                if root in PICKLING_MODULES and "tests" not in path.parts:
                    yield f"line {node.lineno}: imports {root}"
                if root in packages - {package}:
                    yield f"line {node.lineno}: {package} imports {root}, another package"
        if isinstance(node, ast.Call) and "tests" not in path.parts:
            yield from call_problems(node)


def owner(place: Path) -> str:
    """The package that a file belongs to: its name, `lipogram`, or `workspace`."""
    folder, *rest = place.parts
    return rest[0] if folder == "packages" else {"shared": "lipogram"}.get(folder, "workspace")


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that one statement imports by absolute name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if node.level == 0 and node.module else []


def call_problems(call: ast.Call) -> Iterator[str]:
    """Calls that would read a pickle or run a downloaded model's code."""
    name = ast.unparse(call.func)
    arguments = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load" and arguments.get("weights_only") != "True":
        yield f"line {call.lineno}: torch.load without weights_only=True"
    if name == "torch.save":
        yield f"line {call.lineno}: torch.save writes a pickle"
    for argument in ("allow_pickle", "trust_remote_code"):
        if arguments.get(argument, "False") != "False":
            yield f"line {call.lineno}: {argument}={arguments[argument]}"


def copy_problems(root: Path, packages: set[str]) -> Iterator[str]:
    """Copies that differ from the one they were made from."""
    folders = [root / "packages" / name for name in sorted(packages)]
    pairs = [(folder / "LICENSE", root / "LICENSE") for folder in [root / "shared", *folders]]
    pairs += [
        (folder / "hatch_build.py", root / "tools/skeleton/hatch_build.py") for folder in folders
    ]
    for copy, original in pairs:
        if not copy.is_file() or copy.read_bytes() != original.read_bytes():
            yield f"{copy.relative_to(root)}: not the same as {original.relative_to(root)}"


def range_problems(root: Path, packages: set[str]) -> Iterator[str]:
    """Requirements on `lipogram` that the checkout's own version does not meet, or on a package."""
    version = project(root / "shared")["version"]
    for name in sorted(packages):
        declared = project(root / "packages" / name)
        extras = declared.get("optional-dependencies", {}).values()
        requirements = [Requirement(t) for t in sum(extras, declared["dependencies"])]
        where = f"packages/{name}/pyproject.toml"
        for requirement in requirements:
            if requirement.name == "lipogram" and version not in requirement.specifier:
                yield f"{where}: {requirement} does not hold {version}, the version of shared/"
            if requirement.name.startswith("lipogram-"):
                yield f"{where}: requires {requirement.name}, another package"
        if not any(requirement.name == "lipogram" for requirement in requirements):
            yield f"{where}: does not require lipogram"


def project(folder: Path) -> dict[str, Any]:
    """The `[project]` table of a folder's pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def problems(root: Path) -> list[str]:
    """Everything in the checkout at `root` that breaks a rule, one line each."""
    packages = {path.parent.name for path in root.glob("packages/*/pyproject.toml")}
    found = []
    for path in files(root):
        place = path.relative_to(root)
        lines = list(text_problems(path))
        if path.suffix == ".py":
            lines += code_problems(path, owner(place), packages)
        found += [f"{place}: {line}" for line in lines]
    return [*found, *copy_problems(root, packages), *range_problems(root, packages)]


if __name__ == "__main__":
    broken = problems(ROOT)
    print("\n".join(broken) or "the tree keeps the rules")
    sys.exit(1 if broken else 0)
