"""Points of latency-quality curves: one policy with one setting of its knob, over a test set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from lipogram.errors import InvalidSetting
from psfuture.policies import Policy
from psfuture.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

    from psfuture.bootstrap import Difference
    from psfuture.metrics import Unit

LATENCIES = ("AL", "LAAL", "DAL")
_MEASURES = ("AL", "LAAL", "YAAL", "AP", "DAL", "CW", "ATD")
COLUMNS = (
    "BLEU",
    "chrF",
    *_MEASURES,
    *(f"{name}_CA" for name in _MEASURES),
    "sentences",
    "empty",
)


@dataclass(frozen=True)
class Point:
    """A policy's traces.

    Attributes:
        family: of policies that differ by their knob alone.
        knob: the threshold, k, n …; None of a policy that has none.
        prefix_eos: whether prefixes were closed by `</s>`.
        traces: (n,) one a sentence.
    """

    family: str
    knob: float | None
    prefix_eos: bool
    traces: Sequence[Trace]

    @property
    def curve(self) -> str:
        """Name of the curve that it lies on; the prefix is part of it."""
        return f"{self.family}, {'closed' if self.prefix_eos else 'open'}"


def knob_of(policy: Policy) -> float | None:
    """The number that sets a policy's latency: its first field, where that is a number."""
    value = getattr(policy, dataclasses.fields(policy)[0].name)  # type: ignore[arg-type]
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def description(value: Any) -> Any:
    """All that a policy's decisions depend on, as JSON; what is large is named by its hash."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | dict):
        if len(value) > 50:
            return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
        if isinstance(value, dict):
            return {str(key): description(item) for key, item in value.items()}
        return [description(item) for item in value]
    if isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    held = {name: item for name, item in vars(value).items() if _is_setting(name, item)}
    return {"kind": type(value).__name__} | {k: description(v) for k, v in held.items()}


def _is_setting(name: str, item: Any) -> bool:
    plain = item is None or isinstance(item, bool | int | float | str | list | tuple | dict)
    return not name.startswith("_") and (
        plain or name == "future" or isfunction(item) or dataclasses.is_dataclass(item)
    )


def identity(family: str, policy: Policy, *, timed: bool = False) -> str:
    """A name for files, another one for each other setting."""
    held = json.dumps([family, description(policy), timed], sort_keys=True)
    knob = knob_of(policy)
    said = "".join(c if c.isalnum() and c.isascii() else "-" for c in family)
    middle = "" if knob is None else f"{knob:g}-"
    prefix = "closed" if policy.prefix_eos else "open"
    return f"{said}-{middle}{prefix}-{hashlib.sha256(held.encode()).hexdigest()[:8]}"


def table(points: Sequence[Point], *, unit: Unit = "word", tokenizer: str = "13a") -> pd.DataFrame:
    """A row a point: policy, knob, prefix_eos, and the columns :data:`COLUMNS` that it has.

    Args:
        points: a test set each.
        unit: see :func:`psfuture.metrics.score`.
        tokenizer: the same.
    """
    import pandas as pd

    from psfuture.metrics import score

    rows = []
    for point in points:
        scored = score(point.traces, unit=unit, tokenizer=tokenizer)
        first = {"policy": point.family, "knob": point.knob, "prefix_eos": point.prefix_eos}
        rows.append(first | {name: scored[name] for name in COLUMNS if name in scored})
    return pd.DataFrame(rows).astype({"knob": float})


def curves_of(points: Sequence[Point]) -> dict[str, dict[float | None, Sequence[Trace]]]:
    """Traces by curve and knob."""
    curves: dict[str, dict[float | None, Sequence[Trace]]] = {}
    for point in points:
        curves.setdefault(point.curve, {})[point.knob] = point.traces
    return curves


def against(
    points: Sequence[Point],
    baseline: str,
    *,
    at: Sequence[float],
    latencies: Sequence[str] = LATENCIES,
    unit: Unit = "word",
    tokenizer: str = "13a",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], list[Difference]]:
    """Every curve against every curve of one family, at equal latencies.

    Both prefix settings of the family stay apart, so that a policy meets it at the same setting and
    at its best one.

    Args:
        points: all of the same sentences.
        baseline: a family among them.
        at: latencies.
        latencies: metrics to hold equal.
        unit: that they count.
        tokenizer: of BLEU, see :func:`psfuture.metrics.quality`.
        resamples: see :func:`psfuture.bootstrap.compare_at`.
        seed: the same.

    Returns:
        Rows by the names of the curve and of its rival.

    Raises:
        InvalidSetting: no such family.
    """
    from psfuture.bootstrap import Measured, compare_at

    families: Mapping[str, None] = dict.fromkeys(point.family for point in points)
    if baseline not in families:
        raise InvalidSetting(f"no family {baseline!r} to compare with; there are {[*families]}")
    curves = {
        name: Measured(curve, unit=unit, tokenizer=tokenizer)
        for name, curve in curves_of(points).items()
    }
    rivals = dict.fromkeys(point.curve for point in points if point.family == baseline)
    moving = {point.curve for point in points if point.knob is not None}
    return {
        (name, rival): [
            row
            for latency in latencies
            for row in compare_at(
                latency,
                at,
                curves[name],
                curves[rival],
                names=(name, rival),
                resamples=resamples,
                seed=seed,
            )
        ]
        for rival in rivals
        for name in curves
        if name in moving and name not in rivals
    }
