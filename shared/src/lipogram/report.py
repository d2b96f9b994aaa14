"""One self-contained HTML page from a run."""

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically
from lipogram.runs import Run

Cell = str | int | float | None

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Table:
    """Rows under headings; a column of numbers is set right-aligned.

    Attributes:
        columns: (c,) headings.
        rows: (r, c) cells; None and NaN are gaps.
        highlight: positions of the rows to set off.
        digits: decimals of a float.
        caption: below the table.

    Raises:
        InvalidSetting: a row of another length.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    highlight: Collection[int] = ()
    digits: int = 3
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InvalidSetting(
                    f"row {number} has {len(row)} cells, the table has {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Section:
    """A part of a report: text, then table, then figure.

    Attributes:
        heading: above it.
        text: paragraphs, parted by empty lines.
        table: or none.
        figure: a PNG or SVG file, or none.
        caption: below the figure, and its description for those who cannot see it.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    figure: Path | None = None
    caption: str = ""


def write_report(
    run: Run | str | Path,
    *,
    title: str,
    sections: Sequence[Section],
    lead: str = "",
    key_figures: Mapping[str, Cell] | None = None,
) -> Path:
    """Write `report.html` into a run's folder.

    The page stands alone: figures are inlined, there is no script and no reference to anything
    outside, and its content security policy allows neither. All that is given is escaped. The run's
    settings and environment close it.

    Args:
        run: a run, or its folder.
        title: of the page.
        sections: its body.
        lead: a sentence or two below the title.
        key_figures: the few values that a reader wants first, by name.

    Returns:
        Path of the page.

    Raises:
        CorruptState: the folder holds no run.
        InvalidSetting: a figure that is missing, or neither PNG nor SVG.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    content = page(
        title=title,
        sections=sections,
        lead=lead,
        key_figures=key_figures,
        settings=run.config,
        environment=run.environment,
    )
    path = run.folder / "report.html"
    write_atomically(path, content)
    return path


def page(
    *,
    title: str,
    sections: Sequence[Section],
    lead: str = "",
    key_figures: Mapping[str, Cell] | None = None,
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> bytes:
    """The page of :func:`write_report`, from settings and environment that no run's folder holds.

    Raises:
        InvalidSetting: a figure that is missing, or neither PNG nor SVG.
    """
    templates = files("lipogram") / "templates"
    style = (templates / "report.css").read_text(encoding="utf-8")
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((templates / "report.html").read_text(encoding="utf-8"))
    content = template.render(
        title=title,
        lead=lead,
        key_figures=[(name, _text(value, 3)) for name, value in (key_figures or {}).items()],
        sections=[_shown(section) for section in sections],
        settings=list(_flat(settings)),
        environment=list(_flat(environment)),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
    return content.encode("utf-8", errors="replace")


def _shown(section: Section) -> dict[str, Any]:
    return {
        "heading": section.heading,
        "paragraphs": [part for part in section.text.split("\n\n") if part.strip()],
        "table": None if section.table is None else _cells(section.table),
        "figure": None if section.figure is None else _inlined(Path(section.figure)),
        "caption": section.caption,
    }


def _cells(table: Table) -> dict[str, Any]:
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return {
        "columns": table.columns,
        "numeric": [
            any(_is_number(cell) for cell in column)
            and all(cell is None or _is_number(cell) for cell in column)
            for column in columns
        ],
        "rows": [[_text(cell, table.digits) for cell in row] for row in table.rows],
        "highlight": set(table.highlight),
        "caption": table.caption,
    }


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _text(cell: Cell, digits: int) -> str:
    if cell is None or cell != cell:
        return "–"
    if isinstance(cell, float):
        tiny, large = 0 < abs(cell) < 0.5 * 10**-digits, abs(cell) >= 10_000
        shape = ".1e" if tiny else ",.0f" if large else f",.{digits}f"
        return format(cell + 0.0, shape).replace("-", "−")
    if _is_number(cell):
        return f"{cell:,}".replace("-", "−")
    return str(cell)


def _inlined(path: Path) -> str:
    """The figure as a data URI; inside an image element, an SVG cannot run a script."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"figure {path.name!r} cannot be read: {error.strerror}") from error
    if content.startswith(_PNG):
        kind = "png"
    elif path.suffix == ".svg" and b"<svg" in content[:2000]:
        kind = "svg+xml"
    else:
        raise InvalidSetting(f"figure {path.name!r} is neither a PNG nor an SVG")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", "–" if value is None else str(value)
