"""When things happen: the source arrives at an even pace, and the machine needs its time."""

from __future__ import annotations

import math

from lipogram.errors import InvalidSetting
from psfuture.trace import Trace

UNIT_MS = 400.0
"""Milliseconds between two source units: 150 words a minute, an easy pace of speech."""


def done_ms(trace: Trace, unit_ms: float = UNIT_MS) -> list[float]:
    """When the work after each source unit was done, in milliseconds.

    Unit j arrives at j times `unit_ms`; its work begins when it has arrived and the work before it
    is done: F_j = max(F_{j-1}, j · unit_ms) + c_j, and F_0 = 0.

    Args:
        trace: with `compute_ms`, c.
        unit_ms: between two source units.

    Returns:
        F_0, F_1, … F_n for n source units.

    Raises:
        InvalidSetting: a pace that is no positive number, or nobody measured each unit's work.
    """
    if not 0 < unit_ms < math.inf:
        raise InvalidSetting(f"unit_ms is {unit_ms}, it must be a positive number of milliseconds")
    if len(trace.compute_ms) != len(trace.source):
        raise InvalidSetting(
            f"the computation was measured for {len(trace.compute_ms)} of {len(trace.source)} "
            f"source units of {' '.join(trace.source[:5])!r}…: let each sentence run alone, in a "
            "session, to know its computation"
        )
    done = [0.0]
    for unit, work in enumerate(trace.compute_ms, 1):
        if not 0 <= work < math.inf:
            raise InvalidSetting(f"the work after source unit {unit} took {work} ms")
        done.append(max(done[-1], unit * unit_ms) + work)
    return done


def elapsed_ms(trace: Trace, unit_ms: float = UNIT_MS) -> list[float]:
    """When each target word was shown, in milliseconds; see :func:`done_ms`."""
    done = done_ms(trace, unit_ms)
    return [done[delay] for delay in trace.delays]
