"""The page of a sweep: its curves, what they differ by at equal latency, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lipogram.errors import InvalidSetting, NothingMeasurable
from lipogram.report import Cell, Section, Table, write_report
from lipogram.runs import Run
from psfuture.bootstrap import Difference, Measured, bands
from psfuture.curves import plot_curves, plot_traces
from psfuture.points import LATENCIES, Point, against, curves_of, table
from psfuture.sweep_files import read_points
from psfuture.trace import Trace

Found = Mapping[tuple[str, str], Sequence[Difference]]
_SHOWN = ("BLEU", "chrF", "AL", "LAAL", "DAL", "CW", "AL_CA")


def write_sweep_report(
    folder: str | Path,
    *,
    baseline: str | None = None,
    at: Sequence[float] = (2, 3, 4, 5, 6),
    latencies: Sequence[str] = LATENCIES,
    quality: str = "BLEU",
    tokenizer: str = "13a",
    resamples: int = 1000,
    seed: int = 0,
    sentence: int | None = None,
) -> tuple[Path, Found]:
    """Draw the curves of a sweep's folder into it, and its page `report.html`.

    Args:
        folder: that :func:`psfuture.sweeps.sweep` filled.
        baseline: family that the others are compared with; None compares nothing.
        at: latencies of the comparison.
        latencies: a figure each.
        quality: what the figures show; intervals are drawn around BLEU.
        tokenizer: of BLEU, see :func:`psfuture.metrics.quality`.
        resamples: see :func:`psfuture.bootstrap.compare_at`.
        seed: the same.
        sentence: place of the one that is shown word by word; None takes the first of fitting
            length.

    Returns:
        The page, and the differences by curve and rival.

    Raises:
        NothingMeasurable: no point is finished.
        InvalidSetting: no such family, latency or sentence.
        CorruptState: the folder is no sweep's.
    """
    run, points = Run.open(folder), read_points(folder)
    if not points:
        raise NothingMeasurable(f"{folder} holds no finished point: run the sweep to its end")
    unit = run.config.get("unit", "word")
    frame = table(points, unit=unit, tokenizer=tokenizer)
    measured = {
        name: Measured(curve, unit=unit, tokenizer=tokenizer)
        for name, curve in curves_of(points).items()
    }
    found: Found = {}
    if baseline is not None:
        found = against(
            points,
            baseline,
            at=at,
            latencies=latencies,
            unit=unit,
            tokenizer=tokenizer,
            resamples=resamples,
            seed=seed,
        )
    sections = []
    for latency in latencies:
        path = run.figure(f"curve-{latency}.svg")
        drawn = {
            name: bands(latency, curve, resamples=resamples, seed=seed)
            for name, curve in measured.items()
        }
        plot_curves(frame, path, x=latency, y=quality, bands=drawn if quality == "BLEU" else None)
        sections.append(
            Section(
                f"{quality} over {latency}",
                figure=path,
                caption="Bands are 95 % intervals of each point, over resampled sentences.",
            )
        )
    if found:
        sections.append(Section(f"Against {baseline}", table=comparison_table(found)))
    chosen = _sentence(points, sentence)
    if chosen:
        path = run.figure("trace.svg")
        plot_traces(chosen, path)
        caption = "Right: a source word is read. Down: a target word is shown."
        sections.append(Section("One sentence", figure=path, caption=caption))
    sections.append(
        Section("All points", table=points_table(points, unit=unit, tokenizer=tokenizer))
    )
    page = write_report(run, title="Latency and quality", sections=sections)
    return page, found


def points_table(points: Sequence[Point], *, unit: str = "word", tokenizer: str = "13a") -> Table:
    """The sweep's table, for reports and terminals."""
    frame = table(points, unit=unit, tokenizer=tokenizer)  # type: ignore[arg-type]
    columns = [name for name in _SHOWN if name in frame]
    rows = [
        [point.curve, "" if point.knob is None else f"{point.knob:g}", *frame.loc[at, columns]]
        for at, point in enumerate(points)
    ]
    empty = int(frame["empty"].max()) if len(frame) else 0
    caption = f"Up to {empty} sentences have no translation; latencies leave them out."
    return Table(
        ["policy, prefix", "knob", *columns], rows, digits=2, caption=caption if empty else ""
    )


def comparison_table(found: Found) -> Table:
    """Differences of BLEU at equal latency; no win where the interval covers 0.

    Latencies that two curves do not share are not in it; below it stands why.
    """
    rows: list[list[Cell]] = []
    gaps: dict[str, None] = {}
    for (name, rival), differences in found.items():
        for row in differences:
            if row.gap:
                gaps |= dict.fromkeys(row.gap.split(" and "))
                continue
            where = f"{row.latency} {row.at:g}"
            rows.append([name, rival, where, row.difference, row.low, row.high, row.verdict])
    columns = ["policy, prefix", "against", "at", "BLEU", "from", "to", "so it is"]
    caption = "BLEU more than the rival's at the same latency, with its 95 % interval (paired)."
    if gaps:
        caption += f" Not compared elsewhere: {'; '.join(sorted(gaps))}."
    return Table(columns, rows, digits=2, caption=caption)


def _sentence(points: Sequence[Point], place: int | None) -> dict[str, Trace]:
    """One sentence by the middle points of the two longest curves; nothing where none fits."""
    moving = curves_of([point for point in points if point.knob is not None])
    curves = sorted(moving.items(), key=lambda item: -len(item[1]))[:2]
    middle = {}
    for name, curve in curves:
        knobs = list(curve)
        knob = knobs[len(knobs) // 2]
        middle[f"{name} {knob:g}"] = curve[knob]
    if not middle:
        return {}
    count = len(next(iter(middle.values())))
    if place is not None:
        if not 0 <= place < count:
            raise InvalidSetting(f"there are {count} sentences, and no number {place + 1}")
        return {name: traces[place] for name, traces in middle.items()}
    for at in range(count):
        chosen = {name: traces[at] for name, traces in middle.items()}
        lengths = [len(trace.source) for trace in chosen.values()]
        lengths += [len(trace.words) for trace in chosen.values()]
        if all(6 <= length <= 20 for length in lengths):
            return chosen
    return {}
