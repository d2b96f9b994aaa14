"""Work on numbered items that can be stopped at any instant and taken up by any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.files import write_atomically
from lipogram.settings import differences, settings_of

_FORMAT = "rewardds-shards/1"
_SETTINGS = "shards.json"


class Shards:
    """What was made of items, in a folder of files of JSON lines, each whole or not there.

    An item is done by its number alone, so any split of the items into shards, and any number of
    processes, end with the same values. A process that is killed loses the shard it was at; two
    that do the same items do them twice, with the same outcome.

    Args:
        folder: made if it does not exist; None keeps everything in memory.
        settings: all that the values depend on, as JSON holds it.
        size: items of one shard.

    Raises:
        RunMismatch: the folder holds values of other settings; the message names them.
        CorruptState: it holds something else, or a shard that cannot be read.
        InvalidSetting: a size below 1, or settings that JSON cannot hold.
    """

    def __init__(self, folder: str | Path | None, settings: object, *, size: int = 64):
        if size < 1:
            raise InvalidSetting(f"a shard has {size} items: it must have at least 1")
        self.folder = None if folder is None else Path(folder)
        self.size = size
        self._found: dict[str, dict[int, Any]] = {}
        self._read: set[Path] = set()  # a shard's file never changes
        asked = settings_of(settings)
        if self.folder is not None:
            self._open(self.folder, asked)

    def complete(
        self, kind: str, numbers: Iterable[int], work: Callable[[list[int]], Sequence[Any]]
    ) -> dict[int, Any]:
        """The values of items; those that are not done are done now, and kept shard by shard.

        Args:
            kind: of the items, letters; each kind has numbers of its own.
            numbers: of the items, from 0; each once.
            work: gives the values of the items it is called with, as JSON holds them.

        Raises:
            CorruptState: a shard that cannot be read.
            InvalidSetting: work that gives another number of values, or some that JSON cannot hold;
                nothing of that shard is kept.
        """
        wanted = list(numbers)
        done = self.done(kind)
        missing = [number for number in wanted if number not in done]
        for first in range(0, len(missing), self.size):
            shard = missing[first : first + self.size]
            values = work(shard)
            if len(values) != len(shard):
                raise InvalidSetting(f"{len(shard)} {kind} to do, {len(values)} values of them")
            self._keep(kind, dict(zip(shard, values, strict=True)))
        done = self.done(kind)
        return {number: done[number] for number in wanted}

    def done(self, kind: str) -> dict[int, Any]:
        """The values of all items of a kind that are done, by this process or another.

        Raises:
            CorruptState: a shard that cannot be read, or two that differ about an item.
        """
        found = self._found.setdefault(kind, {})
        if self.folder is None:
            return dict(found)
        for path in sorted(set(self.folder.glob(f"{kind}-*.jsonl")) - self._read):
            values = _read(path)
            for number, value in values.items():
                if found.get(number, value) != value:
                    raise CorruptState(
                        f"{path} holds another value of item {number} than another shard: delete "
                        "both, and they are done again"
                    )
            found |= values
            self._read.add(path)
        return dict(found)

    def _keep(self, kind: str, values: dict[int, Any]) -> None:
        try:
            lines = [
                json.dumps({"number": number, "value": value}, ensure_ascii=False, allow_nan=False)
                for number, value in values.items()
            ]
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"{kind}: a value that JSON cannot hold: {error}") from error
        if self.folder is None:
            self._found.setdefault(kind, {}).update(values)
            return
        # Named by its items: nothing that another process has done is written over.
        digest = hashlib.sha256(" ".join(map(str, sorted(values))).encode()).hexdigest()[:12]
        path = self.folder / f"{kind}-{min(values):08d}-{digest}.jsonl"
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())

    def _open(self, folder: Path, asked: dict[str, Any]) -> None:
        path = folder / _SETTINGS
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.glob("*.jsonl")):
                raise CorruptState(
                    f"{folder} holds shards and no {_SETTINGS}: choose another folder"
                )
            content = {"format": _FORMAT, "settings": asked}
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            write_atomically(path, text.encode())
            return
        try:
            held = json.loads(path.read_bytes())
        except ValueError as error:
            raise CorruptState(f"{path} is not JSON: {error}") from error
        if not isinstance(held, dict) or held.get("format") != _FORMAT:
            raise CorruptState(f"{path} is not of the format {_FORMAT}")
        if found := differences(held.get("settings"), asked):
            raise RunMismatch(
                f"{folder} was begun with other settings: {'; '.join(found)}. Choose another "
                "folder, or the same settings to go on"
            )


def _read(path: Path) -> dict[int, Any]:
    found = {}
    for place, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            item = json.loads(line)
            number, value = item["number"], item["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            number, value = None, None
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CorruptState(
                f"{path}, line {place}, is no item of a shard: delete the file, and its items are "
                "done again"
            )
        found[number] = value
    return found
