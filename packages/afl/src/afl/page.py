"""The demonstration as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afl.page_emoji import emoji_sections
from afl.pictures import accuracy_bars, class_mixtures, timeline_figure
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
    names = ("accuracy", "rounds", "mixtures", "timeline")
    bars, rounds, mixtures, events = (run.figure(name) for name in names)
    accuracy_bars(splits, bars)
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
    class_mixtures(splits, mixtures)
    timeline_figure(timeline["points"], events)
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
                f"A tenth of the clients that hold rows begin, at {list(splits)[1]}; the others "
                "come late, each with the sums that it would have sent at the start. "
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
            figure=events,
            caption="Test accuracy and number of clients after each event; orange: one has left.",
        ),
    ]
    if summary["emoji"] is not None:
        sections += emoji_sections(run, summary["emoji"], settings["emoji"])
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
