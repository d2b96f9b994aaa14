"""A table of times, labels, and pictures or features, row by row."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting, InvalidTimestamps

OPTIONAL = ("path", "video", "sequence", "split")


@dataclass(frozen=True)
class TimedRow:
    """One row.

    Attributes:
        line: its line in the file. ``time``, ``label``: texts.
        path: picture below the folder; "" without that column.
        features: () where there is a path.
        video, sequence, split: texts; "" without that column.
    """

    line: int
    time: str
    label: str
    path: str = ""
    features: tuple[float, ...] = ()
    video: str = ""
    sequence: str = ""
    split: str = ""


@dataclass(frozen=True)
class TimedTable:
    """The rows that can be read, and why the others cannot.

    Attributes:
        rows: in the order of the file.
        columns: the optional columns that it has.
        numeric: whether times are numbers; else they are ISO 8601.
        malformed: reason by line.
    """

    rows: tuple[TimedRow, ...]
    columns: frozenset[str]
    numeric: bool
    malformed: dict[int, str]


def read_timed_table(
    path: Path, *, pictures: Path | None = None, skip_malformed: bool = False
) -> TimedTable:
    """Read a CSV whose first line names its columns.

    ``timestamp`` and ``label`` are needed, and either ``path`` or columns of numbers, which are the
    features in their order. ``video``, ``sequence`` and ``split`` (train or test) may be there.
    Lines without any text are passed over.

    Args:
        path: UTF-8.
        pictures: the folder that ``path`` starts from; None takes the table's.
        skip_malformed: list malformed rows instead of raising.

    Raises:
        FileNotFoundError: no such file.
        InvalidSetting: columns missing or named twice, or no row.
        InvalidTimestamps, InvalidLabels, InvalidFeatures: malformed rows, by the kind of the first;
            the message names their lines.
    """
    malformed: dict[int, tuple[type[ValueError], str]] = {}
    rows: list[TimedRow] = []
    numeric: bool | None = None
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        try:
            head = [name.strip() for name in next(lines, [])]
            widths = _feature_columns(path, head)
            for cells in lines:
                texts = [cell.strip() for cell in cells]
                if not any(texts):
                    continue
                fault = _fault(head, texts, widths, numeric, pictures or path.parent)
                if fault:
                    malformed[lines.line_num] = fault
                    continue
                row = dict(zip(head, texts, strict=True))
                numeric = _is_finite(row["timestamp"])
                rows.append(_row(lines.line_num, row, widths))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidFeatures(f"{path}, line {lines.line_num + 1}: {error}") from None
    if malformed and not skip_malformed:
        kind = next(iter(malformed.values()))[0]
        told = told_lines({line: reason for line, (_, reason) in malformed.items()})
        raise kind(f"{path}: {told}; mend these rows, or leave them out with skip_malformed")
    if not rows:
        raise InvalidSetting(f"{path} has no row that can be read")
    return TimedTable(
        tuple(rows),
        frozenset(name for name in OPTIONAL if name in head),
        bool(numeric),
        {line: reason for line, (_, reason) in malformed.items()},
    )


def told_lines(malformed: Mapping[int, str]) -> str:
    """The first five lines and what is wrong with each."""
    first = [f"line {line} ({reason})" for line, reason in list(malformed.items())[:5]]
    more = f" and {len(malformed) - 5} more" if len(malformed) > 5 else ""
    return ", ".join(first) + more


def _feature_columns(path: Path, head: list[str]) -> list[str]:
    """The columns of features: those whose name says nothing else, where there is no path."""
    missing = [name for name in ("timestamp", "label") if name not in head]
    if missing:
        raise InvalidSetting(f"{path} has no column {' and no column '.join(missing)}")
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise InvalidSetting(f"{path} has two columns {twice[0]!r}")
    if "path" in head:
        return []
    found = [name for name in head if name not in ("timestamp", "label", *OPTIONAL)]
    if not found:
        raise InvalidSetting(f"{path} has neither a column 'path' nor columns of features")
    return found


def _fault(
    head: list[str], texts: list[str], widths: list[str], numeric: bool | None, pictures: Path
) -> tuple[type[ValueError], str] | None:
    """What is wrong with a row, or None."""
    if len(texts) != len(head):
        return InvalidFeatures, f"{len(texts)} cells, the head has {len(head)}"
    row = dict(zip(head, texts, strict=True))
    time = row["timestamp"]
    is_number = _is_finite(time)
    if not is_number and not _is_iso(time):
        return InvalidTimestamps, f"timestamp {time!r} is neither a number nor ISO 8601"
    if numeric is not None and is_number != numeric:
        return InvalidTimestamps, f"timestamp {time!r} is of another kind than those before"
    if not row["label"]:
        return InvalidLabels, "no label"
    if row.get("split", "train") not in ("train", "test"):
        return InvalidLabels, f"split {row['split']!r} is neither train nor test"
    for name in widths:
        if not _is_finite(row[name]):
            return InvalidFeatures, f"{name} {row[name]!r} is no finite number"
    if "path" in row:
        parts = row["path"].split("/")
        if any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts):
            return InvalidFeatures, f"path {row['path']!r} is no plain path below the folder"
        if not (pictures / row["path"]).is_file():
            return InvalidFeatures, f"there is no file {row['path']!r}"
    return None


def _row(line: int, row: dict[str, str], widths: list[str]) -> TimedRow:
    return TimedRow(
        line,
        row["timestamp"],
        row["label"],
        features=tuple(float(row[name]) for name in widths),
        **{name: row[name] for name in OPTIONAL if name in row},
    )


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
