"""The part of the demonstration's page that shows emoji, one client per vendor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipogram.analytic.emoji import CREDITS, EmojiFeatures
from lipogram.figure_style import INK, headline, new_figure, plain, save, short
from lipogram.report import Section, Table
from lipogram.runs import Run

_HEADING = "One client per vendor: emoji"


def emoji_sections(
    run: Run, emoji: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[Section]:
    """What the page says about :func:`afl.demo_emoji.run_emoji`, with a figure made here.

    Args:
        run: whose folder has the picture of the drawings, and gets the figure.
        emoji: what it returned.
        settings: the fields of :class:`afl.demo_emoji.EmojiSettings`.
    """
    if "note" in emoji:
        return [Section(heading=_HEADING, text=f"This part was left out: {emoji['note']}")]
    vendors = emoji["vendors"]
    figure = run.figure("vendors")
    vendor_matrix(emoji, figure)
    differ = emoji["different_predictions"]
    return [
        Section(
            heading=_HEADING,
            text=(
                f"{', '.join(vendors)}: each client holds its own drawings of the same "
                f"{emoji['train_rows']:,} emoji. Asked for is the group (one of "
                f"{len(emoji['class_names'])}, as Unicode files them) of {emoji['test_rows']:,} "
                "others, which no client has seen from any vendor. Classes are spread alike; only "
                "the style differs. Joined sequences, mostly a man's, a woman's and a neutral "
                "drawing of one thing, are left out. Features: EfficientNet-Lite0 at "
                f"{settings['image_size']} px, all {emoji['n_features']:,}."
            ),
            figure=run.figure("emoji"),
            caption=f"One emoji of each group, as each vendor draws it. {CREDITS}",
        ),
        Section(
            heading="Tested on every vendor's drawings",
            text=(
                f"A client's own head reaches {emoji['own']:.3f} on its own style and "
                f"{emoji['strange']:.3f} on the others'; the federation's, after one round, "
                f"{emoji['joint']:.3f} on all: "
                + (f"{differ} predictions differ" if differ else "no prediction differs")
                + " from those of the head fitted on all drawings at once, and the weights differ "
                f"by {emoji['off_pooled']:.1e} of the largest. What a client gains is the styles "
                "that it does not draw itself, not its own. FedAvg, after "
                f"{settings['rounds']} rounds, reaches {np.mean(emoji['accuracy']['FedAvg']):.3f}. "
                "The last row is the head of all vendors but the one that it is tested on, so of a "
                "style that nobody has shown it."
            ),
            table=_table(emoji),
            figure=figure,
            caption=(
                "Test accuracy of each head (rows) on each vendor's drawings (columns); the "
                f"standard error of a cell is at most {emoji['error']:.3f}."
            ),
        ),
    ]


def vendor_matrix(emoji: Mapping[str, Any], path: Path) -> None:
    """Accuracy of every head on every vendor's drawings, as a matrix with its numbers.

    Args:
        emoji: what :func:`afl.demo_emoji.compare_vendors` returns.
        path: ``.png`` or ``.svg``.
    """
    rows = _rows(emoji)
    values = np.array([[*row, np.mean(row)] for row in rows.values()])
    figure = new_figure(0.42 * len(rows) + 0.9)
    axes = figure.add_subplot()
    bottom, top = float(values.min()) - 0.1, float(values.max()) + 0.1
    axes.imshow(values, cmap="Blues", vmin=bottom, vmax=top, aspect="auto")
    for row, cells in enumerate(values):
        for column, cell in enumerate(cells):
            ink = "white" if cell > (bottom + 1.5 * top) / 2.5 else INK
            axes.text(column, row, f"{cell:.3f}", ha="center", va="center", fontsize=9, color=ink)
    names = [*emoji["vendors"], "mean"]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        plain(label)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axvline(len(names) - 1.5, color="white", linewidth=3)
    axes.axhline(len(emoji["vendors"]) - 0.5, color="white", linewidth=3)
    headline(axes, "Trained by (rows), tested on the drawings of (columns)")
    save(figure, path)


def draw_examples(features: EmojiFeatures, path: Path) -> None:
    """The first emoji of each group that is held out, as every vendor draws it.

    Args:
        features: with the drawings behind them.
        path: ``.png`` or ``.svg``.

    Raises:
        BrokenImage: a drawing that cannot be decoded.
    """
    shown = [
        int(np.flatnonzero(features.held_out & (features.labels == label))[0])
        for label in range(len(features.class_names))
    ]
    figure = new_figure(0.85 * len(features.vendors) + 0.4)
    panels = figure.subplots(len(features.vendors), len(shown), squeeze=False)
    for row, (vendor, images) in enumerate(zip(features.vendors, features.drawings, strict=True)):
        for column, number in enumerate(shown):
            axes = panels[row, column]
            axes.imshow(images.load(number))
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if column == 0:
                plain(axes.set_ylabel(vendor, fontsize=9, color=INK))
            if row == 0:
                name = short(features.class_names[column]).replace(" & ", " &\n")
                plain(axes.set_title(name, fontsize=7.5, color=INK))
    save(figure, path)


def _rows(emoji: Mapping[str, Any]) -> dict[str, list[float]]:
    """Heads by what a reader calls them."""
    accuracy = emoji["accuracy"]
    alone = {name: values for name, values in accuracy.items() if name.endswith(" alone")}
    return {
        **alone,
        "AFL, all vendors": accuracy["AFL"],
        "FedAvg, all vendors": accuracy["FedAvg"],
        "AFL, all but the tested": emoji["left_out"],
    }


def _table(emoji: Mapping[str, Any]) -> Table:
    gammas = emoji["gamma"]
    return Table(
        columns=["head", "γ, chosen from the sums"],
        rows=[[name, round(gamma)] for name, gamma in gammas.items()],
        caption=f"{emoji['megabytes']:.1f} MB were sent in all.",
    )
