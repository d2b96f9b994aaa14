"""Nested figures as the tables of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lipogram.report import Cell, Table

INTERVAL = ("value", "low", "high")


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Nested figures as tables: an object of plain values is a row, those of like keys a table.

    Objects whose entries are intervals make one table together, a column each.
    """
    made: list[Table] = []
    rows: dict[tuple[str, ...], list[list[Cell]]] = {}

    def walk(value: Mapping[str, Any], name: str) -> None:
        if _is_grid(value):
            made.append(_grid(value))
            return
        leaves = {k: v for k, v in value.items() if isinstance(v, str | int | float | None)}
        if leaves:
            rows.setdefault(tuple(leaves), []).append([name.replace("_", " "), *leaves.values()])
        for key, part in value.items():
            if isinstance(part, Mapping):
                walk(part, f"{name}, {key}" if name else key)

    walk(found, "")
    plain = [
        Table(columns=["", *(key.replace("_", " ") for key in keys)], rows=held)
        for keys, held in rows.items()
    ]
    return made + plain


def _is_grid(value: Mapping[str, Any]) -> bool:
    parts = list(value.values())
    if not parts or not all(isinstance(part, Mapping) and part for part in parts):
        return False
    cells = [cell for part in parts for cell in part.values()]
    return all(isinstance(cell, Mapping) and set(cell) == set(INTERVAL) for cell in cells)


def _grid(value: Mapping[str, Any]) -> Table:
    names = dict.fromkeys(name for part in value.values() for name in part)
    rows: list[list[Cell]] = [
        [name.replace("_", " "), *(_interval(part.get(name)) for part in value.values())]
        for name in names
    ]
    return Table(columns=["", *value], rows=rows, caption="With 95 % bootstrap intervals.")


def _interval(part: Mapping[str, float | None] | None) -> str | None:
    if part is None:
        return None
    value, low, high = (float("nan") if (held := part[key]) is None else held for key in INTERVAL)
    return f"{as_text(value)} [{as_text(low)}, {as_text(high)}]"


def as_text(value: float | None) -> str:
    """Two decimals, a real minus, and a dash for what is undefined."""
    return "–" if value is None or np.isnan(value) else f"{value:.2f}".replace("-", "−")
