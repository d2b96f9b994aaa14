"""Write uv.lock: versions, dependency graph and markers of every platform, and no host.

`uv lock` records the address and hash of every file of the index it was run against. Those lines
are dropped here, so that the lock is the same on every machine and fits any index.

    python tools/lock.py                 lock again, keeping the pinned versions that still fit
    python tools/lock.py --upgrade       any further argument goes to `uv lock`
    python tools/lock.py --check         exit 1 if uv.lock is not what this script would write
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def strip(lock: str) -> str:
    """`lock` without indexes, files, hashes and the copy of the requirements.

    The copy (`[package.metadata]`) has to go too: with it, uv would hold the lock for complete and
    stop for want of files; without it, uv resolves again and keeps the pinned versions.
    """
    lock = re.sub(r'\{ registry = "[^"]*" \}', '{ registry = "." }', lock)
    lock = re.sub(r"^sdist = .*\n", "", lock, flags=re.MULTILINE)
    lock = re.sub(r"^wheels = \[\n(?: .*\n)*\]\n", "", lock, flags=re.MULTILINE)
    lock = re.sub(r"^\[package\.metadata[^\n]*\]\n(?:.+\n)*", "", lock, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", lock).rstrip() + "\n"


def resolve(root: Path, flags: list[str]) -> str:
    """The stripped lock of the workspace at `root`; `root` itself is not touched."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs = [root / "pyproject.toml", root / "shared/pyproject.toml", root / "uv.lock"]
        for file in [*inputs, *sorted(root.glob("packages/*/pyproject.toml"))]:
            if file.exists():
                target = Path(scratch) / file.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        subprocess.run(
            [uv(), "lock", "--quiet", "--directory", scratch, "--python", sys.executable, *flags],
            check=True,
        )
        return strip((Path(scratch) / "uv.lock").read_text())


def uv() -> str:
    """The uv beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def main(arguments: list[str]) -> int:
    """Write the lock, or compare it; returns the exit code."""
    check = "--check" in arguments
    lock = ROOT / "uv.lock"
    try:
        wanted = resolve(ROOT, [flag for flag in arguments if flag != "--check"])
    except subprocess.CalledProcessError as error:
        print(f"uv lock failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode
    if not check:
        lock.write_text(wanted)
    elif not lock.exists() or lock.read_text() != wanted:
        print("uv.lock is out of date, or holds hosts. Run `make lock`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
