"""Figures of a run, as PNG or SVG files.

Every curve and every row carries its name beside it instead of in a legend.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    STYLES,
    beside,
    framed,
    headline,
    new_figure,
    plain,
    save,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 70
_LETTERS_ACROSS = 110


def accuracy_curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str,
) -> None:
    """Curves of several methods over a stream, each with its name and last value at its end.

    Args:
        series: method to (x, y), each (n,), n >= 1; the first is drawn heaviest. Points that are
            not finite are left out.
        path: `.png` or `.svg`.
        xlabel: of the horizontal axis.
        ylabel: of the vertical axis.
        title: above the figure.

    Raises:
        InvalidSetting: no series, one of unequal lengths or without a finite point, or a path with
            another suffix.
    """
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    if not series:
        raise InvalidSetting("accuracy_curves needs at least one series")
    curves = {name: _points(name, x, y) for name, (x, y) in series.items()}
    figure = new_figure(4.0)
    axes = framed(figure.add_subplot())
    for number, (x, y) in enumerate(curves.values()):
        axes.plot(
            x,
            y,
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            linewidth=2.6 if number == 0 else 1.5,
            marker="o" if len(x) <= 12 else "",
            markersize=5 if number == 0 else 3.5,
            zorder=4 - number / len(curves),
            clip_on=False,
        )
    axes.margins(x=0.015, y=0.05)
    everything = np.concatenate([y for _, y in curves.values()])
    bottom, top = axes.get_ylim()
    if everything.min() >= 0 and everything.max() <= 1:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
        axes.set_ylim(bottom, top)
    positions = np.concatenate([x for x, _ in curves.values()])
    whole = bool((positions == np.round(positions)).all())
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole))
    if whole:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    headline(axes, title)
    plain(axes.set_xlabel(xlabel, color=MUTED, fontsize=9))
    plain(axes.set_ylabel(ylabel, color=MUTED, fontsize=9))
    _label_ends(axes, curves, gap=(top - bottom) * 0.06)
    save(figure, path)


def per_class_bars(
    class_names: Sequence[str],
    counts: Sequence[int],
    accuracies: Mapping[str, Sequence[float]],
    path: Path,
) -> None:
    """Per-class accuracy: a row of bars a method, classes by falling size, the sizes below.

    Args:
        class_names: (k,) names, k >= 1.
        counts: (k,) training samples of each class.
        accuracies: method to (k,) accuracies in [0, 1]; NaN leaves a gap (a class not tested).
        path: `.png` or `.svg`.

    Raises:
        InvalidSetting: no class or method, unequal lengths, a negative count, an accuracy outside
            [0, 1], or a path with another suffix.
    """
    sizes = np.asarray(counts, dtype=np.float64)
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in accuracies.items()}
    if not class_names or not rows:
        raise InvalidSetting("per_class_bars needs at least one class and one method")
    for name, values in (("counts", sizes), *rows.items()):
        if values.shape != (len(class_names),):
            raise InvalidSetting(
                f"{name} has shape {values.shape}, there are {len(class_names)} classes"
            )
        if (values < 0).any() or (values is not sizes and (values > 1).any()):
            raise InvalidSetting(f"{name} must be {'>= 0' if values is sizes else 'in [0, 1]'}")
    order = np.argsort(-sizes, kind="stable")
    places = np.arange(len(order))
    figure = new_figure(2.1 + 1.05 * len(rows))
    panels: list[Axes] = figure.subplots(
        len(rows) + 1, 1, sharex=True, squeeze=False, height_ratios=[1.0] * len(rows) + [0.8]
    )[:, 0].tolist()
    for number, (axes, (name, values)) in enumerate(zip(panels, rows.items(), strict=False)):
        colour = COLOURS[number % len(COLOURS)]
        mean = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        framed(axes).bar(places, values[order], 0.8, color=colour, zorder=2)
        axes.axhline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
        axes.tick_params(axis="x", length=0)
        beside(axes, mean, f"mean {mean:.3f}", color=INK)
        headline(axes, short(name), color=colour, size=10)
    _sizes_panel(panels[-1], places, sizes[order], [class_names[i] for i in order])
    save(figure, path)


def _sizes_panel(
    axes: "Axes", places: NDArray[np.int64], sizes: NDArray[np.float64], names: list[str]
) -> None:
    framed(axes).bar(places, sizes, 0.8, color=FAINT, zorder=2)
    largest, smallest = int(sizes.max()), int(sizes.min())
    axes.set_ylim(0, max(largest, 1))
    axes.set_yticks([0, max(largest, 1)], ["0", f"{max(largest, 1):,}"])
    axes.set_xlim(-0.7, len(names) - 0.3)
    headline(axes, f"training samples: {largest:,} to {smallest:,}", color=MUTED, size=9)
    if len(names) > _MOST_NAMES:
        axes.set_xticks([])
        plain(axes.set_xlabel(f"{len(names)} classes, largest first", color=MUTED, fontsize=9))
        return
    shown = [short(name) for name in names]
    fits = max(map(len, shown)) * len(shown) <= _LETTERS_ACROSS
    axes.set_xticks(places, shown, rotation=0 if fits else 90)
    axes.tick_params(axis="x", length=0, labelsize=8 if len(names) <= 50 else 6, labelcolor=INK)
    for label in axes.get_xticklabels():
        plain(label)


def _points(name: str, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if across.ndim != 1 or across.shape != up.shape:
        raise InvalidSetting(f"series {name!r} has x of {across.shape} and y of {up.shape}")
    finite = np.isfinite(across) & np.isfinite(up)
    if not finite.any():
        raise InvalidSetting(f"series {name!r} has no finite point")
    return across[finite], up[finite]


def _label_ends(
    axes: "Axes", curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], *, gap: float
) -> None:
    """Name the curves at the right, moved apart where they end too close to each other."""
    ends = [float(y[-1]) for _, y in curves.values()]
    for number, (name, height) in enumerate(zip(curves, _apart(ends, gap), strict=True)):
        beside(
            axes,
            height,
            f"{short(name)}  {ends[number]:.3f}",
            color=COLOURS[number % len(COLOURS)],
            fontweight="bold" if number == 0 else "normal",
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least `gap` from each other, as near as that allows to those given, same order."""
    order = np.argsort(heights, kind="stable")
    # Least squares under the gaps is isotonic regression of the heights less their stacked gaps.
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        mean, size = heights[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    placed = [0.0] * len(heights)
    for rank, i in enumerate(order):
        placed[i] = flat[rank] + rank * gap
    return placed
