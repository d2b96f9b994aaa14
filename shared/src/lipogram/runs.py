"""A run: one folder that says what was done, with what, and what came of it."""

import errno
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipogram.environment import environment
from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.files import write_atomically
from lipogram.settings import differences, plain, settings_of

_SCHEMA = 1
_FIGURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Run:
    """A run's folder.

    `config.json` holds the settings and the environment, `metrics.jsonl` one event a line,
    `summary.json` the figures a reader wants; figures and `report.html` lie beside them. Killed at
    any instant, the folder keeps every event that :meth:`log` returned from, and can be reopened.

    Attributes:
        folder: where it lies.
        config: the settings, as JSON gives them back (tuples are lists, paths are strings).
        environment: versions, threads and platform at creation.
    """

    def __init__(self, folder: Path, config: dict[str, Any], environment: dict[str, Any]):
        self.folder = folder
        self.config = config
        self.environment = environment

    @classmethod
    def create(cls, folder: str | Path, config: object, *, package: str = "lipogram") -> "Run":
        """Begin a run, or reopen the one that `folder` holds if its settings are the same.

        Reopening drops a last event that was torn in writing. An environment other than that of the
        creation is no hindrance, but is logged as an event "environment".

        Args:
            folder: made if it does not exist; other files in it are left alone.
            config: every setting and seed, a mapping or a dataclass; JSON values, tuples and paths.
                A path under the home folder is written with `~`.
            package: distribution whose version is recorded with the libraries'.

        Raises:
            InvalidSetting: a setting that JSON cannot hold (NaN, an object), by name.
            RunMismatch: the folder holds other settings; the message names the keys.
            CorruptState: the folder's files are not a run's.
        """
        folder = Path(folder)
        settings = settings_of(config)
        present = environment(package)
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "metrics.jsonl").exists():
                raise CorruptState(
                    f"{folder} has metrics but no config.json: choose another folder"
                )
            run = cls(folder, settings, present)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            head = {"schema": _SCHEMA, "created": created}
            run._write("config.json", head | {"config": settings, "environment": present})
            write_atomically(folder / "metrics.jsonl", b"")
            return run
        run = cls.open(folder)
        found = differences(run.config, settings)
        if found:
            raise RunMismatch(
                f"{folder} holds a run with other settings: {'; '.join(found)}. "
                "Choose another folder, or the same settings to resume"
            )
        run._events_kept(truncate=True)
        if run.environment != present:
            run.log("environment", **present)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run, to read.

        Raises:
            CorruptState: `folder` holds no run of this version.
        """
        folder = Path(folder)
        content = _read(folder / "config.json")
        if content is None:
            raise CorruptState(f"{folder} holds no run: config.json is missing")
        if content.get("schema") != _SCHEMA:
            raise CorruptState(
                f"{folder / 'config.json'} has schema {content.get('schema')!r}, "
                f"this version reads {_SCHEMA}"
            )
        config, environment = content.get("config"), content.get("environment")
        if not isinstance(config, dict) or not isinstance(environment, dict):
            raise CorruptState(f"{folder / 'config.json'} lacks its config or environment")
        return cls(folder, config, environment)

    def log(self, event: str, **fields: object) -> None:
        """Append one event to `metrics.jsonl`; on disk when this returns.

        Args:
            event: its name; `time` (UTC) is added.
            fields: JSON values, NumPy scalars and arrays; a number that is not finite becomes null.

        Raises:
            InvalidSetting: a field named `time`, or one that JSON cannot hold.
            OSError: the disk is full; the events before are untouched.
        """
        if "time" in fields:
            raise InvalidSetting("an event's field cannot be called 'time': the run sets it")
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = {name: plain(value, name) for name, value in fields.items()}
        line = json.dumps({"event": event, "time": time} | values, allow_nan=False) + "\n"
        with open(self.folder / "metrics.jsonl", "ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line.encode()) < len(line):
                    raise OSError(errno.ENOSPC, f"event {event!r} was written in part", file.name)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The events logged so far, in order; only those called `event` if it is given.

        Raises:
            CorruptState: a line, other than a torn last one, that is no event.
        """
        kept = self._events_kept(truncate=False)
        return [line for line in kept if event is None or line["event"] == event]

    def summary(self, values: Mapping[str, object]) -> None:
        """Write `summary.json`, replacing the former one.

        Raises:
            InvalidSetting: a value that JSON cannot hold.
        """
        self._write("summary.json", plain(dict(values), "summary"))

    @property
    def result(self) -> dict[str, Any] | None:
        """What :meth:`summary` wrote last; None before that."""
        return _read(self.folder / "summary.json")

    def figure(self, name: str) -> Path:
        """Where the figure `name` belongs; a PNG unless the name ends in `.svg`.

        Raises:
            InvalidSetting: a name that is not a plain file name.
        """
        if not _FIGURE.fullmatch(name):
            raise InvalidSetting(
                f"a figure's name is letters, digits, '.', '_' and '-', not {name!r}"
            )
        return self.folder / (name if name.endswith((".png", ".svg")) else f"{name}.png")

    def _write(self, name: str, values: object) -> None:
        text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(self.folder / name, text.encode())

    def _events_kept(self, *, truncate: bool) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        events = []
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict) or "event" not in event:
                raise CorruptState(f"{path}, line {number} is no event: {line[:60]!r}")
            events.append(event)
        if truncate and whole < len(content):
            with open(path, "r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        return events


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptState(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptState(f"{path} must hold an object, it holds a {type(content).__name__}")
    return content
