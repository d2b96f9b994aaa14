"""The demonstration: a network is trained on class after class, and what it knew is not lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpcr.drift_replay import draw_drift
from dpcr.real_images import data_of, study_of
from dpcr.study import run_study
from dpcr.study_report import write_study
from lipogram.errors import MissingAsset
from lipogram.files import write_atomically
from lipogram.runs import Run

TITLES = {
    "openclipart": "44 kinds of drawings, four at a time",
    "fashion-mnist": "Ten kinds of garments, two at a time",
    "digits": "Ten digits, two at a time",
}
LEAD = (
    "Each task trains the network on its own classes, distilling its own former answers, and the "
    "features of all others drift. No image of an earlier task is kept: old classes live on as "
    "sums, which are moved by a linear map that the present task's images show."
)


@dataclass(frozen=True)
class Demo:
    """What the demonstration left behind.

    Attributes:
        runs: by data set.
        reports: their pages.
        fallback: why another data set was taken, or "".
    """

    runs: dict[str, Run]
    reports: dict[str, Path]
    fallback: str = ""

    def headline(self) -> dict[str, float]:
        """Accuracy on old classes after the last task."""
        figures: dict[str, float] = {}
        for name, run in self.runs.items():
            assert run.result is not None, "a demonstration has finished runs"
            for method in ("dpcr", "lwf", "stale", "oracle"):
                held: dict[str, Any] = run.result["methods"][method]
                figures[f"{name}, old classes, {method}"] = held["old_last"]["mean"]
        return figures


def run_demo(
    folder: Path,
    *,
    datasets: tuple[str, ...] = ("openclipart", "fashion-mnist"),
    seeds: tuple[int, ...] = (0,),
    progress: Callable[[str], None] = lambda line: None,
) -> Demo:
    """DPCR and what it is compared with, over one drifting network, on each data set.

    Where the images or weights cannot be had, the digits that scikit-learn brings take their place.

    Args:
        folder: for a run each.
        datasets: out of :data:`dpcr.real_images.SETS`.
        seeds: of class order and training.
        progress: told what is being worked on.
    """
    runs: dict[str, Run] = {}
    reports: dict[str, Path] = {}
    missing: list[str] = []
    for name in datasets:
        try:
            runs[name], reports[name] = _one(folder, name, seeds, progress)
        except MissingAsset as error:
            missing.append(str(error))
            progress(f"{name} is not to be had: {error}")
    if not runs:
        runs["digits"], reports["digits"] = _one(folder, "digits", seeds, progress)
    done = Demo(runs, reports, "; ".join(missing))
    summary = {"headline": done.headline(), "fallback": done.fallback}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    return done


def _one(
    folder: Path, name: str, seeds: tuple[int, ...], progress: Callable[[str], None]
) -> tuple[Run, Path]:
    study = study_of(name, seeds=seeds)
    progress(f"{name}: reading images through the stages that are not trained")
    data = data_of(name)
    run = run_study(study, data, folder / name, progress=progress)
    drift = draw_drift(study, data(seeds[0]), run, seed=seeds[0])
    return run, write_study(run, title=TITLES[name], lead=LEAD, drift=drift)
