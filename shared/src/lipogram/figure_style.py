"""How every figure looks: colours, frames, lettering, and files that stay small.

The colours are Okabe and Ito's, darkened where needed to be read as words, so colour-blind readers
tell them apart.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COLOURS = ("#0072b2", "#d55e00", "#00805f", "#a8558a", "#a06a00", "#4d4d4d", "#2f8fc4")
STYLES = ("-", "--", ":")
INK, MUTED, GRID, FAINT = "#1f2328", "#656d76", "#e6e8eb", "#b4bac2"
_WIDTH, _DPI = 8.0, 150
_LONGEST_NAME = 22


def new_figure(height: float) -> "Figure":
    """An empty figure of the common width, `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor="white")


def framed(axes: "Axes") -> "Axes":
    """The same axes with a line below, faint horizontal rules, and no box."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, pad=5)
    return axes


def headline(axes: "Axes", text: str, *, color: str = INK, size: float = 11.5) -> None:
    """A title at the left; bold from 10 points on."""
    weight = "bold" if size >= 10 else "normal"
    plain(axes.set_title(text, loc="left", color=color, fontsize=size, fontweight=weight, pad=8))


def beside(axes: "Axes", height: float, text: str, **style: Any) -> None:
    """A label at the right of the axes, at `height` in data units."""
    where = axes.get_yaxis_transform()
    plain(axes.text(1.012, height, text, transform=where, va="center", fontsize=9, **style))


def plain(text: "Text") -> None:
    """Names are data: a `$` in one starts no formula."""
    text.set_parse_math(False)


def short(name: str) -> str:
    """A name on one line of at most 22 letters, without what cannot be printed."""
    shown = "".join(c if c.isprintable() else " " for c in str(name))
    shown = " ".join(shown.split())
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG (256 colours) or SVG, whole or not at all; the same bytes each time.

    Raises:
        InvalidSetting: another suffix.
    """
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
