"""Quality at equal latency, with what chance could have done to it.

Two policies are compared where their curves pass the same latency. Sentences are drawn again with
replacement, the same ones for both; latency and BLEU of every point are computed anew on each draw,
and the curves read off between neighbouring points (paired bootstrap, Koehn 2004).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from psfuture.metrics import Unit
from psfuture.metrics import latency as latencies_of
from psfuture.trace import Trace

Curve = Mapping[Any, Sequence[Trace]]
Verdict = Literal["higher", "lower", "not told apart", "not compared"]
Floats = NDArray[np.float64]
ORDERS = 4
STATISTICS = 2 + 2 * ORDERS


@dataclass(frozen=True)
class Difference:
    """BLEU of one curve less that of another, at one latency.

    Attributes:
        latency: name of the metric.
        at: its value.
        a: BLEU of the first curve there, on all sentences.
        b: that of the second.
        difference: a - b; None in a gap, as the rest.
        low: lower end of the interval.
        high: its upper end.
        gap: why there is no difference; empty where there is one.
    """

    latency: str
    at: float
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    gap: str = ""

    @property
    def verdict(self) -> Verdict:
        """What may be said of it, see :func:`verdict`."""
        return verdict(self.low, self.high)


@dataclass(frozen=True)
class Band:
    """One point of a curve with its interval.

    Attributes:
        knob: of the policy.
        latency: on all sentences.
        bleu: the same.
        low: lower end of BLEU's interval.
        high: its upper end.
    """

    knob: object
    latency: float
    bleu: float
    low: float
    high: float


def verdict(low: float | None, high: float | None) -> Verdict:
    """What an interval of a difference allows to be said: nothing where it covers 0."""
    if low is None or high is None:
        return "not compared"
    return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


def bleu_statistics(
    outputs: Sequence[str], references: Sequence[str], *, tokenizer: str = "13a"
) -> Floats:
    """What BLEU counts in each sentence, by sacrebleu.

    Args:
        outputs: (n,) translations.
        references: (n,) one each.
        tokenizer: sacrebleu's name of a tokeniser.

    Returns:
        (n, 10): length, reference's length, matches of 1 to 4-grams, n-grams of 1 to 4.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer, max_ngram_order=ORDERS)
    rows = np.zeros((len(outputs), STATISTICS))
    for row, output, reference in zip(rows, outputs, references, strict=True):
        found = metric.corpus_score([output], [[reference]])
        row[:] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    return rows


def bleu_of(statistics: ArrayLike) -> Floats:
    """Corpus BLEU of summed statistics; sacrebleu's `corpus_bleu` to rounding.

    The k-th order without a match counts as 1 / (2^k n-grams), sacrebleu's default smoothing.

    Args:
        statistics: (..., 10), sums of :func:`bleu_statistics`.

    Returns:
        (...) in [0, 100].
    """
    sums = np.asarray(statistics, dtype=np.float64)
    length, reference = sums[..., 0], sums[..., 1]
    matches, grams = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = matches == 0
        smoothed = np.where(missing, 0.5 ** missing.cumsum(-1), matches)
        precision = np.log(smoothed / grams).mean(-1)
        penalty = np.where(length < reference, 1 - reference / length, 0.0)
        score = 100 * np.exp(precision + penalty)
    scored = (matches > 0).any(-1) & (grams > 0).all(-1)
    return np.where(scored, score, 0.0)


class Measured:
    """What latency and BLEU of a curve's points are made of, sentence by sentence.

    Sentences are kept in an order of their own, so that draws do not depend on that of the traces.

    Args:
        curve: traces by knob, all of the same sentences with references.
        unit: see :func:`psfuture.metrics.score`.
        tokenizer: the same.

    Raises:
        InvalidSetting: an empty curve, or traces without reference or of different sentences.
    """

    def __init__(self, curve: Curve, *, unit: Unit = "word", tokenizer: str = "13a"):
        if not curve or not all(curve.values()):
            raise InvalidSetting("a curve needs at least one point, and each point sentences")
        self.knobs = tuple(curve)
        self.sentences: list[tuple[tuple[str, ...], str]] = []
        self._lags: list[list[dict[str, float]]] = []
        counts = []
        joint = "" if unit == "char" else " "
        for knob, traces in curve.items():
            keyed = sorted(((_key(trace), trace) for trace in traces), key=lambda item: item[0])
            sentences = [key for key, _ in keyed]
            if self.sentences and sentences != self.sentences:
                raise InvalidSetting(f"the point {knob!r} has other sentences than those before it")
            self.sentences = sentences
            self._lags.append([_lags(trace, unit) for _, trace in keyed])
            outputs = [joint.join(trace.words) for _, trace in keyed]
            references = [reference for _, reference in sentences]
            counts.append(bleu_statistics(outputs, references, tokenizer=tokenizer))
        self._counts = np.array(counts)  # (points, sentences, 10)

    def on(self, latency: str, weights: Floats) -> tuple[Floats, Floats]:
        """A latency and BLEU of each point, with every sentence so often.

        Args:
            latency: by its name; `AL_CA` and so on with the computation.
            weights: (draws, sentences).

        Returns:
            Two of (draws, points); the latency is NaN where no sentence drawn has one.

        Raises:
            InvalidSetting: no such latency.
        """
        known = {name for point in self._lags for row in point for name in row}
        if latency not in known:
            raise InvalidSetting(f"no latency {latency!r} here; there are {sorted(known)}")
        lags = np.array([[row.get(latency, np.nan) for row in point] for point in self._lags])
        there = np.isfinite(lags)
        with np.errstate(invalid="ignore"):
            mean = weights @ np.where(there, lags, 0.0).T / (weights @ there.T)
        return mean, bleu_of(np.tensordot(weights, self._counts, axes=(1, 1)))


def _lags(trace: Trace, unit: Unit) -> dict[str, float]:
    if not trace.words:
        return {}
    found = latencies_of(trace, unit=unit)
    if trace.compute_ms:
        aware = latencies_of(trace, unit=unit, computation_aware=True)
        found |= {f"{name}_CA": value for name, value in aware.items()}
    return found


def _key(trace: Trace) -> tuple[tuple[str, ...], str]:
    if trace.reference is None:
        raise InvalidSetting(f"no reference for {' '.join(trace.source[:5])!r}…: BLEU needs one")
    return trace.source, trace.reference


def compare_at(
    latency: str,
    at: Sequence[float],
    curve_a: Curve | Measured,
    curve_b: Curve | Measured,
    *,
    names: tuple[str, str] = ("the first curve", "the second curve"),
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Difference]:
    """How much higher the BLEU of one curve is at the same latency.

    Nothing is read off beyond a curve's ends: where a latency lies outside of one, or so close to
    its end that the resamples fall outside too often to bound the interval, the row is a gap. A
    resample that falls outside counts as the worst at both ends of the interval.

    Args:
        latency: a measure of :mod:`psfuture.latency`, such as "AL".
        at: its values.
        curve_a: of the one policy.
        curve_b: of the other, over the same sentences.
        names: of the curves, for gaps.
        resamples: draws of the sentences.
        seed: of the draws; the order of the sentences does not matter.
        confidence: share of the percentile interval.
        tokenize: see :func:`bleu_statistics`.

    Returns:
        A row for each value, in their order.

    Raises:
        InvalidSetting: what :class:`Measured` refuses, curves of different sentences, an unknown
            latency, no resamples, or a confidence outside (0, 1).
    """
    _check(resamples, confidence)
    first, second = _measured(curve_a), _measured(curve_b)
    if first.sentences != second.sentences:
        raise InvalidSetting("paired curves need the same sentences with the same references")
    weights = _draws(len(first.sentences), resamples, seed)
    whole = [points.on(latency, np.ones((1, weights.shape[1]))) for points in (first, second)]
    drawn = [points.on(latency, weights) for points in (first, second)]
    ranges = [(name, *_range(points[0])) for name, points in zip(names, whole, strict=True)]
    rows = []
    for value in at:
        outside = [
            f"{name} reaches {latency} {low:.3g} to {high:.3g}"
            for name, low, high in ranges
            if not low <= value <= high
        ]
        if outside:
            rows.append(Difference(latency, value, gap=" and ".join(outside)))
            continue
        a, b = (float(_read_off(*points, value)[0]) for points in whole)
        each = _read_off(*drawn[0], value) - _read_off(*drawn[1], value)
        low, high = _interval(each, confidence)
        if not np.isfinite([low, high]).all():
            share = np.isnan(each).mean()
            gap = f"{share:.0%} of the resamples lack {latency} {value:.3g} on a curve"
            rows.append(Difference(latency, value, a, b, gap=gap))
            continue
        rows.append(Difference(latency, value, a, b, a - b, low, high))
    return rows


def compare_runs_at(
    latency: str,
    at: Sequence[float],
    runs: Sequence[tuple[Curve | Measured, Curve | Measured]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Difference]:
    """How much higher BLEU is on average over pairs of curves, such as one pair a training seed.

    The sentences of a draw are the same for all pairs, and their differences are averaged in it:
    the interval is over sentences, not over further trainings. The rest is as :func:`compare_at`.

    Raises:
        InvalidSetting: no pair, and as :func:`compare_at`.
    """
    _check(resamples, confidence)
    if not runs:
        raise InvalidSetting("runs are compared by pairs of curves: give one at least")
    pairs = [(_measured(a), _measured(b)) for a, b in runs]
    sentences = pairs[0][0].sentences
    if any(curve.sentences != sentences for pair in pairs for curve in pair):
        raise InvalidSetting("paired curves need the same sentences with the same references")
    weights = _draws(len(sentences), resamples, seed)
    drawn = [[c.on(latency, weights) for c in pair] for pair in pairs]
    whole = [[c.on(latency, np.ones((1, len(sentences)))) for c in pair] for pair in pairs]
    rows = []
    for value in at:
        a, b = (
            float(np.mean([_read_off(*pair[which], value)[0] for pair in whole]))
            for which in (0, 1)
        )
        each = np.mean(
            [_read_off(*pair[0], value) - _read_off(*pair[1], value) for pair in drawn], axis=0
        )
        low, high = _interval(each, confidence)
        if not np.isfinite([a, b, low, high]).all():
            gap = f"{latency} {value:.3g} is outside of a curve, or of too many resamples of one"
            rows.append(Difference(latency, value, gap=gap))
            continue
        rows.append(Difference(latency, value, a, b, a - b, low, high))
    return rows


def bands(
    latency: str,
    curve: Curve | Measured,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Band]:
    """BLEU of each point with its own interval, for error bars; arguments as :func:`compare_at`."""
    _check(resamples, confidence)
    points = _measured(curve)
    count = len(points.sentences)
    across, up = points.on(latency, np.ones((1, count)))
    _, drawn = points.on(latency, _draws(count, resamples, seed))
    made = []
    for at, knob in enumerate(points.knobs):
        low, high = _interval(drawn[:, at], confidence)
        made.append(Band(knob, float(across[0, at]), float(up[0, at]), low, high))
    return made


def _measured(curve: Curve | Measured) -> Measured:
    return curve if isinstance(curve, Measured) else Measured(curve)


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0 < confidence < 1:
        raise InvalidSetting(
            f"{resamples} resamples and a confidence of {confidence}: at least 1, and in (0, 1)"
        )


def _draws(sentences: int, resamples: int, seed: int) -> Floats:
    """How often each sentence is drawn, (resamples, sentences)."""
    even = np.full(sentences, 1 / sentences)
    drawn = np.random.default_rng(seed).multinomial(sentences, even, size=resamples)
    return drawn.astype(np.float64)


def _range(latencies: Floats) -> tuple[float, float]:
    return float(np.nanmin(latencies)), float(np.nanmax(latencies))


def _read_off(latency: Floats, bleu: Floats, at: float) -> Floats:
    """BLEU at a latency in each draw, (draws,); NaN beyond the ends. Arguments (draws, points)."""
    order = np.argsort(latency, axis=1, kind="stable")
    across, up = np.take_along_axis(latency, order, 1), np.take_along_axis(bleu, order, 1)
    right = (across < at).sum(1)  # a NaN sorts last and is never below
    inside = right < across.shape[1]
    right = np.minimum(right, across.shape[1] - 1)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(across))
    after, before = across[rows, right], across[rows, left]
    inside &= (after == at) | ((before < at) & (at < after))
    width = np.where(after > before, after - before, 1.0)
    share = np.where(after == at, 1.0, (at - before) / width)
    found = up[rows, left] + share * (up[rows, right] - up[rows, left])
    return np.where(inside, np.where(share == 1.0, up[rows, right], found), np.nan)


def _interval(values: Floats, confidence: float) -> tuple[float, float]:
    """Percentile interval; a NaN counts as the smallest value below and as the largest above."""
    tail = (1 - confidence) / 2
    lowest, highest = np.nan_to_num(values, nan=-np.inf), np.nan_to_num(values, nan=np.inf)
    return (
        float(np.quantile(lowest, tail, method="lower")),
        float(np.quantile(highest, 1 - tail, method="higher")),
    )
