"""PsFuture beside its rivals on one test set, as the demo and the benchmark run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipogram.report import Cell, Table
from psfuture.backend import Backend
from psfuture.bootstrap import Difference, Measured, bands, compare_at
from psfuture.curves import plot_curves
from psfuture.futures import Fixed, Future, Oracle
from psfuture.points import Point, curves_of, table
from psfuture.policies import (
    AlignAtt,
    HoldN,
    Limits,
    LocalAgreement,
    Offline,
    Policy,
    PsFuture,
    WaitK,
)
from psfuture.sweeps import Share, sweep_points

LM, PACED, FIXED = "PsFuture", "PsFuture paced", "PsFuture fixed"
WAIT, WAIT_LM = "wait-k", "wait-k from futures"

THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
FIXED_THRESHOLDS = (0.1, 0.03, 0.01, 0.003)
LAGS = (1, 2, 3, 4, 5, 6, 7)

DRAWN = (LM, PACED, FIXED, WAIT, "true future", "offline")

COMPARED = {"AL": (2.6, 3.0, 3.5, 4.0), "LAAL": (3.0, 3.5, 4.0), "DAL": (4.0, 4.5, 5.0, 6.0)}
"""Latencies at which policies are compared; they were named before the sentences were seen."""


def families(
    future: Future | None, *, prefixes: Sequence[bool] = (True, False)
) -> dict[str, list[Policy]]:
    """Every policy with its knobs, by curve.

    Args:
        future: of a language model of the source; None leaves its curves out.
        prefixes: ends of prefixes, closed (`</s>`) or open.
    """
    paced = Limits(max_words_per_read=1)
    found: dict[str, list[Policy]] = {}
    for closed in prefixes:
        made: dict[str, list[Policy]] = {}
        if future is not None:
            curve = [
                PsFuture(x, future, write_from="pseudo", prefix_eos=closed) for x in THRESHOLDS
            ]
            made[LM] = list(curve)
            made[PACED] = [replace(policy, limits=paced) for policy in curve]
            if closed:  # what it writes hangs on the futures' rows alone, which are closed
                made[WAIT_LM] = [WaitK(k, future=future) for k in LAGS]
        made[FIXED] = [PsFuture(x, Fixed(), prefix_eos=closed) for x in FIXED_THRESHOLDS]
        made[WAIT] = [WaitK(k, prefix_eos=closed) for k in LAGS]
        made["local agreement"] = [LocalAgreement(n, prefix_eos=closed) for n in (2, 3)]
        made["hold-n"] = [HoldN(n, prefix_eos=closed) for n in (2, 4, 6)]
        made["AlignAtt"] = [AlignAtt(f, prefix_eos=closed) for f in (1, 2, 4)]
        made["true future"] = [
            PsFuture(x, Oracle(4), write_from="pseudo", prefix_eos=closed) for x in (0.3, 0.1, 0.02)
        ]
        for name, policies in made.items():
            found.setdefault(name, []).extend(policies)
    return found | {"offline": [Offline()]}


@dataclass(frozen=True)
class Finding:
    """BLEU of one curve over another at equal latencies.

    Attributes:
        curve: the one, with its prefix setting.
        rival: the other.
        rows: a difference a latency.
    """

    curve: str
    rival: str
    rows: tuple[Difference, ...]


def run_study(
    folder: Path,
    backend: Backend,
    future: Future | None,
    sources: Sequence[str],
    references: Sequence[str],
    *,
    prefixes: Sequence[bool] = (True, False),
    share: Share | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Point]:
    """All points over a test set; the folder resumes, see :func:`psfuture.sweeps.sweep`."""
    return sweep_points(
        backend,
        families(future, prefixes=prefixes),
        sources,
        references,
        folder=folder,
        batch_size=32,
        analysis=True,
        share=share,
        progress=progress,
    )


def findings(points: Sequence[Point], *, resamples: int = 1000) -> list[Finding]:
    """PsFuture's curves against wait-k, each at its best prefix setting, at equal latency.

    The better setting of a family is the one with the higher BLEU, averaged over the latencies
    compared that both its curves reach.
    """
    measured: dict[str, dict[str, Measured]] = {}
    for name, curve in curves_of(points).items():
        measured.setdefault(name.rpartition(", ")[0], {})[name] = Measured(curve)
    wanted = [name for name in (LM, PACED, FIXED, WAIT_LM) if name in measured]
    found = []
    for family in wanted:
        for latency, at in COMPARED.items():
            own = best_prefix(measured[family], latency, at)
            rival = best_prefix(measured[WAIT], latency, at)
            rows = compare_at(
                latency,
                at,
                measured[family][own],
                measured[WAIT][rival],
                names=(own, rival),
                resamples=resamples,
            )
            found.append(Finding(own, rival, tuple(rows)))
    return found


def best_prefix(curves: dict[str, Measured], latency: str, at: Sequence[float]) -> str:
    """The curve with the higher BLEU on average, where all of them have one."""
    names = list(curves)
    if len(names) == 1:
        return names[0]
    first, second = names
    rows = compare_at(latency, at, curves[first], curves[second], resamples=1)
    known = [row.a - row.b for row in rows if row.a is not None and row.b is not None]
    return second if sum(known) < 0 else first


def findings_table(found: Sequence[Finding]) -> Table:
    """Differences for a page or a terminal; none is called higher where its interval covers 0."""
    rows: list[list[Cell]] = []
    for finding in found:
        for row in finding.rows:
            where = f"{row.latency} {row.at:g}"
            if row.difference is None:
                rows.append([finding.curve, finding.rival, where, None, None, None, row.gap])
                continue
            cells = [row.difference, row.low, row.high, row.verdict]
            rows.append([finding.curve, finding.rival, where, *cells])
    columns = ["policy, prefix", "against", "at", "BLEU", "from", "to", "so it is"]
    return Table(columns, rows, digits=2, caption="95 % intervals, paired over sentences.")


def draw_curves(points: Sequence[Point], latency: str, path: Path) -> None:
    """BLEU over a latency with intervals: PsFuture by its future, wait-k, offline; closed prefixes.

    Args:
        points: of :func:`run_study`.
        latency: such as "LAAL".
        path: `.svg` or `.png`.
    """
    drawn = [point for point in points if point.family in DRAWN and point.prefix_eos]
    intervals = {name: bands(latency, Measured(c)) for name, c in curves_of(drawn).items()}
    plot_curves(table(drawn), path, x=latency, bands=intervals)
