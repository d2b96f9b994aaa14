"""A comparison as a person reads it: tables, curves, and the classes one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lipogram.figures import accuracy_curves, per_class_bars
from lipogram.report import Section, Table, write_report
from lipogram.runs import Run

LABELS = {
    "air": "AIR",
    "ridge": "ridge",
    "ncm": "nearest mean",
    "slda": "streaming LDA",
    "ranpac": "RanPAC",
    "oversampling": "oversampling",
}
COLUMNS = {
    "balanced_last": "bal. end",
    "a_last": "acc. end",
    "balanced_avg": "bal. mean",
    "a_avg": "acc. mean",
    "a_auc": "A_AUC",
    "forgetting": "forget",
}


def tables(result: dict[str, Any]) -> dict[str, Table]:
    """One table a class order from a run's summary, AIR highlighted."""
    made = {}
    for order, methods in result["orders"].items():
        columns = [name for name in COLUMNS if all(name in figures for figures in methods.values())]
        made[order] = Table(
            columns=["method", *(COLUMNS[name] for name in columns)],
            rows=[
                [LABELS[method], *(figures[name] for name in columns)]
                for method, figures in methods.items()
            ],
            highlight=[i for i, method in enumerate(methods) if method == "air"],
            caption=(
                "Accuracy (acc.) and balanced accuracy (bal.) at the end of the stream and as the "
                f"mean over its tasks; {result['seeds']} seed{'s' if result['seeds'] > 1 else ''}."
            ),
        )
    return made


def figures(run: Run) -> dict[str, dict[str, Path]]:
    """Curves over the stream and per-class bars of each order, drawn into the run's folder."""
    assert run.result is not None, "figures are drawn from a finished run"
    drawn: dict[str, dict[str, Path]] = {}
    for order in run.result["orders"]:
        drawn[order] = {
            "stream": _stream_figure(run, order),
            "classes": _class_figure(run, order),
        }
    return drawn


def write_comparison(run: Run, *, title: str, lead: str, extra: tuple[Section, ...] = ()) -> Path:
    """``report.html`` of a finished comparison; its path comes back."""
    result = run.result
    assert result is not None, "a report is written from a finished run"
    drawn, shown = figures(run), tables(result)
    sections = list(extra)
    for order, table in shown.items():
        sections += [
            Section(
                heading=f"{_order_name(order)}: results",
                text=_sentence(result["gain_over_ridge"].get(order)),
                table=table,
            ),
            Section(
                heading=f"{_order_name(order)}: over the stream",
                figure=drawn[order]["stream"],
                caption="Balanced accuracy on the test rows of the classes exposed so far.",
            ),
            Section(
                heading=f"{_order_name(order)}: class by class",
                figure=drawn[order]["classes"],
                caption="Accuracy of each class at the end, largest class first.",
            ),
        ]
    gains = result["gain_over_ridge"].values()
    key_figures = {}
    if gains:
        key_figures = {
            "balanced accuracy, AIR − ridge": f"{np.mean([g['balanced'] for g in gains]):+.3f}",
            "overall accuracy, AIR − ridge": f"{np.mean([g['accuracy'] for g in gains]):+.3f}",
        }
    return write_report(run, title=title, lead=lead, sections=sections, key_figures=key_figures)


def _order_name(order: str) -> str:
    return {"mixed": "Blurry tasks"}.get(order, f"{order.capitalize()} order")


def _sentence(gain: dict[str, float] | None) -> str:
    if gain is None:
        return ""
    return (
        f"At the end of the stream AIR is {gain['balanced']:+.3f} in balanced accuracy and "
        f"{gain['accuracy']:+.3f} in overall accuracy against plain ridge with the same γ."
    )


def _last_looks(run: Run, order: str) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Evaluations of each method and seed; of a stream that was begun twice, the second time."""
    looks: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for event in run.events("evaluation"):
        if event["order"] != order:
            continue
        mine = looks.setdefault(event["method"], {}).setdefault(event["seed"], [])
        if mine and event["n_seen"] <= mine[-1]["n_seen"]:
            mine.clear()
        mine.append(event)
    return looks


def _stream_figure(run: Run, order: str) -> Path:
    series = {}
    for method, seeds in _last_looks(run, order).items():
        looks = seeds[min(seeds)]
        series[LABELS[method]] = (
            [look["n_seen"] for look in looks],
            [look["balanced_accuracy"] for look in looks],
        )
    path = run.figure(f"stream-{order}")
    accuracy_curves(
        series,
        path,
        xlabel="samples seen",
        ylabel="balanced accuracy",
        title=f"{run.config['dataset']}, {_order_name(order).lower()}",
    )
    return path


def _class_figure(run: Run, order: str) -> Path:
    done = [event for event in run.events("done") if event["order"] == order]
    names, sizes = done[0]["class_names"], np.asarray(done[0]["sizes"])
    shown = [label for label in range(len(names)) if sizes[label]]
    accuracies = {}
    for method, seeds in _last_looks(run, order).items():
        if method not in ("air", "ridge"):
            continue
        ends = [looks[-1]["per_class"] for looks in seeds.values()]
        accuracies[LABELS[method]] = [
            float(np.nanmean([end.get(str(label), np.nan) for end in ends])) for label in shown
        ]
    path = run.figure(f"classes-{order}")
    per_class_bars([names[i] for i in shown], sizes[shown].tolist(), accuracies, path)
    return path
