"""How a row of a data set says what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRecords

FIELDS = ("instruction", "response", "id", "group")

LAYOUTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt and completion": ("prompt", "completion"),
    "instruction, input and output": ("instruction", "input", "output"),
    "instruction and response": ("instruction", "response"),
    "instruction and output": ("instruction", "output"),
    "question and answer": ("question", "answer"),
}
"""The layouts that are recognised, by the columns that they need; the first that fits counts."""


def record_fields(
    row: Mapping[str, Any], where: str, columns: Mapping[str, str] | None
) -> dict[str, str]:
    """The fields of a record in a row; "id" and "group" where the row has them.

    A column "input" that is not empty follows the instruction on a line of its own. Of `messages`,
    and of a prompt or completion that is a list of them, the one user's and the one assistant's
    turn count, and a system message is left away.

    Args:
        row: its columns.
        where: says which, in messages.
        columns: names of the columns of fields, where they are not those of a layout.

    Raises:
        InvalidRecords: no layout fits, a column is missing, or holds what is no text.
        InvalidSetting: `columns` names an unknown field, or neither instruction nor response.
    """
    if columns is not None:
        check_columns(columns)
        fields = {field: _text(row, column, where) for field, column in columns.items()}
    else:
        fields = _by_layout(row, where)
    for name in ("id", "group"):
        if columns is None and row.get(name) not in (None, ""):
            fields[name] = _text(row, name, where)
    return fields


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises InvalidSetting as :func:`record_fields`."""
    unknown = [field for field in columns if field not in FIELDS]
    if unknown or not {"instruction", "response"} <= set(columns):
        raise InvalidSetting(
            f"columns names {', '.join(columns) or 'nothing'}: it must name instruction and "
            f"response, and may name id and group"
        )


def _by_layout(row: Mapping[str, Any], where: str) -> dict[str, str]:
    found = [needed for needed in LAYOUTS.values() if all(name in row for name in needed)]
    if not found:
        raise InvalidRecords(
            f"{where} has the columns {', '.join(map(str, row)) or 'of nothing'}: it needs "
            f"{'; or '.join(LAYOUTS)}; or name them by columns="
        )
    if found[0] == ("messages",):
        turns = row["messages"]
        return {
            "instruction": _turn(turns, "user", where),
            "response": _turn(turns, "assistant", where),
        }
    if found[0] == ("prompt", "completion"):
        asked, answered = row["prompt"], row["completion"]
        return {
            "instruction": _turn(asked, "user", where)
            if _is_list(asked)
            else _text(row, "prompt", where),
            "response": _turn(answered, "assistant", where)
            if _is_list(answered)
            else _text(row, "completion", where),
        }
    *asked_by, answered_by = found[0]
    parts = [_text(row, name, where) for name in asked_by]
    asked = "\n".join(part for part in parts if part)
    return {"instruction": asked, "response": _text(row, answered_by, where)}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _turn(turns: Any, role: str, where: str) -> str:
    if not _is_list(turns) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InvalidRecords(f"{where}: messages are not a list of objects")
    said = [turn.get("content") for turn in turns if turn.get("role") == role]
    if len(said) != 1 or not isinstance(said[0], str):
        raise InvalidRecords(
            f"{where} has {len(said)} turns of the {role}, it must have one, of text: make several "
            "records of a longer conversation, with one 'group'"
        )
    return said[0]


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise InvalidRecords(f"{where} has no column {column!r}")
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InvalidRecords(f"{where}: {column!r} holds a {type(value).__name__}, it must be text")
    return value
