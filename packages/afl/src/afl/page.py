"""The demonstration as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipogram.figure_style import COLOURS, framed, headline, new_figure, plain, save
from lipogram.figures import accuracy_curves
from lipogram.report import Section, Table, write_report
from lipogram.runs import Run


def write_page(run: Run, summary: Mapping[str, Any], *, settings: Mapping[str, Any]) -> Path:
    """``report.html`` of a demonstration; its path comes back.

    Args:
        run: the run's folder.
        summary: what :func:`afl.demo.run_demo` returns.
        settings: what it ran.
    """
    splits, timeline = summary["splits"], summary["timeline"]
    bars, rounds, mixtures = (run.figure(name) for name in ("accuracy", "rounds", "mixtures"))
    _accuracy_bars(splits, bars)
    extreme = list(splits)[1]
    curves: dict[str, Any] = {
        "AFL, any split": _curve([splits[extreme]["accuracy"]] * settings["rounds"]),
        "FedAvg, IID": _curve(splits["IID"]["fedavg"]),
        f"FedAvg, {extreme}": _curve(splits[extreme]["fedavg"]),
        f"FedProx, {extreme}": _curve(splits[extreme]["fedprox"]),
    }
    accuracy_curves(
        curves, rounds, xlabel="round", ylabel="test accuracy", title="One round against many"
    )
    _mixtures(splits, mixtures)
    sections = [
        Section(
            heading="Every split gives the pooled head",
            text=(
                f"{settings['clients']} clients share {summary['train_rows']:,} rows. Each sends "
                "its sums once, as the bytes that a real client would send; the server adds them "
                "as integers and solves one system. Clients of any size are let in here; a real "
                "federation refuses those with fewer than 20 rows unless it is told otherwise."
                + (f"\n\n{summary['note']}" if summary["note"] else "")
            ),
            table=_split_table(splits),
            figure=bars,
            caption="Test accuracy by how the rows are spread over clients.",
        ),
        Section(
            heading="One round against many",
            text=(
                "FedAvg and FedProx train a logistic head on the same features, standardised with "
                "the mean and spread of all rows, which they would not have in the field. "
                "The number of rounds is a budget: their curves still rise where it ends, and with "
                "ten times as many FedAvg can pass a ridge head on even splits."
            ),
            figure=rounds,
            caption="Test accuracy after each communication round; AFL needs one.",
        ),
        Section(
            heading="What clients hold",
            figure=mixtures,
            caption=(
                "Share of each class (rows) at the first twenty clients (columns); an empty column "
                "is a client without data."
            ),
        ),
        Section(
            heading="Join, leave, and be gone",
            text=(
                f"{timeline['leaver']} leaves with {timeline['leaver_rows']} rows. The total "
                f"afterwards has SHA-256 {timeline['total_after'][:16]}…; a federation that never "
                f"had it, filled in the opposite order, has {timeline['total_without'][:16]}…: "
                + ("the same integers." if timeline["bitwise_equal"] else "not the same!")
            ),
            table=Table(
                columns=["event", "clients", "rows", "accuracy", "total"],
                rows=[
                    [p["event"], p["clients"], p["rows"], p["accuracy"], p["total"][:16]]
                    for p in timeline["points"]
                ],
                caption=(
                    f"The ledger has {timeline['ledger_entries']} entries, each bound to the one "
                    f"before; the last is {timeline['ledger_hash'][:16]}…"
                ),
            ),
        ),
    ]
    return write_report(
        run,
        title=f"AFL: {settings['clients']} clients, one round",
        lead="A federation whose answer does not depend on how the data are split.",
        sections=sections,
        key_figures=summary["headline"],
    )


def _split_table(splits: Mapping[str, Any]) -> Table:
    return Table(
        columns=[
            "split",
            "AFL",
            "FedAvg",
            "FedProx",
            "empty clients",
            "predictions off",
            "off the pooled head",
            "MB sent",
        ],
        rows=[
            [
                name,
                each["accuracy"],
                each["fedavg"][-1],
                each["fedprox"][-1],
                each["empty_clients"],
                each["different_predictions"],
                each["off_pooled"],
                each["megabytes"],
            ]
            for name, each in splits.items()
        ],
        caption=(
            "Test accuracy; AFL's predictions that differ from those of the head fitted on all "
            "rows, and the largest relative difference of their weights."
        ),
    )


def _curve(values: list[float]) -> tuple[list[int], list[float]]:
    return list(range(1, len(values) + 1)), values


def _accuracy_bars(splits: Mapping[str, Any], path: Path) -> None:
    figure = new_figure(3.2)
    axes = framed(figure.add_subplot())
    methods = {
        "AFL": [each["accuracy"] for each in splits.values()],
        "FedAvg": [each["fedavg"][-1] for each in splits.values()],
        "FedProx": [each["fedprox"][-1] for each in splits.values()],
    }
    places = np.arange(len(splits))
    for number, (name, heights) in enumerate(methods.items()):
        at = places + (number - 1) * 0.27
        axes.bar(at, heights, 0.25, color=COLOURS[number], label=name, zorder=2)
        for x, height in zip(at, heights, strict=True):
            plain(axes.text(x, height + 0.01, f"{height:.3f}", ha="center", fontsize=7.5))
    axes.set_xticks(places, list(splits))
    axes.set_ylim(0, 1.2)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(frameon=False, fontsize=8.5, ncols=3, loc="upper right")
    headline(axes, "Test accuracy by split")
    save(figure, path)


def _mixtures(splits: Mapping[str, Any], path: Path) -> None:
    figure = new_figure(2.6)
    panels = figure.subplots(1, len(splits))
    for axes, (name, each) in zip(np.atleast_1d(panels), splits.items(), strict=True):
        counts = np.asarray(each["mixtures"], dtype=float)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares.T, aspect="auto", cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        headline(axes, name, size=9)
    save(figure, path)
