"""The figure of use against leak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    GRID,
    MUTED,
    STYLES,
    framed,
    headline,
    new_figure,
    plain,
    save,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from privacyrestore.utility_curve import CurvePoint


def plot_curve(
    curves: Mapping[str, Sequence[CurvePoint]],
    path: str | Path,
    *,
    utility: str = "utility",
    chance: float | None = None,
    removed: float | None = None,
    title: str = "What is restored, and what is recovered",
) -> None:
    """Utility over span recovery; each point carries its ε.

    Bars are 95 % intervals. Up and to the left is better.

    Args:
        curves: points by the name of their curve.
        path: `.png` or `.svg`.
        utility: name of the vertical axis.
        chance: recovery by guessing the most frequent spans, drawn as a line.
        removed: utility of the cleaned texts alone, drawn as a line.
        title: above the figure.

    Raises:
        InvalidSetting: no curve, one without points, or another suffix.
    """
    from matplotlib import rc_context

    if not curves or not all(curves.values()):
        raise InvalidSetting("a figure needs at least one curve, each of at least one point")
    figure = new_figure(4.4)
    axes = framed(figure.add_subplot())
    axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    for number, (name, points) in enumerate(curves.items()):
        own = sorted(points, key=lambda point: (point.recovery, point.utility))
        colour = COLOURS[number % len(COLOURS)]
        across = np.array([(point.recovery, *point.recovery_interval) for point in own]).T
        up = np.array([(point.utility, *point.utility_interval) for point in own]).T
        axes.errorbar(
            across[0],
            up[0],
            xerr=np.abs(across[1:] - across[0]),
            yerr=np.abs(up[1:] - up[0]),
            color=colour,
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            elinewidth=0.8,
            marker="o",
            markersize=4,
            label=short(name),
            zorder=3,
        )
        told: list[CurvePoint] = []
        for point in own:
            if all(_apart(point, other) for other in told):
                label = "no noise" if point.epsilon is None else f"ε {point.epsilon:g}"
                _label(axes, label, point, color=colour)
                told.append(point)
    if chance is not None:
        axes.axvline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    if removed is not None:
        axes.axhline(removed, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        plain(axes.text(0.005, removed, "spans removed", color=MUTED, fontsize=8, va="bottom"))
    axes.set_xlim(0, 1.08)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    headline(axes, title)
    plain(
        axes.set_xlabel(
            "share of spans that the strongest attack recovers", color=MUTED, fontsize=9
        )
    )
    plain(axes.set_ylabel(utility, color=MUTED, fontsize=9))
    with rc_context({"svg.hashsalt": "curve"}):  # else names inside an SVG differ each time
        save(figure, Path(path))


def _apart(one: CurvePoint, other: CurvePoint) -> bool:
    """Whether two labels have room beside each other."""
    return abs(one.recovery - other.recovery) > 0.05 or abs(one.utility - other.utility) > 0.05


def _label(axes: Axes, text: str, point: CurvePoint, **style: Any) -> None:
    where = (point.recovery, point.utility)
    plain(
        axes.annotate(text, where, xytext=(4, -9), textcoords="offset points", fontsize=7, **style)
    )
