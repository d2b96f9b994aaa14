"""Run the demos of the packages named, then print one table: `python tools/demo.py NAME ...`.

Two run at a time, since most are bound by one core; each line tells whose it is. `--quick` leaves
out those that take many minutes, and says so.

`NAME demo --out runs/NAME-demo` has to write summary.json there, whose "headline" maps the names of
a few figures to their values.
"""

import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
AT_A_TIME = 2
# Many minutes each; begun last they would run alone in the end.
LONG = ("ftunlearn", "rewardds", "dpcr")
# Two pools of threads on the same cores spin against each other.
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    str(max(1, (os.cpu_count() or 1) // AT_A_TIME)),
)
speaking = threading.Lock()


def run_demo(name: str, out: Path) -> float:
    """Run one package's demo; returns its wall time in seconds.

    Raises:
        subprocess.CalledProcessError: the demo failed.
    """
    start = time.perf_counter()
    command = Path(sysconfig.get_path("scripts")) / name
    with subprocess.Popen(
        [command, "demo", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=THREADS | dict(os.environ) | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            with speaking:
                print(f"{name} | {line}", end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
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


def measure(name: str) -> tuple[float, dict[str, Any]] | str:
    """Seconds and figures of one package's demo, or what went wrong with it."""
    out = ROOT / "runs" / f"{name}-demo"
    try:
        return run_demo(name, out), headline(out)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        return f"{name}: {error}"


def main(arguments: list[str]) -> int:
    """Run the demos; returns the exit code, 1 if any of them failed."""
    names = [name for name in arguments if name != "--quick"]
    if "--quick" in arguments:
        left_out = [name for name in names if name in LONG]
        names = [name for name in names if name not in LONG]
        print(f"left out, being long: {', '.join(left_out) or 'none'}", flush=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        longest_first = sorted(names, key=lambda name: name not in LONG)
        running = {name: pool.submit(measure, name) for name in longest_first}
        results = {name: running[name].result() for name in names}
    measured = {name: found for name, found in results.items() if not isinstance(found, str)}
    failed = [found for found in results.values() if isinstance(found, str)]
    if measured:
        Console().print(table(measured))
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
