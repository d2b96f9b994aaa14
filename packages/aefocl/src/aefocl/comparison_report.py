"""A comparison as a person reads it: a table, curves, the classes one by one, what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aefocl.experiment import PICTURE, points_of
from lipogram.figures import accuracy_curves, per_class_bars
from lipogram.report import Cell, Section, Table, write_report
from lipogram.runs import Run

LABELS = {
    "aefocl": "AEF-OCL",
    "aefocl-shared": "AEF-OCL, shared cov.",
    "plain": "plain ridge",
    "slda": "streaming LDA",
    "ncm": "nearest mean",
    "air": "AIR",
}
COLUMNS = {
    "amca": "AMCA",
    "mean_class_accuracy_last": "mean class end",
    "accuracy_last": "accuracy end",
    "fit_seconds": "learn s",
    "predict_seconds": "answer s",
}


def table_of(result: dict[str, Any]) -> Table:
    """The methods of a run's summary, pseudo-features highlighted."""
    points, seeds = result["test_points"], result["seeds"]
    return Table(
        columns=["method", *COLUMNS.values()],
        rows=[
            [LABELS[method], *(figures[name] for name in COLUMNS)]
            for method, figures in result["methods"].items()
        ],
        highlight=[i for i, method in enumerate(result["methods"]) if method == "aefocl"],
        caption=(
            f"AMCA is the mean over {points} test point{'s' * (points > 1)} of the mean over the "
            "classes of accuracy; a class not learnt yet counts 0. Seconds of the whole stream: "
            "learning, and solving and answering at every test point. "
            f"{seeds} seed{'s' * (seeds > 1)}."
        ),
    )


def figures(run: Run) -> dict[str, Path]:
    """Curves over the stream, bars of the classes, and what was drawn, where there is a picture."""
    drawn = {"stream": _stream_figure(run), "classes": _class_figure(run)}
    if run.figure(PICTURE).is_file():
        drawn[PICTURE] = run.figure(PICTURE)
    return drawn


def write_comparison(run: Run, *, title: str, lead: str) -> Path:
    """``report.html`` of a finished comparison; its path comes back."""
    result = run.result
    assert result is not None, "a report is written from a finished run"
    drawn, sizes = figures(run), sorted(result["rows"].values())
    sections = [
        Section(heading="Results", text=_told(result), table=table_of(result)),
        Section(
            heading="Over the stream",
            figure=drawn["stream"],
            caption="Mean class accuracy after each segment.",
        ),
        Section(
            heading="Class by class",
            figure=drawn["classes"],
            caption="Accuracy of each class at the end, largest class first.",
        ),
    ]
    if PICTURE in drawn:
        sections.append(
            Section(
                heading="What is drawn",
                text=(
                    "No row is kept: of each class only the mean and the spread of each feature "
                    "are. What is drawn from them stands in for the rows that a rare class lacks, "
                    "and is gone after the solve."
                ),
                figure=drawn[PICTURE],
                caption="A rare class's rows, those drawn for it, and the class nearest to it.",
            )
        )
    gains: dict[str, Cell] = {
        f"AMCA, {LABELS[method]} − plain ridge": f"{gain['amca']:+.3f}"
        for method, gain in result["gain_over_plain"].items()
        if method.startswith("aefocl")
    }
    key_figures: dict[str, Cell] = {"largest : smallest class": f"{sizes[-1]:,} : {sizes[0]:,}"}
    return write_report(
        run, title=title, lead=lead, sections=sections, key_figures={**gains, **key_figures}
    )


def _told(result: dict[str, Any]) -> str:
    parts = []
    if result["duplicates"]:
        parts.append(f"{result['duplicates']} rows were equal to one learnt before.")
    if result["absent"]:
        names = ", ".join(result["absent"][:5]) + (" …" if len(result["absent"]) > 5 else "")
        parts.append(f"Not tested at every point, and left out there: {names}.")
    parts += [f"{remark}." for remark in result["remarks"]]
    return " ".join(parts)


def _looks(run: Run) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Lines of each method and seed, of the head in use."""
    looks: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for line in points_of(run):
        if line["head"] != "plain":
            looks.setdefault(line["method"], {}).setdefault(line["seed"], []).append(line)
    return looks


def _stream_figure(run: Run) -> Path:
    series = {}
    for method, seeds in _looks(run).items():
        of_seeds = list(seeds.values())
        series[LABELS[method]] = (
            [line["n_seen"] for line in of_seeds[0]],
            np.mean(
                [[line["mean_class_accuracy"] for line in lines] for lines in of_seeds], axis=0
            ),
        )
    path = run.figure("stream")
    accuracy_curves(
        series,
        path,
        xlabel="rows seen",
        ylabel="mean class accuracy",
        title=f"{run.config['stream']}, batches of {run.config['batch']}",
    )
    return path


def _class_figure(run: Run) -> Path:
    assert run.result is not None
    rows = run.result["rows"]
    looks = _looks(run)
    shown = [method for method in ("aefocl", "plain") if method in looks] or list(looks)[:1]
    accuracies = {
        LABELS[method]: [
            float(np.mean([lines[-1]["per_class"].get(name, np.nan) for lines in seeds.values()]))
            for name in rows
        ]
        for method, seeds in looks.items()
        if method in shown
    }
    path = run.figure("classes")
    per_class_bars(list(rows), list(rows.values()), accuracies, path)
    return path
