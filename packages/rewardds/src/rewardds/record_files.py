"""Where rows of records come from: JSON Lines, JSON arrays, CSV, data sets of a hub, memory.

What cannot be read stops the whole: a private set with rows left out has another size, and the
size is a part of the guarantee. Messages say the line, never what it holds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lipogram.errors import MissingAsset
from rewardds.errors import InvalidRecords

HUB = "hub:"
MAX_BYTES = 2 << 30  # of a file

Rows = Iterator[tuple[str, Mapping[str, Any]]]


def raw_rows(source: str | Path | Iterable[Mapping[str, Any]]) -> Rows:
    """(where it stands, its columns) of every row.

    Args:
        source: a file ending in .jsonl, .json or .csv, UTF-8; "hub:owner/name" or
            "hub:owner/name:split" (the split is "train" unless given); or mappings, such as a data
            set in memory.

    Raises:
        MissingAsset: no such file or data set.
        InvalidRecords: a file of another kind, too long, not UTF-8, or with a line that is no
            object.
        MissingExtra: a hub's data set without the library `datasets`.
    """
    if isinstance(source, str) and source.startswith(HUB):
        from lipogram.hub_rows import hub_rows

        name, _, split = source.removeprefix(HUB).partition(":")
        return _objects(hub_rows(name, None, split or "train"), name, "row")
    if isinstance(source, (str, Path)):
        return _file(Path(source).expanduser())
    return _objects(source, "the data", "row")


def _file(path: Path) -> Rows:
    readers = {".jsonl": _lines, ".json": _array, ".csv": _table}
    if path.suffix not in readers:
        raise InvalidRecords(
            f"{path} ends in {path.suffix!r}: records are read from {', '.join(readers)}, from "
            f"'{HUB}owner/name', or from a list of mappings"
        )
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InvalidRecords(f"{path} has {size} bytes, more than {MAX_BYTES}: split it")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRecords(f"{path} is not UTF-8 from byte {error.start} on") from None
    except OSError as error:
        raise MissingAsset(f"{path} cannot be read: {error.strerror}") from error
    return readers[path.suffix](text, path.name)


def _lines(text: str, name: str) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, _mapping(_parsed(line, where), where)


def _array(text: str, name: str) -> Rows:
    values = _parsed(text, name)
    if not isinstance(values, list):
        raise InvalidRecords(
            f"{name} holds a {type(values).__name__}, it must be one array of objects; one object "
            "a line belongs into a file that ends in .jsonl"
        )
    return _objects(values, name, "item")


def _table(text: str, name: str) -> Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InvalidRecords(f"{where} has another number of cells than the first line")
            yield where, row
    except csv.Error:
        raise InvalidRecords(
            f"{name}, after line {reader.line_num}: not CSV, or a cell of more than "
            f"{csv.field_size_limit()} characters; use JSON lines"
        ) from None


def _objects(values: Iterable[Any], name: str, noun: str) -> Rows:
    for number, value in enumerate(values, start=1):
        where = f"{name}, {noun} {number}"
        yield where, _mapping(value, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        column = getattr(error, "colno", None)
        raise InvalidRecords(f"{where}: not JSON from column {column} on") from None
    except RecursionError:
        raise InvalidRecords(f"{where}: nested too deeply to be read") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRecords(f"{where}: a {type(value).__name__}, where an object is needed")
    return value
