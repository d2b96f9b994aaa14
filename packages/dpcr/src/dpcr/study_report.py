"""A study as a person reads it: a table, curves, where the old classes went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lipogram.figures import accuracy_curves
from lipogram.report import Section, Table, write_report
from lipogram.runs import Run

COLUMNS = {
    "a_last": "A_last",
    "a_avg": "A_avg",
    "old_last": "old, last",
    "new_last": "new, last",
    "forgetting": "forgetting",
}


def study_table(result: dict[str, Any]) -> Table:
    """One row a method; means over seeds, and the spread of A_last where there are several."""
    methods = result["methods"]
    columns = [name for name in COLUMNS if all(name in each for each in methods.values())]
    several = result["seeds"] > 1
    rows: list[list[str | float | None]] = []
    for method, figures in methods.items():
        spread = [figures["a_last"]["std"]] if several else []
        rows.append([method, *(figures[name]["mean"] for name in columns), *spread])
    return Table(
        columns=["method", *(COLUMNS[name] for name in columns), *(["± A_last"] * several)],
        rows=rows,
        highlight=[i for i, method in enumerate(methods) if method == "dpcr"],
        caption=(
            "Accuracy on all classes after the last task (A_last) and as the mean over tasks "
            "(A_avg), on the classes of earlier tasks and of the last one, and what earlier tasks "
            f"lost since they were known best; {result['seeds']} seed{'s' * several}."
        ),
    )


def draw_curves(run: Run) -> Path:
    """Curves of the accuracy on all classes so far, means over seeds, into the run's folder."""
    events = run.events("task")
    methods = list(events[0]["methods"])
    tasks = sorted({event["task"] for event in events})
    series = {
        method: (
            [t + 1 for t in tasks],
            [
                np.mean([e["methods"][method]["accuracy"] for e in events if e["task"] == t])
                for t in tasks
            ],
        )
        for method in methods
    }
    path = run.figure("curves")
    accuracy_curves(
        series,
        path,
        xlabel="task",
        ylabel="accuracy on all classes so far",
        title="Classes keep coming, old images are gone",
    )
    return path


def write_study(run: Run, *, title: str, lead: str, drift: tuple[Path, str] | None = None) -> Path:
    """``report.html`` of a finished study; its path comes back.

    Args:
        run: the study's.
        title: of the page.
        lead: below it.
        drift: the drift picture and a sentence about it.
    """
    assert run.result is not None, "a report is written from a finished run"
    methods = run.result["methods"]
    sections = [
        Section(heading="Accuracy", table=study_table(run.result)),
        Section(
            heading="Task by task",
            figure=draw_curves(run),
            caption="After each task, on the test images of all classes so far.",
        ),
    ]
    if drift is not None:
        path, told = drift
        sections.append(
            Section(
                heading="Where the old classes went",
                text=told,
                figure=path,
                caption=(
                    "Means of old classes in the plane of their main drift: rings, where their "
                    "images are under the last network (known for this picture only); crosses, "
                    "where the stored means say; arrows lead to where calibration put them."
                ),
            )
        )
    shown = [name for name in ("dpcr", "lwf", "stale", "ncm", "oracle") if name in methods]
    key_figures = {f"old classes, {name}": methods[name]["old_last"]["mean"] for name in shown}
    return write_report(run, title=title, lead=lead, sections=sections, key_figures=key_figures)
