"""A simulation that writes its folder as it goes, and takes it up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.runs import Run
from psfuture.backend import Backend
from psfuture.engine import Engine
from psfuture.metrics import score
from psfuture.points import description
from psfuture.policies import Policy
from psfuture.session import Session
from psfuture.simulation import check_length, simulate
from psfuture.trace import Trace
from psfuture.trace_log import TraceLog
from psfuture.units import Unit, split


def run_simulation(
    folder: str | Path | None,
    backend: Backend,
    policy: Policy,
    sources: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    unit: Unit = "word",
    tokenizer: str = "13a",
    timed: bool = False,
    analysis: bool = False,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Simulate a test set; killed at any instant, the same call goes on after the last sentence.

    Args:
        folder: of the run: `trace.jsonl`, SimulEval's `instances.log`, and the scores in
            `summary.json`; None keeps nothing.
        backend: the model.
        policy: when to write.
        sources: a sentence each.
        references: a translation each.
        unit: see :func:`psfuture.simulation.simulate`.
        tokenizer: of BLEU.
        timed: run each sentence alone, as a stream, and measure its computation.
        analysis: allow an oracle.
        batch_size: sentences in lock-step, and between two writes.
        progress: told how many sentences are done.

    Returns:
        What :func:`psfuture.metrics.score` returns.

    Raises:
        InvalidSetting, NotFinite: see :func:`psfuture.simulation.simulate`.
        NothingMeasurable: no sentence has a translation.
        RunMismatch, CorruptState: the folder holds another run, or files of something else.
    """
    check_run(
        backend,
        [policy],
        sources,
        references,
        unit=unit,
        batch_size=batch_size,
        analysis=analysis and not timed,
    )
    logs: list[TraceLog] = []
    run = None
    if folder is not None:
        data = json.dumps([list(sources), references and list(references)]).encode()
        settings = {
            "model": backend.name,
            "policy": description(policy),
            "sentences": len(sources),
            "data": hashlib.sha256(data).hexdigest(),
            "unit": unit,
            "timed": timed,
        }
        run = Run.create(folder, settings, package="lipogram-psfuture")
        logs = [
            TraceLog(run.folder / "trace.jsonl", "traces"),
            TraceLog(run.folder / "instances.log", unit=unit),
        ]
    held: dict[int, Trace] = dict(logs[0].held) if logs else {}
    missing = [at for at in range(len(sources)) if at not in held]
    for start in range(0, max(len(missing), 1), batch_size):
        batch = missing[start : start + batch_size]
        lines = [sources[at] for at in batch]
        own = None if references is None else [references[at] for at in batch]
        if timed:
            found = [
                alone(backend, policy, line, None if own is None else own[at], unit)
                for at, line in enumerate(lines)
            ]
        else:
            how: dict[str, Any] = {"unit": unit, "batch_size": batch_size, "analysis": analysis}
            found = simulate(backend, policy, lines, own, **how)
        held.update(zip(batch, found, strict=True))
        for log in logs:
            for at in sorted(set(held) - set(log.held)):
                log.append(at, held[at])
        progress(len(held))
    traces = [held[at] for at in sorted(held)]
    scored = score(traces, unit=unit, tokenizer=tokenizer)
    if run is not None:
        run.summary({"headline": scored})
    return scored


def check_run(
    backend: Backend,
    policies: Sequence[Policy],
    sources: Sequence[str],
    references: Sequence[str] | None,
    *,
    unit: Unit,
    batch_size: int,
    analysis: bool,
) -> None:
    """Refuse before anything is written what would be refused on the way.

    Raises:
        InvalidSetting: another number of references than of sources, no sentence or one that is too
            long, a batch size below 1, an oracle without `analysis`, or attention of a model that
            gives none.
    """
    if references is not None and len(references) != len(sources):
        raise InvalidSetting(f"{len(sources)} sources and {len(references)} references")
    if not sources or batch_size < 1:
        raise InvalidSetting(f"{len(sources)} sentences in batches of {batch_size}: at least 1")
    for policy in policies:
        Engine(backend, policy, unit=unit, analysis=analysis)
    for number, line in enumerate(sources, 1):
        check_length(backend, split(line, unit), unit, f"sentence {number}")


def alone(
    backend: Backend, policy: Policy, source: str, reference: str | None, unit: Unit = "word"
) -> Trace:
    """A sentence as a stream, with the time that its computation took."""
    session = Session(backend, policy, unit=unit)
    session.push(source, last=True)
    return session.trace.with_reference(reference)
