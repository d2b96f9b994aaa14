"""The drift as a picture: where old classes are, where they were thought to be, where they went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    headline,
    new_figure,
    plain,
    save,
    short,
)

_MOST_NAMES = 12


def drift_distances(true: ArrayLike, guessed: ArrayLike) -> NDArray[np.float64]:
    """Distance (k,) of guessed class means (k, d) from the true ones, in feature units."""
    distances: NDArray[np.float64] = np.linalg.norm(
        np.asarray(true, dtype=np.float64) - np.asarray(guessed, dtype=np.float64), axis=1
    )
    return distances


def drift_picture(
    true: ArrayLike,
    stale: ArrayLike,
    moved: ArrayLike,
    names: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Old classes' means in the two strongest directions of the drift, an arrow for each.

    A ring is where a class is under the present network, which only its images know. A cross is
    where its stored mean says it is; the arrow leads from there to where the calibration put it.
    The plane is that of the two main components of the rings and the crosses.

    Args:
        true: (k, d) means of the old classes' images under the present network, k ≥ 1.
        stale: (k, d) means as they were stored.
        moved: (k, d) means after calibration.
        names: (k,) of the classes; up to twelve are written.
        path: `.png` or `.svg`.
        title: above the figure.

    Raises:
        InvalidSetting: no class, unequal shapes, or a path with another suffix.
    """
    from matplotlib.lines import Line2D

    points = [np.asarray(each, dtype=np.float64) for each in (true, stale, moved)]
    shapes = {each.shape for each in points}
    if len(shapes) != 1 or points[0].ndim != 2 or len(names) != len(points[0]) or not len(names):
        raise InvalidSetting(
            f"means of shapes {[each.shape for each in points]} and {len(names)} names: all three "
            "must be (classes, features) of the same classes, at least one"
        )
    centre = np.concatenate(points[:2]).mean(0)
    _, _, axes_of = np.linalg.svd(np.concatenate(points[:2]) - centre, full_matrices=False)
    plane = np.zeros((points[0].shape[1], 2))
    plane[:, : min(2, len(axes_of))] = axes_of[:2].T
    here, thought, put = ((each - centre) @ plane for each in points)
    figure = new_figure(5.2)
    axes = figure.add_subplot()
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    for a, b in zip(thought, put, strict=True):
        arrow = {"arrowstyle": "-|>", "color": COLOURS[0], "lw": 1.2, "shrinkA": 3, "shrinkB": 0}
        axes.annotate("", xy=(b[0], b[1]), xytext=(a[0], a[1]), arrowprops=arrow, zorder=3)
    for a, b in zip(put, here, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color=FAINT, lw=1, ls=":", zorder=1)
    axes.scatter(
        here[:, 0], here[:, 1], s=46, facecolors="none", edgecolors=INK, linewidths=1.3, zorder=4
    )
    axes.scatter(
        thought[:, 0], thought[:, 1], s=34, marker="x", color=COLOURS[1], linewidths=1.4, zorder=2
    )
    axes.scatter(put[:, 0], put[:, 1], s=12, color=COLOURS[0], zorder=5)
    if len(names) <= _MOST_NAMES:
        for where, name in zip(here, names, strict=True):
            label = axes.annotate(
                short(name), (where[0], where[1]), xytext=(6, 5), textcoords="offset points"
            )
            label.set(fontsize=8.5, color=INK)
            plain(label)
    headline(axes, title)
    marks = [
        Line2D([], [], ls="", marker="o", mfc="none", mec=INK, label="where the class is now"),
        Line2D([], [], ls="", marker="x", color=COLOURS[1], label="where its stored mean says"),
        Line2D([], [], ls="", marker=">", color=COLOURS[0], label="where calibration put it"),
    ]
    axes.legend(
        handles=marks,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=MUTED,
    )
    save(figure, path)
