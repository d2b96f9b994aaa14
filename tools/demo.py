"""Run the demos of the packages named, then print one table: `python tools/demo.py NAME ...`.

`NAME demo --out runs/NAME-demo` has to write summary.json there, whose "headline" maps the names of
a few figures to their values.
"""

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


def run_demo(name: str, out: Path) -> float:
    """Run one package's demo; returns its wall time in seconds.

    Raises:
        subprocess.CalledProcessError: the demo failed.
    """
    start = time.perf_counter()
    command = Path(sysconfig.get_path("scripts")) / name
    subprocess.run([command, "demo", "--out", out], check=True)
    return time.perf_counter() - start


def headline(out: Path) -> dict[str, Any]:
    """The figures that the run in `out` wants shown.

    Raises:
        ValueError: the run wrote none.
    """
    summary = json.loads((out / "summary.json").read_text())
    figures = summary.get("headline")
    if not isinstance(figures, dict) or not figures:
        raise ValueError(f'{out}/summary.json has no "headline"')
    return figures


def shown(value: object) -> str:
    """A figure as a table shows it."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def table(measured: dict[str, tuple[float, dict[str, Any]]]) -> Table:
    """One row a figure, grouped by package."""
    rows = Table("package", "figure", "value", "seconds", title="Lipogram: what the demos measured")
    for name, (seconds, figures) in measured.items():
        for position, (figure, value) in enumerate(figures.items()):
            first = position == 0
            rows.add_row(
                name if first else "", figure, shown(value), f"{seconds:.0f}" if first else ""
            )
        rows.add_section()
    return rows


def main(names: list[str]) -> int:
    """Run the demos one after the other; returns the exit code, 1 if any of them failed."""
    measured, failed = {}, []
    for name in names:
        out = ROOT / "runs" / f"{name}-demo"
        try:
            seconds = run_demo(name, out)
            measured[name] = seconds, headline(out)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            failed.append(f"{name}: {error}")
    if measured:
        Console().print(table(measured))
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
