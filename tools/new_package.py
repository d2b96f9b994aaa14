"""Make the skeleton of a package: `python tools/new_package.py NAME [ROOT]`.

NAME is the folder, the import name and the command; the distribution is `lipogram-NAME`.
"""

import keyword
import re
import shutil
import string
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
SKELETON = CHECKOUT / "tools" / "skeleton"
TAKEN = {"lipogram", "shared", "tools", "tests"}


def objection(name: str, root: Path) -> str | None:
    """Why a package of this name cannot be made in the checkout at `root`, or None."""
    if not re.fullmatch(r"[a-z][a-z0-9]{1,15}", name):
        return f"{name!r} is no package name: 2 to 16 lower-case letters and digits, a letter first"
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in TAKEN:
        return f"{name!r} is taken by Python or by the workspace: choose another name"
    if (root / "packages" / name).exists():
        return f"packages/{name} exists: choose another name"
    return None


def compatible_range(version: str) -> str:
    """The versions compatible with `version` of `lipogram`: 0.1.4 gives >=0.1,<0.2."""
    major, minor, *_ = (int(part) for part in version.split("."))
    return f">={major}.{minor},<{major}.{minor + 1}"


def make(name: str, root: Path) -> Path:
    """Write packages/NAME in the checkout at `root`; returns the folder."""
    shared = tomllib.loads((root / "shared" / "pyproject.toml").read_text())["project"]
    words = {"name": name, "range": compatible_range(shared["version"])}
    folder = root / "packages" / name
    for source in sorted(path for path in SKELETON.rglob("*") if path.is_file()):
        if "__pycache__" in source.parts:
            continue
        place = folder / str(source.relative_to(SKELETON)).replace("NAME", name).removesuffix(".in")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".in":
            place.write_text(string.Template(source.read_text()).substitute(words))
        else:
            shutil.copyfile(source, place)
    shutil.copyfile(CHECKOUT / "LICENSE", folder / "LICENSE")
    # The order of imports and the breaking of lines depend on the name.
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--select=I", "--fix"], ["format"]):
        subprocess.run([ruff, *command, "--quiet", folder], check=True, cwd=root)
    return folder


def main(arguments: list[str]) -> int:
    """Make the package named by the first argument; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print("usage: make new-package NAME=foo", file=sys.stderr)
        return 2
    name, root = arguments[0], Path(arguments[1]) if len(arguments) == 2 else CHECKOUT
    if refusal := objection(name, root):
        print(refusal, file=sys.stderr)
        return 1
    folder = make(name, root)
    print(f"{folder.relative_to(root)} is ready: `make test-{name}`, `make lint`, then its README")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
