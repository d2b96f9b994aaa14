"""Latency-quality curves: families of policies over one test set.

Encodings and answers of the model are shared by all points; with a folder, what is done is not done
again, and several processes share the sentences.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lipogram.errors import FolderInUse, InvalidSetting, RunMismatch
from lipogram.files import write_atomically
from lipogram.runs import Run
from lipogram.settings import differences, settings_of
from psfuture.backend import Backend
from psfuture.points import Point, description, identity, knob_of, table
from psfuture.policies import Policy
from psfuture.simulation import sweep_traces
from psfuture.simulation_run import alone, check_run
from psfuture.sweep_files import PointFolder, read_points
from psfuture.trace import Trace
from psfuture.units import Unit

if TYPE_CHECKING:
    import pandas as pd

_PATIENCE, _PAUSE = 3600.0, 0.1

Families = Mapping[str, Sequence[Policy]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Share:
    """The part of this process: of every `world` sentences in a row the one at `rank`.

    Attributes:
        rank: from 0.
        world: processes.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InvalidSetting(f"rank {self.rank} of {self.world} processes")

    @classmethod
    def of_launcher(cls) -> Share:
        """What torchrun or accelerate gave this process; all of it without a launcher.

        Raises:
            InvalidSetting: `RANK` and `WORLD_SIZE` that are no such numbers.
        """
        try:
            return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        except ValueError as error:
            raise InvalidSetting(f"RANK and WORLD_SIZE: {error}") from None


def sweep(
    backend: Backend,
    families: Families,
    sources: Sequence[str],
    references: Sequence[str],
    *,
    folder: str | Path | None = None,
    unit: Unit = "word",
    tokenizer: str = "13a",
    batch_size: int = 64,
    analysis: bool = False,
    timed: bool = False,
    share: Share | None = None,
    progress: Progress = lambda count: None,
) -> pd.DataFrame:
    """Quality and latency of every policy.

    Args:
        backend: the model.
        families: policies by the name of their curve, such as {"wait-k": [WaitK(1), WaitK(3)]}.
        sources: a sentence each.
        references: a translation each.
        folder: of the run; holds `curve.tsv` of all its points and a `trace.jsonl` of each. Points
            and sentences done are not done again. None keeps nothing.
        unit: what is read and shown, see :func:`psfuture.simulation.simulate`.
        tokenizer: of BLEU, see :func:`psfuture.metrics.quality`.
        batch_size: sentences in lock-step.
        analysis: allow an oracle.
        timed: run each sentence alone, as a stream, and measure its computation.
        share: of this process; by default the launcher's.
        progress: told how many sentences of its share this process has finished.

    Returns:
        A row a point: policy, knob, prefix_eos, BLEU, chrF, AL, LAAL, AP, DAL, CW, ATD, those with
        computation where timed, sentences, empty.

    Raises:
        InvalidSetting: counts differ, no sentence, no policy, two policies that are the same, or
            several processes without a folder.
        RunMismatch: the folder holds other sentences or another model.
        CorruptState: its files are not what a sweep writes.
        FolderInUse: another process of the sweep has stopped.
    """
    points = sweep_points(
        backend,
        families,
        sources,
        references,
        folder=folder,
        unit=unit,
        tokenizer=tokenizer,
        batch_size=batch_size,
        analysis=analysis,
        timed=timed,
        share=share,
        progress=progress,
    )
    return table(points, unit=unit, tokenizer=tokenizer)


def sweep_points(
    backend: Backend,
    families: Families,
    sources: Sequence[str],
    references: Sequence[str],
    *,
    folder: str | Path | None = None,
    unit: Unit = "word",
    tokenizer: str = "13a",
    batch_size: int = 64,
    analysis: bool = False,
    timed: bool = False,
    share: Share | None = None,
    progress: Progress = lambda count: None,
) -> list[Point]:
    """The traces behind :func:`sweep`, in the order of the families; arguments and errors alike."""
    chosen = _named(families, timed=timed)
    check_run(
        backend,
        [policy for _, policy in chosen.values()],
        sources,
        references,
        unit=unit,
        batch_size=batch_size,
        analysis=analysis and not timed,
    )
    share = share or Share.of_launcher()
    if folder is None and share.world > 1:
        raise InvalidSetting("several processes put their sentences together in a folder: name one")
    files: dict[str, PointFolder] = {}
    held: dict[str, dict[int, Trace]] = {name: {} for name in chosen}
    if folder is not None:
        files = _opened(Path(folder), backend, chosen, sources, references, unit, share)
        held = {name: files[name].held() for name in chosen}
    own = range(share.rank, len(sources), share.world)
    for start in range(0, len(own), batch_size):
        batch = own[start : start + batch_size]
        lacking = {
            name: policy
            for name, (_, policy) in chosen.items()
            if any(at not in held[name] for at in batch)
        }
        found = _run(
            backend,
            lacking,
            [sources[at] for at in batch],
            [references[at] for at in batch],
            unit=unit,
            batch_size=batch_size,
            analysis=analysis,
            timed=timed,
        )
        for name, traces in found.items():
            new = {
                at: trace for at, trace in zip(batch, traces, strict=True) if at not in held[name]
            }
            held[name].update(new)
            if files:
                files[name].append(share.rank, new)
        progress(min(start + batch_size, len(own)))
    if files:
        _gather(list(files.values()), share)
        held = {name: files[name].held() for name in chosen}
    points = [
        Point(
            family,
            knob_of(policy),
            policy.prefix_eos,
            [held[name][at] for at in sorted(held[name])],
        )
        for name, (family, policy) in chosen.items()
    ]
    if folder is not None and share.rank == 0:
        found = table(read_points(folder), unit=unit, tokenizer=tokenizer)
        rows = found.to_csv(sep="\t", index=False, float_format="%.6g")
        write_atomically(Path(folder) / "curve.tsv", rows.encode())
    return points


def _run(
    backend: Backend,
    policies: Mapping[str, Policy],
    sources: Sequence[str],
    references: Sequence[str],
    *,
    unit: Unit,
    batch_size: int,
    analysis: bool,
    timed: bool,
) -> dict[str, list[Trace]]:
    if not timed:
        how = {"unit": unit, "batch_size": batch_size, "analysis": analysis}
        return sweep_traces(backend, policies, sources, references, **how)  # type: ignore[arg-type]
    return {
        name: [
            alone(backend, policy, source, reference, unit)
            for source, reference in zip(sources, references, strict=True)
        ]
        for name, policy in policies.items()
    }


def _named(families: Families, *, timed: bool) -> dict[str, tuple[str, Policy]]:
    named: dict[str, tuple[str, Policy]] = {}
    for family, policies in families.items():
        for policy in policies:
            name = identity(family, policy, timed=timed)
            if name in named:
                raise InvalidSetting(f"{policy.name} is twice in the family {family!r}")
            named[name] = family, policy
    if not named:
        raise InvalidSetting("a sweep needs at least one policy")
    return named


def _opened(
    folder: Path,
    backend: Backend,
    chosen: Mapping[str, tuple[str, Policy]],
    sources: Sequence[str],
    references: Sequence[str],
    unit: Unit,
    share: Share,
) -> dict[str, PointFolder]:
    """The points' folders; the first process makes what is not there, the others wait for it."""
    data = json.dumps([list(sources), list(references)]).encode()
    settings = {
        "model": backend.name,
        "sentences": len(sources),
        "data": hashlib.sha256(data).hexdigest(),
        "unit": unit,
    }
    files = {name: PointFolder(folder / "points" / name, len(sources)) for name in chosen}
    if share.rank == 0:
        Run.create(folder, settings, package="lipogram-psfuture")
        for name, (family, policy) in chosen.items():
            files[name].describe(family, knob_of(policy), policy.prefix_eos, description(policy))
        return files
    heads = [point.folder / "point.json" for point in files.values()]
    _wait(lambda: all(head.exists() for head in heads), lambda: 0, f"rank 0 made no {folder}")
    if found := differences(Run.open(folder).config, settings_of(settings)):
        raise RunMismatch(f"{folder} holds a run with other settings: {'; '.join(found)}")
    return files


def _gather(files: Sequence[PointFolder], share: Share) -> None:
    def ready() -> bool:
        if share.rank == 0:
            for point in files:
                point.gather()
        return all(point.whole for point in files)

    def written() -> int:
        parts = [part for point in files for part in point.folder.glob("part-*")]
        return sum(part.stat().st_size for part in parts if part.exists())

    _wait(ready, written, f"of {share.world} processes one has stopped")


def _wait(ready: Callable[[], bool], written: Callable[[], int], stopped: str) -> None:
    last, since = -1, time.monotonic()
    while not ready():
        if (now := written()) != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > _PATIENCE:
            raise FolderInUse(
                f"{stopped}: nothing was written for {_PATIENCE:g} s; what is there is kept, the "
                "same sweep goes on with it"
            )
        time.sleep(_PAUSE)
