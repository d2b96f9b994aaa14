"""The demonstration: every policy on real text, and one sentence while it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lipogram.report import Cell, Section, Table, write_report
from lipogram.runs import Run
from psfuture.backend import Backend
from psfuture.curves import plot_traces
from psfuture.debian_text import evaluation_split
from psfuture.lm_future import LanguageModel
from psfuture.metrics import score
from psfuture.models import load
from psfuture.parallel_text import SentencePairs
from psfuture.points import Point, table
from psfuture.policies import Policy, PsFuture, WaitK
from psfuture.simulation_run import alone
from psfuture.study import (
    LM,
    PACED,
    WAIT,
    Finding,
    draw_curves,
    findings,
    findings_table,
    run_study,
)
from psfuture.sweep_processes import run_shares
from psfuture.sweep_report import points_table
from psfuture.sweeps import Share
from psfuture.trace import Trace

SENTENCES, TIMED, PROCESSES = 48, 2, 2
SHOWN_THRESHOLD, SHOWN_LAG = 0.1, 3

LEAD = (
    "English to Portuguese by a model that was trained on whole sentences, made simultaneous "
    "without training. PsFuture writes the next word where futures invented by a small language "
    "model would not change it; wait-k stays k words behind, whatever is said. Sentences are of "
    "the Debian handbook, from pages where nothing was chosen."
)
RIVALS = (
    "DAL counts the words of a burst as late, so there the policy writes one word a read. The "
    "true next words, which nobody has, show how far better futures could go."
)


def run_demo(
    folder: Path,
    *,
    sentences: int = SENTENCES,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Curves of all policies over some sentences, in `folder` with a page; resumes.

    Args:
        folder: of the run: report.html, its figures, `curve.tsv`, traces and summary.json.
        sentences: how many are read.
        progress: told what is being worked on.

    Returns:
        The summary: "headline" maps the names of the few figures that matter to their values,
        "sentence" is a trace as :meth:`psfuture.trace.Trace.as_json` gives it.

    Raises:
        MissingAsset: the models or the text are not on this machine and cannot be fetched.
        RunMismatch: `folder` holds a run with other settings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small wait for each other on more
    try:
        return _run(folder, sentences, progress)
    finally:
        torch.set_num_threads(threads)


def _run(folder: Path, sentences: int, progress: Callable[[str], None]) -> dict[str, Any]:
    progress("loading the translation model and SmolLM2-135M")
    backend, future, text = _given(sentences)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    world = max(1, min(cores or 1, PROCESSES))
    progress(f"{len(text)} sentences by every policy, {world} processes")
    if world > 1:
        run_shares(world, run_share, folder, sentences)
    points = _studied(folder, backend, future, text, None)
    progress("one stream at a time, by the clock")
    costs = _costs(backend, future, text.sources[:TIMED], text.targets[:TIMED])
    progress("intervals and figures")
    found = findings(points)
    traces = _shown(points)
    run = Run.open(folder)
    headline = _headline(points, found, costs)
    page = write_report(
        run,
        title="Simultaneous translation without training",
        lead=LEAD,
        key_figures=headline,
        sections=_sections(run, points, found, costs, traces),
    )
    summary = {
        "headline": headline,
        "sentence": next(iter(traces.values())).as_json(),
        "page": page.name,
    }
    run.summary(summary)
    return summary


def run_share(folder: Path, sentences: int, share: Share) -> None:
    """One process's part of the demo's sweep."""
    torch.set_num_threads(1)
    _studied(folder, *_given(sentences), share)


def _given(sentences: int) -> tuple[Backend, LanguageModel, SentencePairs]:
    return load("enpt"), LanguageModel(), evaluation_split("pt-br").fresh.sample(sentences)


def _studied(
    folder: Path,
    backend: Backend,
    future: LanguageModel,
    text: SentencePairs,
    share: Share | None,
) -> list[Point]:
    return run_study(
        folder, backend, future, text.sources, text.targets, prefixes=(True,), share=share
    )


def _costs(
    backend: Backend, future: LanguageModel, sources: Sequence[str], references: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Latency with and without computation, and milliseconds after each READ, by policy."""
    chosen: dict[str, Policy] = {
        f"PsFuture {SHOWN_THRESHOLD:g}": PsFuture(SHOWN_THRESHOLD, future, write_from="pseudo"),
        f"wait-{SHOWN_LAG}": WaitK(SHOWN_LAG),
    }
    found = {}
    for name, policy in chosen.items():
        traces = [alone(backend, policy, *pair) for pair in zip(sources, references, strict=True)]
        spent = sorted(ms for trace in traces for ms in trace.compute_ms)
        scored = score(traces)
        found[name] = {
            "LAAL": scored["LAAL"],
            "LAAL with computation": scored["LAAL_CA"],
            "median ms a READ": spent[len(spent) // 2],
        }
    return found


def _headline(
    points: Sequence[Point], found: Sequence[Finding], costs: dict[str, dict[str, float]]
) -> dict[str, Any]:
    offline = next(row for row in table(points).to_dict("records") if row["policy"] == "offline")
    held: dict[str, Any] = {"BLEU offline": float(offline["BLEU"])}
    for family, latency, at in ((LM, "LAAL", 3.5), (PACED, "DAL", 4.5)):
        for finding in found:
            for row in finding.rows:
                same = finding.curve == f"{family}, closed" and row.latency == latency
                if same and row.at == at and row.difference is not None:
                    interval = f"[{row.low:.1f}, {row.high:.1f}]"
                    name = f"BLEU over wait-k at {latency} {at:g}"
                    held[name] = f"{row.difference:+.1f} {interval}"
    name, cost = next(iter(costs.items()))
    return held | {f"ms a READ, {name}": round(cost["median ms a READ"])}


def _shown(points: Sequence[Point]) -> dict[str, Trace]:
    """A sentence of middling length by PsFuture and by wait-k."""
    wanted = {LM: SHOWN_THRESHOLD, WAIT: float(SHOWN_LAG)}
    chosen = {
        f"{point.family} {point.knob:g}": point.traces
        for point in points
        if point.knob is not None and wanted.get(point.family) == point.knob
    }
    first = next(iter(chosen.values()))
    place = min(range(len(first)), key=lambda at: abs(len(first[at].source) - 14))
    return {name: traces[place] for name, traces in chosen.items()}


def _sections(
    run: Run,
    points: Sequence[Point],
    found: Sequence[Finding],
    costs: dict[str, dict[str, float]],
    traces: dict[str, Trace],
) -> list[Section]:
    sentence = run.figure("trace.svg")
    plot_traces(traces, sentence)
    sections = [
        Section(
            "One sentence, word by word",
            figure=sentence,
            caption="Right: a source word is read. Down: a target word is shown.",
        )
    ]
    for latency in ("LAAL", "DAL"):
        path = run.figure(f"curve-{latency}.svg")
        draw_curves(points, latency, path)
        caption = "Points carry their threshold or k; bands are 95 % intervals over sentences."
        sections.append(Section(f"BLEU over {latency}", figure=path, caption=caption))
    sections.append(Section("Against wait-k at equal latency", RIVALS, findings_table(found)))
    rows: list[list[Cell]] = [[name, *cost.values()] for name, cost in costs.items()]
    cost_table = Table(["policy", *next(iter(costs.values()))], rows, digits=2)
    about = f"{TIMED} sentences as streams, one thread, a source word every 400 ms."
    sections.append(Section("What it costs", about, cost_table))
    sections.append(Section("All points", table=points_table(points)))
    return sections
