"""Traces of a sweep's points on disk, written by one process or several.

A process appends what it has finished to a part of its own; whoever is first puts whole sets of
parts together. Killed at any instant, what was appended stays, but for a torn last line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipogram.errors import CorruptState
from lipogram.files import write_atomically
from psfuture.points import Point
from psfuture.trace import Trace
from psfuture.trace_log import TraceLog, read_traces

WHOLE = "trace.jsonl"


class PointFolder:
    """A point's folder: `point.json`, then parts, then `trace.jsonl`.

    Args:
        folder: made if it is not there.
        sentences: n, of the whole test set.
    """

    def __init__(self, folder: Path, sentences: int):
        self.folder, self.sentences = folder, sentences

    def describe(self, family: str, knob: float | None, prefix_eos: bool, policy: Any) -> None:
        """Say what the point is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head = {"family": family, "knob": knob, "prefix_eos": prefix_eos, "policy": policy}
        write_atomically(self.folder / "point.json", (json.dumps(head, indent=2) + "\n").encode())

    @property
    def whole(self) -> bool:
        """All of its sentences are in `trace.jsonl`."""
        return (self.folder / WHOLE).exists()

    def held(self) -> dict[int, Trace]:
        """What is finished, by the sentence's place; written by whatever process.

        Raises:
            CorruptState: a line that is no trace, or a `trace.jsonl` of another length.
        """
        try:
            files = [self.folder / WHOLE] if self.whole else sorted(self.folder.glob("part-*"))
            found = {at: trace for path in files for at, trace in read_traces(path).items()}
        except FileNotFoundError:  # another process has just put the parts together
            return self.held()
        if self.whole and sorted(found) != list(range(self.sentences)):
            raise CorruptState(
                f"{self.folder / WHOLE} holds {len(found)} sentences of {self.sentences}: remove it"
            )
        return found

    def append(self, rank: int, traces: Mapping[int, Trace]) -> None:
        """Add finished sentences to the part of this process."""
        log = TraceLog(self.folder / f"part-{rank}.jsonl", "traces")
        for at, trace in traces.items():
            log.append(at, trace)

    def gather(self) -> None:
        """Put the parts together, if all sentences are there."""
        parts = list(self.folder.glob("part-*"))
        if self.whole or sum(part.read_bytes().count(b"\n") for part in parts) < self.sentences:
            return
        found = self.held()
        if len(found) < self.sentences:
            return
        lines = [json.dumps({"index": at} | found[at].as_json()) for at in range(self.sentences)]
        write_atomically(self.folder / WHOLE, "".join(line + "\n" for line in lines).encode())
        for part in parts:
            part.unlink(missing_ok=True)


def read_points(folder: str | Path) -> list[Point]:
    """The finished points of a sweep's folder, by family, prefix and knob.

    Raises:
        CorruptState: no sweep's folder, or files that are not what a sweep writes.
    """
    from lipogram.runs import Run

    run = Run.open(folder)
    if not isinstance(sentences := run.config.get("sentences"), int):
        raise CorruptState(f"{folder} holds another run than a sweep")
    points = []
    for path in sorted((run.folder / "points").glob("*/point.json")):
        files = PointFolder(path.parent, sentences)
        if not files.whole:
            continue
        try:
            head = json.loads(path.read_text(encoding="utf-8"))
            named = head["family"], head["knob"], head["prefix_eos"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(f"{path} describes no point: {error}") from None
        points.append(Point(*named, traces=_ordered(files.held())))
    return sorted(points, key=lambda p: (p.family, not p.prefix_eos, p.knob or 0.0))


def _ordered(held: Mapping[int, Trace]) -> Sequence[Trace]:
    return [held[at] for at in sorted(held)]
