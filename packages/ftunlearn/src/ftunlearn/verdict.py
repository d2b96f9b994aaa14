"""What the evidence says: still there, no trace found, or neither.

That patched activations bring the answer back is also true of a model that never knew it: they
carry what the vanilla model computed. The verdict therefore rests on tests with a control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Label = Literal["not_forgotten", "suppressed", "no_trace_found", "inconclusive"]

RESAMPLES = 1000


@dataclass(frozen=True)
class Thresholds:
    """Where the verdict draws its lines; tuned on pairs whose truth is known, never on a demo.

    Attributes:
        forgotten: least forgetting F to speak of forgetting.
        gain: relearning gain G from which knowledge counts as recoverable.
        shallow: depth up to which knowledge counts as hidden.
        no_gain: G below which the attack found nothing.
        deep: depth from which the states carry nothing of it.
    """

    forgotten: float = 0.5
    gain: float = 0.2
    shallow: float = 0.4
    no_gain: float = 0.05
    deep: float = 0.8


@dataclass(frozen=True)
class Interval:
    """A mean over probes with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """A label and what it rests on.

    Attributes:
        label: not_forgotten, suppressed, no_trace_found ("erased as far as these tests see") or
            inconclusive.
        numbers: forgetting F, relearning gain G and depth, those that were measured.
        ran: tests that ran.
        skipped: tests that did not, and why.
        thresholds: the lines.
        sentence: the verdict in words.
    """

    label: Label
    numbers: Mapping[str, Interval]
    ran: tuple[str, ...]
    skipped: Mapping[str, str]
    thresholds: Thresholds
    sentence: str


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], n: int, *, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of n probes, given by their positions."""
    generator = np.random.default_rng([seed, n])
    drawn = [statistic(generator.integers(0, n, n)) for _ in range(RESAMPLES)]
    defined = np.asarray([value for value in drawn if not np.isnan(value)])
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def interval_of_mean(values: NDArray[np.float64], *, seed: int) -> Interval:
    """Mean and interval of values by probe, NaN left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = bootstrap(lambda drawn: float(values[drawn].mean()), len(values), seed=seed)
    return Interval(float(values.mean()), low, high)


def decide(
    forgetting: Interval,
    gain: Interval | None,
    depth: Interval | None,
    *,
    skipped: Mapping[str, str],
    surrogate: bool,
    thresholds: Thresholds | None = None,
) -> Verdict:
    """The verdict from F, G and depth; a test that is None was skipped.

    Args:
        forgetting: F = 1 - p_unlearned / p_vanilla, mean over probes.
        gain: G of :class:`ftunlearn.relearning.Relearned`.
        depth: of :class:`ftunlearn.reverse.Reverse`; NaN counts as skipped.
        skipped: why a test was skipped, by name.
        surrogate: whether depth was taken without a reference model.
        thresholds: other lines than the default.
    """
    lines = thresholds or Thresholds()
    skipped = dict(skipped)
    numbers = {"forgetting": forgetting}
    for name, interval in (("gain", gain), ("depth", depth)):
        if interval is not None and not np.isnan(interval.value):
            numbers[name] = interval
        elif interval is not None:
            skipped.setdefault(name, "undefined: the control changes nothing either")
    g = numbers["gain"].value if "gain" in numbers else None
    d = numbers["depth"].value if "depth" in numbers else None
    label: Label
    if forgetting.value < lines.forgotten:
        label = "not_forgotten"
    elif (g is not None and g >= lines.gain) or (d is not None and d <= lines.shallow):
        label = "suppressed"
    elif g is not None and d is not None and g < lines.no_gain and d >= lines.deep:
        label = "no_trace_found"
    else:
        label = "inconclusive"
    sentence = _sentence(label, forgetting.value, g, d, lines, surrogate=surrogate)
    return Verdict(label, numbers, tuple(numbers), skipped, lines, sentence)


def _sentence(
    label: Label, f: float, g: float | None, d: float | None, lines: Thresholds, *, surrogate: bool
) -> str:
    lost = f"the answers lost {f:.1%} of their probability"
    evidence = []
    if g is not None:
        evidence.append(
            f"training on some of the facts brought back {g:.0%} of the probability of others "
            "beyond what unrelated training did"
        )
    if d is not None:
        control = "a mismatched prompt" if surrogate else "the reference model"
        evidence.append(
            f"the model's states lack {d:.0%} of what those of {control} lack (reverse-patch depth)"
        )
    found = "; ".join(evidence) or "no test with a control ran"
    match label:
        case "not_forgotten":
            return f"Not forgotten: {lost}, less than {lines.forgotten:.0%}."
        case "suppressed":
            kept = [g is not None and g >= lines.gain, d is not None and d <= lines.shallow]
            measured = [value is not None for value in (g, d)]
            told = [k for k, is_there in zip(kept, measured, strict=True) if is_there]
            shown = "; ".join(line for line, tells in zip(evidence, told, strict=True) if tells)
            return (
                f"Suppressed: {lost}, but {shown}. "
                "This is evidence that the knowledge can be recovered."
            )
        case "no_trace_found":
            return (
                f"No trace found: {lost}, and {found}. Erased as far as these tests see; this is "
                "only absence of evidence, not proof that the knowledge is gone."
            )
        case _:
            return f"Inconclusive: {lost}; {found}. The tests do not agree, or one was skipped."
