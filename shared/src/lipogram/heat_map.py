"""Signed values by name and position, as heat-maps on one scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    headline,
    new_figure,
    plain,
    save,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNDEFINED = "#d0d4d9"
_MOST_NUMBERS = 16
_LEVELS = 41  # odd: 0 is white; few: they survive a picture of 256 colours


def heat_maps(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    positions: Sequence[int],
    path: Path,
    *,
    xlabel: str,
    scale: float = 1.0,
) -> None:
    """Heat-maps below each other: rows are names, columns positions, orange below 0, blue above.

    A value beyond the scale has its darkest colour, and the scale's bar an arrow. Beside each row
    stand its highest value and where it lies; with up to 16 positions every cell has its number.

    Args:
        panels: title to (name to (p,) values); NaN is a grey cell.
        positions: (p,) labels of the columns, p >= 1.
        path: `.png` or `.svg`.
        xlabel: of the columns.
        scale: magnitude of the darkest colours, > 0.

    Raises:
        InvalidSetting: nothing to draw, a row of another length, a scale that is not positive, or a
            path with another suffix.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    tables = {
        title: {name: np.asarray(values, dtype=np.float64) for name, values in rows.items()}
        for title, rows in panels.items()
    }
    if not positions or not tables or not all(tables.values()) or not scale > 0:
        raise InvalidSetting("heat_maps needs positions, panels with rows, and a scale > 0")
    for rows in tables.values():
        for name, values in rows.items():
            if values.shape != (len(positions),):
                raise InvalidSetting(
                    f"{name} has shape {values.shape}, there are {len(positions)} positions"
                )
    colours = LinearSegmentedColormap.from_list(
        "signed",
        ["#7a3300", COLOURS[1], "#f6d9c6", "#ffffff", "#c7dfee", COLOURS[0], "#00344f"],
        _LEVELS,
    ).with_extremes(bad=_UNDEFINED)
    norm = Normalize(-scale, scale)
    heights = [0.34 * len(rows) + 0.35 for rows in tables.values()]
    figure = new_figure(sum(heights) + 0.35 * len(heights) + 0.6)
    drawn = figure.subplots(len(tables), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes: list[Axes] = drawn[:, 0].tolist()
    for panel, (title, rows) in zip(axes, tables.items(), strict=True):
        values = np.stack(list(rows.values()))
        panel.imshow(
            np.ma.masked_invalid(values), cmap=colours, norm=norm, aspect="auto", rasterized=True
        )
        headline(panel, title)
        _rows(panel, list(rows), values, positions, scale)
    step = max(1, -(-len(positions) // 20))
    axes[-1].set_xticks(range(0, len(positions), step), [str(p) for p in positions[::step]])
    plain(axes[-1].set_xlabel(xlabel, color=MUTED, fontsize=9))
    everything = np.concatenate([np.ravel(v) for rows in tables.values() for v in rows.values()])
    below, above = bool((everything < -scale).any()), bool((everything > scale).any())
    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=axes,
        shrink=min(1.0, 2.2 / sum(heights)),
        aspect=18,
        pad=0.02,
        ticks=[-scale, -scale / 2, 0, scale / 2, scale],
        extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above],
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8.5, length=0)
    save(figure, path)


def _rows(
    axes: "Axes",
    names: list[str],
    values: NDArray[np.float64],
    positions: Sequence[int],
    scale: float,
) -> None:
    """Names at the left, the highest value of each row at the right, lines in between."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_xticks(np.arange(len(positions) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    for label in axes.get_yticklabels():
        plain(label)
    where = axes.get_yaxis_transform()
    for row, cells in enumerate(values):
        if np.isfinite(cells).any():
            best = int(np.nanargmax(cells))
            text = f"{cells[best]:.2f} at {positions[best]}".replace("-", "−")
            axes.text(1.01, row, text, transform=where, va="center", fontsize=8.5, color=INK)
        for column, cell in enumerate(cells if len(positions) <= _MOST_NUMBERS else ()):
            ink = "white" if abs(cell) > 0.55 * scale else INK
            text = f"{cell:.2f}".replace("-", "−") if np.isfinite(cell) else "–"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
