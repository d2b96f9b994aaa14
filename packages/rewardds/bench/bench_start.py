"""Time to the answer of `rewardds --version`, against an interpreter that does nothing."""

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "rewardds"
REPEATS = 5


def seconds(*command: str | Path) -> float:
    """Shortest wall time of `command` in `REPEATS` runs, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    bare, ours = seconds(sys.executable, "-c", "pass"), seconds(COMMAND, "--version")
    print(f"bare interpreter {bare:.3f} s")
    print(f"rewardds --version  {ours:.3f} s, {ours / bare:.1f} times the bare interpreter")
