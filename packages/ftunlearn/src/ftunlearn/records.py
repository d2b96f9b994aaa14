"""Files of JSON items: one object a line, or one array. A broken item does not stop the others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lipogram.errors import InvalidProbes, MissingAsset

MAX_LINE = 16 << 20  # bytes; a longer line is an item's problem
MAX_ARRAY = 512 << 20  # bytes of a file that is one array, which has to be read whole

Item = tuple[int, dict[str, Any]]


def read_records(path: str | Path) -> tuple[list[Item], list[str]]:
    """The objects of a JSON Lines file, or of a file that is one JSON array.

    UTF-8 with or without a byte order mark, any line ends; blank lines are skipped.

    Args:
        path: the file.

    Returns:
        (line or position in the array, from 1; object) of every item that could be read, and a
        sentence with file and line for every one that could not.

    Raises:
        MissingAsset: no such file.
        InvalidProbes: a folder, a file that is not text, or an array that cannot be parsed.
    """
    path = Path(path)
    if path.is_dir():
        raise InvalidProbes(f"{path} is a folder; a file of JSON lines is needed")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise MissingAsset(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        start = file.read(4096)
        if b"\0" in start:
            raise InvalidProbes(f"{path} is not text: one JSON object a line, in UTF-8, is needed")
        bom = 3 if start.startswith(b"\xef\xbb\xbf") else 0
        file.seek(bom)
        if start[bom:].lstrip().startswith(b"["):
            return _array(file, path)
        return _lines(file, path)


def _lines(file: BinaryIO, path: Path) -> tuple[list[Item], list[str]]:
    items: list[Item] = []
    problems: list[str] = []
    for number, line in enumerate(_split(file), start=1):
        where = f"{path.name}, line {number}"
        if line is None:
            problems.append(f"{where}: longer than {MAX_LINE >> 20} MiB")
        elif line.strip():
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                problems.append(f"{where}: not UTF-8")
            except (ValueError, RecursionError) as error:
                problems.append(f"{where}: not JSON ({error})")
            else:
                _keep(value, number, where, items, problems)
    return items, problems


def _split(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines; None for one beyond the limit, of which no more than the limit is in memory."""
    while line := file.readline(MAX_LINE + 1):
        whole = len(line) <= MAX_LINE
        yield line if whole else None
        while not whole and not line.endswith(b"\n") and line:
            line = file.readline(MAX_LINE)


def _array(file: BinaryIO, path: Path) -> tuple[list[Item], list[str]]:
    content = file.read(MAX_ARRAY + 1)
    if len(content) > MAX_ARRAY:
        raise InvalidProbes(
            f"{path} is an array of more than {MAX_ARRAY >> 20} MiB; use JSON lines"
        )
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidProbes(f"{path} is not a JSON array: {error}") from error
    items: list[Item] = []
    problems: list[str] = []
    for number, value in enumerate(values, start=1):
        _keep(value, number, f"{path.name}, item {number}", items, problems)
    return items, problems


def _keep(value: Any, number: int, where: str, items: list[Item], problems: list[str]) -> None:
    if isinstance(value, dict):
        items.append((number, value))
    else:
        problems.append(f"{where}: a {type(value).__name__}, where an object is needed")
