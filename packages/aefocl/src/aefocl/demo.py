"""The demonstration: real pictures as streams, nobody's long tail, on a laptop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aefocl.comparison_report import LABELS, write_comparison
from aefocl.experiment import Experiment, run_experiment
from lipogram.errors import MissingAsset
from lipogram.files import write_atomically
from lipogram.options import choice
from lipogram.runs import Run

STREAMS = ("openclipart", "emoji")
SETTINGS: dict[str, dict[str, Any]] = {
    "openclipart": {"gamma": 100.0},
    "emoji": {"gamma": 100.0},
    "digits": {"gamma": 1.0, "buffer_size": 512},
}
LEADS = {
    "openclipart": (
        "Drawings of Open Clip Art come ten at a time, in runs of one class, as large and as rare "
        "as people drew them."
    ),
    "emoji": "Emoji come vendor by vendor; other emoji of all vendors are tested after each.",
    "digits": "Handwritten digits come ten at a time, in runs of one digit, a hundred to one.",
}
HOW = (
    "Every method sees the same features of a frozen backbone, once, and keeps no picture. AEF-OCL "
    "solves the same closed form as plain ridge, after filling each class up with pseudo-features."
)


@dataclass(frozen=True)
class Demo:
    """What the demonstration left behind.

    Attributes:
        runs: by stream. ``reports``: their pages.
        fallback: why other streams were taken, or "".
    """

    runs: dict[str, Run]
    reports: dict[str, Path]
    fallback: str = ""

    def headline(self) -> dict[str, float]:
        """AMCA of each method on each stream."""
        told = {}
        for name, run in self.runs.items():
            assert run.result is not None, "a demonstration has finished runs"
            for method, figures in run.result["methods"].items():
                told[f"AMCA on {name}, {LABELS[method]}"] = round(figures["amca"], 4)
        return told


def run_demo(
    folder: Path,
    *,
    streams: Sequence[str] = STREAMS,
    progress: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Pseudo-features against plain ridge, AIR, streaming LDA and the nearest mean, over time.

    A stream that cannot be had is left out; where none can, scikit-learn's digits made long-tailed
    take their place.

    Args:
        folder: for a run each and ``summary.json``.
        streams: of ``openclipart``, ``emoji`` and ``digits``.
        progress: told what is worked on.

    Raises:
        InvalidSetting: another stream.
        RunMismatch: the folder holds runs with other settings.
    """
    for name in streams:
        choice("stream", name, tuple(SETTINGS))
    runs: dict[str, Run] = {}
    missing: list[str] = []
    for name in streams:
        try:
            runs[name] = _run(folder, name, progress)
        except MissingAsset as error:
            missing.append(f"{name}: {error}")
            progress(f"{name} is not to be had: {error}")
    if not runs:
        runs["digits"] = _run(folder, "digits", progress)
    reports = {
        name: write_comparison(run, title=f"AEF-OCL on {name}", lead=f"{LEADS[name]} {HOW}")
        for name, run in runs.items()
    }
    done = Demo(runs, reports, "; ".join(missing))
    summary = {"streams": list(runs), "headline": done.headline(), "fallback": done.fallback}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    return done


def _run(folder: Path, name: str, progress: Callable[[str], None]) -> Run:
    return run_experiment(
        Experiment(stream=name, **SETTINGS[name]), folder / name, progress=progress
    )
