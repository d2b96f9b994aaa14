"""Pictures: quality over latency, and one sentence as it was read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    FAINT,
    GRID,
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
from psfuture.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from psfuture.bootstrap import Band

_MOST_WORDS = 40


def plot_curves(
    table: pd.DataFrame,
    path: str | Path,
    *,
    x: str = "LAAL",
    y: str = "BLEU",
    title: str = "",
    bands: Mapping[str, Sequence[Band]] | None = None,
) -> None:
    """Quality over latency: a line a curve, points named by their knob, offline as a level.

    Args:
        table: of :func:`psfuture.sweeps.sweep`.
        path: `.svg` or `.png`.
        x: a column, of latency.
        y: a column, of quality.
        title: above the figure.
        bands: intervals by curve ("wait-k, closed"), as :func:`psfuture.bootstrap.bands` gives them
            for `x` and BLEU.

    Raises:
        InvalidSetting: no rows, a column that is not there, or a path with another suffix.
    """
    if missing := [name for name in ("policy", "knob", "prefix_eos", x, y) if name not in table]:
        raise InvalidSetting(f"no column {missing[0]!r} to draw; there are {', '.join(table)}")
    if not len(table):
        raise InvalidSetting("a table without rows has nothing to draw")
    figure = new_figure(4.6)
    axes = framed(figure.add_subplot())
    curves = {
        f"{policy}, {'closed' if closed else 'open'}": rows.sort_values(x)
        for (policy, closed), rows in table.groupby(["policy", "prefix_eos"], sort=False)
    }
    levels = {name: rows for name, rows in curves.items() if rows.knob.isna().all()}
    moving = {name: rows for name, rows in curves.items() if name not in levels}
    ends: list[tuple[float, str, str]] = []
    for number, (name, rows) in enumerate(moving.items()):
        colour = COLOURS[number % len(COLOURS)]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        axes.plot(rows[x], rows[y], style, color=colour, lw=1.8, marker="o", ms=4, zorder=3)
        for across, up, knob in zip(rows[x], rows[y], rows.knob, strict=True):
            plain(
                axes.annotate(
                    f"{knob:g}",
                    (across, up),
                    xytext=(4, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
            )
        if bands and name in bands:
            _draw_bands(axes, bands[name], colour)
        ends.append((float(rows[y].iloc[-1]), name, colour))
    for name, rows in levels.items():
        level = float(rows[y].iloc[0])
        axes.axhline(level, color=INK, lw=0.9, linestyle=(0, (4, 3)), zorder=2)
        ends.append((level, name, INK))
    axes.margins(x=0.04, y=0.08)
    bottom, top = axes.get_ylim()
    lowest = bottom
    for height, name, colour in sorted(ends):
        lowest = max(height, lowest)
        beside(axes, lowest, f"{short(name)}  {height:.1f}", color=colour)
        lowest += (top - bottom) * 0.055
    headline(axes, title or f"{y} over {x}")
    unit = "" if x.startswith("AP") else ", source words"
    plain(axes.set_xlabel(f"{x}{unit}", color=MUTED, fontsize=9))
    plain(axes.set_ylabel(y, color=MUTED, fontsize=9))
    save(figure, Path(path))


def plot_traces(traces: Mapping[str, Trace], path: str | Path, *, title: str = "") -> None:
    """One sentence, read from left to right and written from top to bottom, by each policy.

    The line goes right with each READ of a word and down with each WRITE of one; a word stands
    where it was shown. The other policies' lines are there faintly.

    Args:
        traces: of the same source, by the policies' names; two are read best.
        path: `.svg` or `.png`.
        title: above the figure.

    Raises:
        InvalidSetting: no traces, several sources, one of no words or of more than 40, or a path
            with another suffix.
    """
    sources = {trace.source for trace in traces.values()}
    if len(sources) != 1:
        raise InvalidSetting(f"one picture shows one source, not {len(sources)}")
    (source,) = sources
    longest = max(len(source), *(len(trace.words) for trace in traces.values()))
    if not source or longest > _MOST_WORDS:
        raise InvalidSetting(f"a picture has 1 to {_MOST_WORDS} words, not {longest}")
    rows = max(1, *(len(trace.words) for trace in traces.values()))
    margin = 0.01 * len(source)
    figure = new_figure(1.2 + (0.5 + 0.19 * rows) * len(traces))
    panels: list[Axes] = figure.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for number, (axes, (name, trace)) in enumerate(zip(panels, traces.items(), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        framed(axes).grid(axis="x", color=GRID, linewidth=0.8)
        for other, rival in traces.items():
            if other != name:
                axes.plot(*_steps(rival), color=FAINT, lw=1.2, zorder=2)
        axes.plot(*_steps(trace), color=colour, lw=2.2, zorder=3)
        for at, (word, delay) in enumerate(zip(trace.words, trace.delays, strict=True)):
            late = delay > 0.8 * len(source)
            side: Literal["left", "right"] = "right" if late else "left"
            across = delay + margin * (-1 if late else 1)
            plain(axes.text(across, at + 0.5, short(word), ha=side, va="center", fontsize=8))
        axes.set_xlim(-margin, len(source) + margin)
        axes.set_ylim(rows + 0.3, -0.3)
        axes.set_yticks([])
        headline(axes, short(name), color=colour, size=10)
    places = [at + 0.5 for at in range(len(source))]
    panels[-1].set_xticks(places, [short(word) for word in source], rotation=40, ha="right")
    for label in panels[-1].get_xticklabels():
        plain(label)
    if title:
        plain(figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK))
    save(figure, Path(path))


def _draw_bands(axes: Axes, bands: Sequence[Band], colour: str) -> None:
    ordered = sorted(bands, key=lambda band: band.latency)
    across = [band.latency for band in ordered]
    low, high = [band.low for band in ordered], [band.high for band in ordered]
    axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0, zorder=1)


def _steps(trace: Trace) -> tuple[list[int], list[int]]:
    """Corners of the line: right to where a word was shown, then down by a word."""
    across, down = [0], [0]
    for at, delay in enumerate(trace.delays):
        across += [delay, delay]
        down += [at, at + 1]
    return [*across, len(trace.source)], [*down, len(trace.words)]
