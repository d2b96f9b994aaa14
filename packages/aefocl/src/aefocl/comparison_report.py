"""A comparison as a person reads it: a table, curves, the classes one by one, what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aefocl.experiment import picture, points_of
from lipogram.figures import accuracy_curves, per_class_bars
from lipogram.report import Cell, Section, Table, write_report
from lipogram.runs import Run

Curve = tuple[list[int], NDArray[np.float64]]
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
PSEUDO = {
    "aefocl": (
        "No row is kept: of each class only the mean and the spread of each feature are. What is "
        "drawn from them stands in for the rows that a rare class lacks, and is gone after the "
        "solve. Features that go together are drawn apart, so that the cloud is narrower than the "
        "class where many of them do."
    ),
    "aefocl-shared": (
        "To each class's own spread comes the covariance within all classes, which the sums hold "
        "already: a rare class borrows from the others how features go together."
    ),
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
    """Curves of all classes and of the rarest over the stream, and bars of the classes."""
    fewest = rarest(run)
    rare = f"mean accuracy, {len(fewest)} rarest classes"
    return {
        "stream": _stream_figure(run, None, "stream", "mean class accuracy"),
        "rare": _stream_figure(run, fewest, "rare", rare),
        "classes": _class_figure(run),
    }


def rarest(run: Run) -> list[str]:
    """The quarter of the tested classes, one at least, that have the fewest rows in the stream."""
    assert run.result is not None, "figures are drawn from a finished run"
    rows: dict[str, int] = run.result["rows"]
    tested = {name for line in points_of(run) for name in line["per_class"]}
    return sorted(tested, key=lambda name: (rows[name], name))[: max(1, len(tested) // 4)]


def curves(run: Run, names: Sequence[str] | None = None) -> dict[str, Curve]:
    """Rows seen, and mean accuracy over classes and seeds, at each point, by method.

    Args:
        run: finished.
        names: classes; None for all. A point leaves out those without a test row, and is NaN where
            none has one.
    """
    found = {}
    for method, seeds in _looks(run).items():
        means = []
        for lines in seeds.values():
            rates = [
                [rate for name, rate in line["per_class"].items() if names is None or name in names]
                for line in lines
            ]
            means.append([np.mean(mine) if mine else np.nan for mine in rates])
        n_seen = [line["n_seen"] for line in next(iter(seeds.values()))]
        found[method] = (n_seen, np.mean(means, axis=0))
    return found


def write_comparison(run: Run, *, title: str, lead: str) -> Path:
    """``report.html`` of a finished comparison; its path comes back."""
    result = run.result
    assert result is not None, "a report is written from a finished run"
    drawn = figures(run)
    sizes = [n for n in result["rows"].values() if n]
    sections = [
        Section(heading="Results", text=_told(result), table=table_of(result)),
        Section(
            heading="Over the stream",
            figure=drawn["stream"],
            caption="Mean class accuracy after each segment.",
        ),
        Section(
            heading="The rarest quarter of the classes",
            figure=drawn["rare"],
            caption="The same, of the classes with the fewest rows in the whole stream.",
        ),
        Section(
            heading="Class by class",
            figure=drawn["classes"],
            caption="Accuracy of each class at the end, largest class first.",
        ),
        *_pictures(run),
    ]
    gains: dict[str, Cell] = {
        f"AMCA, {LABELS[method]} − plain ridge": f"{gain['amca']:+.3f}"
        for method, gain in result["gain_over_plain"].items()
        if method.startswith("aefocl")
    }
    ratio: dict[str, Cell] = {"largest : smallest class": f"{max(sizes):,} : {min(sizes):,}"}
    return write_report(
        run, title=title, lead=lead, sections=sections, key_figures={**gains, **ratio}
    )


def _pictures(run: Run) -> list[Section]:
    """What each kind of pseudo-feature looks like, where there is a picture."""
    return [
        Section(
            heading=f"What is drawn: {LABELS[method]}",
            text=PSEUDO[method],
            figure=picture(run, method),
            caption="A rare class's rows, those drawn for it, and the class nearest to it.",
        )
        for method in PSEUDO
        if picture(run, method).is_file()
    ]


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


def _stream_figure(run: Run, names: list[str] | None, figure: str, ylabel: str) -> Path:
    path = run.figure(figure)
    accuracy_curves(
        {LABELS[method]: curve for method, curve in curves(run, names).items()},
        path,
        xlabel="rows seen",
        ylabel=ylabel,
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
