"""How far behind its source a translation is: every measure of it, for one sentence.

Each measure is SimulEval 1.1.4's to the last bit of arithmetic where SimulEval has it; where it is
not theirs, the docstring says whose it is. Units of length are source units, words as a rule.

With the computation counted, a target unit has two numbers: how much was read when it was shown,
and when that was. The first says which units are averaged, as it does without the computation; the
second is what is averaged. A machine that needs time is therefore never measured as ahead of one
that needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """When the target units of one sentence were shown.

    Attributes:
        reads: source units read when each was shown; not empty, never falling.
        times: when that was, in source units; `reads` unless the computation is counted.
        source: |X|, source units in all.
        target: |Y|, target units of the reference, or of the output where there is none.
    """

    reads: Sequence[int]
    times: Sequence[float]
    source: int
    target: int


def average_lagging(timing: Timing) -> float:
    """AL (Ma et al. 2019, section 4), up to the first unit that was shown after all was read."""
    return _lagging(timing, timing.target)


def length_adaptive_average_lagging(timing: Timing) -> float:
    """LAAL (Polák et al. 2022; Papi et al. 2022): AL that over-generation does not lower."""
    return _lagging(timing, max(timing.target, len(timing.reads)))


def yet_another_average_lagging(timing: Timing) -> float:
    """YAAL (Polák et al. 2025, arXiv 2509.17349): LAAL of what was shown before all was read.

    SimulEval 1.1.4 lacks it; OmniSTEval is its authors' implementation. NaN where nothing was shown
    before; a corpus leaves such a sentence out.
    """
    if timing.reads[0] >= timing.source:
        return math.nan
    step = timing.source / max(timing.target, len(timing.reads))
    before = sum(read < timing.source for read in timing.reads)
    return sum(time - at * step for at, time in enumerate(timing.times[:before])) / before


def average_proportion(timing: Timing) -> float:
    """AP (Cho and Esipova 2016): of the source, read for a unit; above 1 for over-generation."""
    return sum(timing.times) / (timing.source * timing.target)


def differentiable_average_lagging(timing: Timing) -> float:
    """DAL (Cherry and Foster 2019; Arivazhagan et al. 2019): each unit takes its time to say."""
    step = timing.source / len(timing.times)
    total, last = 0.0, -math.inf
    for at, time in enumerate(timing.times):
        last = max(time, last + step)
        total += last - at * step
    return total / len(timing.times)


def average_token_delay(timing: Timing) -> float:
    """ATD (Kano et al. 2023) of text: a unit lasts 1, and waits for the end of the one before.

    A target unit is held against the source unit of its number, or an earlier one where earlier
    chunks had more target than source units; against the last one read where there are too few.
    SimulEval computes this while it runs; what it computes from its logs of text is wrong.
    """
    total, end = 0.0, 0.0
    before, read_before = 0, 0  # target units, and source units, of the chunks before
    for at, (read, time) in enumerate(zip(timing.reads, timing.times, strict=True)):
        if at and read != timing.reads[at - 1]:
            before, read_before = at, timing.reads[at - 1]
        end = max(time, end) + 1
        total += end - min(at + 1 - max(0, before - read_before), read)
    return total / len(timing.reads)


def consecutive_wait(timing: Timing) -> float:
    """CW (Gu et al. 2017): source units between two bursts of writing; SimulEval lacks it."""
    return timing.times[-1] / len(set(timing.reads))


def chunks(timing: Timing) -> float:
    """NumChunks: of text, SimulEval counts each target unit as one."""
    return float(len(timing.reads))


def start_offset(timing: Timing) -> float:
    """StartOffset: when the first unit was shown."""
    return float(timing.times[0])


def end_offset(timing: Timing) -> float:
    """EndOffset: how long after the source's end the last unit was shown."""
    return float(timing.times[-1] - timing.source)


def _lagging(timing: Timing, target: int) -> float:
    if timing.reads[0] > timing.source:
        return float(timing.times[0])
    step, total = timing.source / target, 0.0
    for at, (read, time) in enumerate(zip(timing.reads, timing.times, strict=True)):
        total += time - at * step
        if read >= timing.source:
            break
    return total / (at + 1)


MEASURES: dict[str, Callable[[Timing], float]] = {
    "AL": average_lagging,
    "LAAL": length_adaptive_average_lagging,
    "YAAL": yet_another_average_lagging,
    "AP": average_proportion,
    "DAL": differentiable_average_lagging,
    "ATD": average_token_delay,
    "CW": consecutive_wait,
    "NumChunks": chunks,
    "StartOffset": start_offset,
    "EndOffset": end_offset,
}
"""By the names that SimulEval and tables use."""
