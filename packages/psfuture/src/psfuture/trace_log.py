"""Logs that grow by a sentence at a time and that a killed run leaves usable."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.clock import UNIT_MS
from psfuture.instances import instance_of, trace_of_instance
from psfuture.trace import Trace
from psfuture.units import Unit, check_unit

Form = Literal["instances", "traces"]


class TraceLog:
    """A file to add sentences to, which is taken up where a killed run left it.

    Every sentence is on its way to the disk when :meth:`append` returns. The torn last line of a
    run that was killed is cut off when the log is opened.

    Args:
        path: of the file, made if it is not there.
        form: "instances", as SimulEval's `instances.log`, or "traces", as `trace.jsonl`.
        unit: see :func:`psfuture.instances.instance_of`.
        unit_ms: the same.

    Attributes:
        held: the sentences in the file, by index; these need not be done again.

    Raises:
        CorruptState: the file holds other lines; it is left as it is. The message names the line.
        InvalidSetting: an unknown form, or lines of another unit.
    """

    def __init__(
        self,
        path: str | Path,
        form: Form = "instances",
        *,
        unit: Unit = "word",
        unit_ms: float = UNIT_MS,
    ):
        self.path, self.form, self.unit, self.unit_ms = Path(path), form, unit, unit_ms
        reader = _reader(form, unit)
        self.path.touch()
        content = self.path.read_bytes()
        self.held = _sentences(self.path, content, reader)
        whole = _whole(content)
        with open(self.path, "r+b") as file:
            file.truncate(len(whole))
            if whole and not whole.endswith(b"\n"):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")

    def append(self, index: int, trace: Trace) -> None:
        """Add a sentence.

        Args:
            index: of the sentence, from 0.
            trace: what happened to it.

        Raises:
            InvalidSetting: the sentence is there already, or its computation is no numbers.
            OSError: the disk is full; the lines before are untouched.
        """
        if index in self.held:
            raise InvalidSetting(f"sentence {index} is in {self.path} already")
        if self.form == "instances":
            values = instance_of(index, trace, unit=self.unit, unit_ms=self.unit_ms)
        else:
            values = {"index": index} | trace.as_json()
        line = json.dumps(values).encode() + b"\n"
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, "a sentence was written in part", file.name)
            except BaseException:
                file.truncate(end)
                raise
        self.held[index] = trace


def read_instances(path: str | Path, *, unit: Unit = "word") -> dict[int, Trace]:
    """Sentences of an `instances.log` by index, SimulEval's own or ours; a torn last one is left.

    Args:
        path: of the log.
        unit: that it was written in.

    Raises:
        CorruptState, InvalidSetting: as :func:`psfuture.instances.trace_of_instance`; the message
            names the line.
        OSError: the file cannot be read.
    """
    return _sentences(Path(path), Path(path).read_bytes(), _reader("instances", unit))


def read_traces(path: str | Path) -> dict[int, Trace]:
    """Sentences of a `trace.jsonl` by index; errors as :func:`read_instances`."""
    return _sentences(Path(path), Path(path).read_bytes(), _reader("traces", "word"))


def _reader(form: Form, unit: Unit) -> Callable[[Any], Trace]:
    check_unit(unit)
    if form == "traces":
        return Trace.from_json
    if form != "instances":
        raise InvalidSetting(f"a log's form is instances or traces, not {form!r}")
    return lambda line: trace_of_instance(line, unit=unit)


def _sentences(path: Path, content: bytes, reader: Callable[[Any], Trace]) -> dict[int, Trace]:
    found: dict[int, Trace] = {}
    for number, line in enumerate(_whole(content).split(b"\n"), 1):
        if not line:
            continue
        try:
            values = json.loads(line)
            index = values["index"]
            if type(index) is not int or index < 0 or index in found:
                raise CorruptState(f"index {index!r} is there before, or is no index")
            found[index] = reader(values)
        except (CorruptState, InvalidSetting) as error:
            raise type(error)(f"{path}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptState(f"{path}, line {number} is no sentence: {error!r}") from None
    return found


def _whole(content: bytes) -> bytes:
    """All but a torn last line; a last line that only lacks its end is whole."""
    end = content.rfind(b"\n") + 1
    try:
        json.loads(content[end:])
    except (ValueError, RecursionError):
        return content[:end]
    return content
