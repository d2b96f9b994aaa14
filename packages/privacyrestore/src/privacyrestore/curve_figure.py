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
    title: str = "What is restored, and what is recovered",
) -> None:
    """Utility over span recovery; each point carries its ε.

    Bars are 95 % intervals. Up and to the left is better.

    Args:
        curves: points by the name of their curve.
        path: `.png` or `.svg`.
        utility: name of the vertical axis.
        chance: recovery by guessing the most frequent spans, drawn as a line.
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
            zorder=3,
        )
        for point in own:
            label = "no noise" if point.epsilon is None else f"ε {point.epsilon:g}"
            _label(axes, label, point, (4, 5), color=colour, fontsize=7)
        _label(axes, short(name), own[0], (-4, 15), color=colour, fontsize=9, fontweight="bold")
    if chance is not None:
        axes.axvline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    axes.set_xlim(0, 1.08)
    headline(axes, title)
    plain(
        axes.set_xlabel(
            "share of spans that the strongest attack recovers", color=MUTED, fontsize=9
        )
    )
    plain(axes.set_ylabel(utility, color=MUTED, fontsize=9))
    with rc_context({"svg.hashsalt": "curve"}):  # else names inside an SVG differ each time
        save(figure, Path(path))


def _label(axes: Axes, text: str, point: CurvePoint, offset: tuple[int, int], **style: Any) -> None:
    where = (point.recovery, point.utility)
    plain(axes.annotate(text, where, xytext=offset, textcoords="offset points", **style))
