"""Figures of a run, as PNG or SVG files.

The colours are Okabe and Ito's, darkened where needed to be read as words, so colour-blind readers
tell them apart; every curve and every row carries its name beside it instead of in a legend.
"""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_COLOURS = ("#0072b2", "#d55e00", "#00805f", "#a8558a", "#a06a00", "#4d4d4d", "#2f8fc4")
_STYLES = ("-", "--", ":")
_INK, _MUTED, _GRID, _SIZES = "#1f2328", "#656d76", "#e6e8eb", "#b4bac2"
_WIDTH, _DPI = 8.0, 150
_LONGEST_NAME = 22
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
    figure = _figure(4.0)
    axes = _framed(figure.add_subplot())
    for number, (x, y) in enumerate(curves.values()):
        axes.plot(
            x,
            y,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
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
    _headline(axes, title)
    _plain(axes.set_xlabel(xlabel, color=_MUTED, fontsize=9))
    _plain(axes.set_ylabel(ylabel, color=_MUTED, fontsize=9))
    _label_ends(axes, curves, gap=(top - bottom) * 0.06)
    _save(figure, path)


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
    figure = _figure(2.1 + 1.05 * len(rows))
    panels: list[Axes] = figure.subplots(
        len(rows) + 1, 1, sharex=True, squeeze=False, height_ratios=[1.0] * len(rows) + [0.8]
    )[:, 0].tolist()
    for number, (axes, (name, values)) in enumerate(zip(panels, rows.items(), strict=False)):
        colour = _COLOURS[number % len(_COLOURS)]
        mean = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        _framed(axes).bar(places, values[order], 0.8, color=colour, zorder=2)
        axes.axhline(mean, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
        axes.tick_params(axis="x", length=0)
        _beside(axes, mean, f"mean {mean:.3f}", color=_INK)
        _headline(axes, _short(name), color=colour, size=10)
    _sizes_panel(panels[-1], places, sizes[order], [class_names[i] for i in order])
    _save(figure, path)


def _sizes_panel(
    axes: "Axes", places: NDArray[np.int64], sizes: NDArray[np.float64], names: list[str]
) -> None:
    _framed(axes).bar(places, sizes, 0.8, color=_SIZES, zorder=2)
    largest, smallest = int(sizes.max()), int(sizes.min())
    axes.set_ylim(0, max(largest, 1))
    axes.set_yticks([0, max(largest, 1)], ["0", f"{max(largest, 1):,}"])
    axes.set_xlim(-0.7, len(names) - 0.3)
    _headline(axes, f"training samples: {largest:,} to {smallest:,}", color=_MUTED, size=9)
    if len(names) > _MOST_NAMES:
        axes.set_xticks([])
        _plain(axes.set_xlabel(f"{len(names)} classes, largest first", color=_MUTED, fontsize=9))
        return
    shown = [_short(name) for name in names]
    fits = max(map(len, shown)) * len(shown) <= _LETTERS_ACROSS
    axes.set_xticks(places, shown, rotation=0 if fits else 90)
    axes.tick_params(axis="x", length=0, labelsize=8 if len(names) <= 50 else 6, labelcolor=_INK)
    for label in axes.get_xticklabels():
        _plain(label)


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
        _beside(
            axes,
            height,
            f"{_short(name)}  {ends[number]:.3f}",
            color=_COLOURS[number % len(_COLOURS)],
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


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor="white")


def _framed(axes: "Axes") -> "Axes":
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SIZES)
    axes.grid(axis="y", color=_GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=8.5, length=0, pad=5)
    return axes


def _headline(axes: "Axes", text: str, *, color: str = _INK, size: float = 11.5) -> None:
    weight = "bold" if size >= 10 else "normal"
    _plain(axes.set_title(text, loc="left", color=color, fontsize=size, fontweight=weight, pad=8))


def _beside(axes: "Axes", height: float, text: str, **style: Any) -> None:
    where = axes.get_yaxis_transform()
    _plain(axes.text(1.012, height, text, transform=where, va="center", fontsize=9, **style))


def _plain(text: "Text") -> None:
    """Names are data: a `$` in one starts no formula."""
    text.set_parse_math(False)


def _short(name: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in str(name))
    shown = " ".join(shown.split())
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def _save(figure: "Figure", path: Path) -> None:
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg"):
        raise InvalidSetting(f"a figure is a .png or .svg file, not {path.name!r}")
    buffer = BytesIO()
    with warnings.catch_warnings():
        # Matplotlib's own font lacks some scripts; a box in place of a letter is no fault of a run.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
    content = buffer.getvalue()
    write_atomically(path, _few_colours(content) if kind == "png" else content)


def _few_colours(png: bytes) -> bytes:
    """The same picture in 256 colours, a third of the size: a chart has no more."""
    from PIL import Image

    buffer = BytesIO()
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            buffer, "PNG", optimize=True, dpi=(_DPI, _DPI)
        )
    return buffer.getvalue()
