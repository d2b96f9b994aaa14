"""What a translation is worth and how late it comes, for sentences and test sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from lipogram.errors import InvalidSetting, MissingExtra, NothingMeasurable
from psfuture.clock import UNIT_MS, done_ms
from psfuture.latency import MEASURES, Timing
from psfuture.trace import Trace

Unit = Literal["word", "char", "token"]
Tokenize = Callable[[str], Sequence[object]]

# The others of sacrebleu download a model.
TOKENIZERS = {"13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"}


@dataclass(frozen=True)
class CorpusLatency:
    """Latency of a test set.

    Attributes:
        values: means over the sentences with output, by the names of :data:`latency.MEASURES`; YAAL
            over those that said something before their source ended, NaN if none did.
        sentences: that were averaged.
        empty: sentences without output, which were not.
    """

    values: dict[str, float]
    sentences: int
    empty: int


def latency(
    trace: Trace,
    *,
    unit: Unit = "word",
    computation_aware: bool = False,
    unit_ms: float = UNIT_MS,
    tokenize: Tokenize | None = None,
) -> dict[str, float]:
    """Every measure of one sentence, in source units; see :mod:`psfuture.latency`.

    Args:
        trace: the sentence; without a reference its own length stands for the reference's.
        unit: of the target. The reference is counted as SimulEval counts: a word more for each
            blank, blanks among the characters.
        computation_aware: count the machine's time too; see :mod:`psfuture.clock`.
        unit_ms: between two source units, of use with `computation_aware` alone.
        tokenize: the reference's target tokens, for the unit "token".

    Raises:
        NothingMeasurable: no output.
        InvalidSetting: an unknown unit, no `tokenize` for tokens, a reference of no units, or
            `computation_aware` without what :func:`psfuture.clock.done_ms` needs.
    """
    timing = _timing(trace, unit, tokenize)
    if timing is None:
        raise NothingMeasurable(
            f"{' '.join(trace.source[:5])!r}… has no output, so it has no latency"
        )
    return _measured(timing, trace, unit_ms if computation_aware else None)


def corpus_latency(
    traces: Sequence[Trace],
    *,
    unit: Unit = "word",
    computation_aware: bool = False,
    unit_ms: float = UNIT_MS,
    tokenize: Tokenize | None = None,
) -> CorpusLatency:
    """Plain means over the sentences with output, as SimulEval's; arguments as :func:`latency`.

    Raises:
        NothingMeasurable: no sentence has output.
        InvalidSetting: as :func:`latency`.
    """
    timings = [(trace, _timing(trace, unit, tokenize)) for trace in traces]
    pace = unit_ms if computation_aware else None
    rows = [_measured(timing, trace, pace) for trace, timing in timings if timing is not None]
    if not rows:
        raise NothingMeasurable(f"none of {len(traces)} sentences has output: no latency")
    values = {name: _mean([row[name] for row in rows]) for name in MEASURES}
    return CorpusLatency(values, len(rows), len(traces) - len(rows))


def quality(
    traces: Sequence[Trace], *, unit: Unit = "word", tokenizer: str = "13a"
) -> dict[str, float | str]:
    """BLEU and chrF by sacrebleu, with the signatures that make them comparable.

    Args:
        traces: each with a reference.
        unit: "char" joins words without blanks, as Chinese and Japanese are written.
        tokenizer: sacrebleu's of BLEU: "zh" for Chinese, "ja-mecab" for Japanese.

    Returns:
        "BLEU", "chrF", "BLEU_signature" and "chrF_signature".

    Raises:
        InvalidSetting: no traces, one without a reference, or an unknown tokenizer.
        MissingExtra: the tokenizer's library is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if not traces:
        raise InvalidSetting("no sentences to score")
    if tokenizer not in TOKENIZERS:
        raise InvalidSetting(f"tokenizer is {tokenizer!r}, not one of {sorted(TOKENIZERS)}")
    references = [trace.reference for trace in traces if trace.reference is not None]
    if len(references) < len(traces):
        missing = next(at for at, trace in enumerate(traces, 1) if trace.reference is None)
        raise InvalidSetting(f"sentence {missing} of {len(traces)} has no reference")
    joint = "" if unit == "char" else " "
    outputs = [joint.join(trace.words) for trace in traces]
    found: dict[str, float | str] = {}
    try:
        scorers = (("BLEU", BLEU(tokenize=tokenizer)), ("chrF", CHRF()))
    except (ImportError, RuntimeError) as error:
        language = tokenizer.partition("-")[0]
        raise MissingExtra("MeCab", f"pip install 'sacrebleu[{language}]'") from error
    for name, scorer in scorers:
        found[name] = float(scorer.corpus_score(outputs, [references]).score)
        found[f"{name}_signature"] = str(scorer.get_signature())
    return found


def score(
    traces: Sequence[Trace],
    *,
    unit: Unit = "word",
    unit_ms: float = UNIT_MS,
    tokenizer: str = "13a",
    tokenize: Tokenize | None = None,
) -> dict[str, Any]:
    """All that the traces allow: quality with references, `AL_CA` and so on with their computation.

    Args:
        traces: a test set.
        unit: see :func:`latency` and :func:`quality`.
        unit_ms: see :func:`latency`.
        tokenizer: see :func:`quality`.
        tokenize: see :func:`latency`.

    Returns:
        What :func:`quality` returns, the measures by name, "sentences" that they average and
        "empty" ones that they do not.

    Raises:
        InvalidSetting, NothingMeasurable, MissingExtra: as those functions.
    """
    found: dict[str, Any] = {}
    if traces and all(trace.reference is not None for trace in traces):
        found |= quality(traces, unit=unit, tokenizer=tokenizer)
    plain = corpus_latency(traces, unit=unit, tokenize=tokenize)
    found |= plain.values
    if all(trace.compute_ms or not trace.words for trace in traces):
        aware = corpus_latency(
            traces, unit=unit, computation_aware=True, unit_ms=unit_ms, tokenize=tokenize
        )
        found |= {f"{name}_CA": value for name, value in aware.values.items()}
    return found | {"sentences": plain.sentences, "empty": plain.empty}


def unit_delays(trace: Trace, unit: Unit) -> tuple[int, ...]:
    """Source units read when each target unit was shown (word, character) or written (token).

    Raises:
        InvalidSetting: an unknown unit.
    """
    if unit == "word":
        return trace.delays
    if unit == "token":
        return trace.token_delays
    if unit != "char":
        raise InvalidSetting(f"unit is {unit!r}, it must be one of {', '.join(get_args(Unit))}")
    pairs = zip(trace.words, trace.delays, strict=True)
    return tuple(delay for word, delay in pairs for _ in word)


def _timing(trace: Trace, unit: Unit, tokenize: Tokenize | None) -> Timing | None:
    reads = unit_delays(trace, unit)
    if not reads:
        return None
    target = len(reads)
    if trace.reference is not None:
        target = _reference_length(trace.reference, unit, tokenize)
    if not trace.source or not target:
        what = "a reference of no units" if trace.source else "output without a source"
        raise InvalidSetting(f"{' '.join(trace.words[:5])!r}… has {what}: latency divides by it")
    return Timing(reads, reads, len(trace.source), target)


def _reference_length(reference: str, unit: Unit, tokenize: Tokenize | None) -> int:
    if unit == "word":
        return len(reference.split(" "))
    if unit == "char":
        return len(reference.strip())
    if tokenize is None:
        raise InvalidSetting("latency in tokens needs `tokenize`, to count the reference's tokens")
    return len(tokenize(reference))


def _measured(timing: Timing, trace: Trace, unit_ms: float | None) -> dict[str, float]:
    if unit_ms is not None:
        done = done_ms(trace, unit_ms)
        times = [done[read] / unit_ms for read in timing.reads]
        timing = Timing(timing.reads, times, timing.source, timing.target)
    return {name: measure(timing) for name, measure in MEASURES.items()}


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan
