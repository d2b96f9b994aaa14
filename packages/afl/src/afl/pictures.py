"""The figures of the demonstration's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipogram.figure_style import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    framed,
    headline,
    new_figure,
    plain,
    save,
)


def accuracy_bars(splits: Mapping[str, Any], path: Path) -> None:
    """Test accuracy of AFL, FedAvg and FedProx, by split.

    Args:
        splits: the summary's ``splits``, see :func:`afl.demo.summarise`.
        path: ``.png`` or ``.svg``.
    """
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


def class_mixtures(splits: Mapping[str, Any], path: Path) -> None:
    """Share of each class (rows) at the first clients (columns), a panel for each split.

    Args:
        splits: the summary's ``splits``.
        path: ``.png`` or ``.svg``.
    """
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


def timeline_figure(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy and number of clients after each event.

    Args:
        points: of :func:`afl.timeline.timeline`; the last one is the leaver's.
        path: ``.png`` or ``.svg``.
    """
    figure = new_figure(4.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    places = np.arange(len(points))
    heights = [point["accuracy"] for point in points]
    colours = [COLOURS[0]] * (len(points) - 1) + [COLOURS[1]]
    framed(upper).plot(places, heights, color=COLOURS[0], linewidth=2.2, zorder=2)
    upper.scatter(places, heights, color=colours, s=34, zorder=3)
    room = max(max(heights) - min(heights), 1e-3)
    upper.set_ylim(min(heights) - 0.25 * room, max(heights) + 0.25 * room)
    for x, height, after in zip(places, heights, [*heights[1:], heights[-1]], strict=True):
        steep = after - height > 0.2 * room  # the line would cross a number above the point
        place = height + (-0.15 if steep else 0.07) * room
        plain(upper.text(x, place, f"{height:.3f}", ha="center", fontsize=7.5))
    headline(upper, "Test accuracy after each event")
    clients = [point["clients"] for point in points]
    framed(lower).bar(places, clients, 0.6, color=[FAINT] * (len(points) - 1) + [COLOURS[1]])
    for x, count in zip(places, clients, strict=True):
        plain(lower.text(x, count, f"{count:,}", ha="center", va="bottom", fontsize=7.5, color=INK))
    lower.set_ylim(0, max(clients) * 1.3)
    lower.set_yticks([])
    headline(lower, "Clients in the sum", color=MUTED, size=9)
    lower.set_xticks(places, [point["event"].replace(" ", "\n", 1) for point in points])
    lower.tick_params(axis="x", labelsize=7.5, labelcolor=INK)
    for label in lower.get_xticklabels():
        plain(label)
    save(figure, path)
