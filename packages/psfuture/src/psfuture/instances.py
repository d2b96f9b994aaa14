"""SimulEval's `instances.log`: a line a sentence, as SimulEval 1.1.4 writes and reads it.

Beside its keys stand `emission_cu` and `emission_ca`, OmniSTEval's (Polák et al. 2025) for when a
word was shown without and with the computation, in source units; and `compute_ms`, from which the
latter came. Where nobody measured, `elapsed` is 0 as SimulEval has it for text, and the last two
keys are missing. OmniSTEval takes the two by `--emission_cu_key` and `--emission_ca_key`; by itself
it would read `elapsed`, which is in milliseconds.
"""

from __future__ import annotations

from typing import Any

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.clock import UNIT_MS, elapsed_ms
from psfuture.metrics import unit_delays
from psfuture.trace import Trace
from psfuture.units import Unit, check_unit


def instance_of(
    index: int, trace: Trace, *, unit: Unit = "word", unit_ms: float = UNIT_MS
) -> dict[str, Any]:
    """A sentence as a line of `instances.log`.

    Args:
        index: of the sentence, from 0.
        trace: what happened to it.
        unit: of the target: SimulEval's `--eval-latency-unit`. "char" joins words without blanks.
        unit_ms: between two source units; `elapsed` is in milliseconds.

    Raises:
        InvalidSetting: another unit, or what :func:`psfuture.clock.done_ms` refuses.
    """
    check_unit(unit)
    delays = unit_delays(trace, unit)
    line: dict[str, Any] = {
        "index": index,
        "prediction": (" " if unit == "word" else "").join(trace.words),
        "delays": list(delays),
        "elapsed": [0] * len(delays),
        "prediction_length": len(delays),
        "reference": trace.reference,
        "source": " ".join(trace.source),
        "source_length": len(trace.source),
        "emission_cu": list(delays),
    }
    if trace.compute_ms:
        shown = dict(zip(trace.delays, elapsed_ms(trace, unit_ms), strict=True))
        line["elapsed"] = [shown[delay] for delay in delays]
        line["emission_ca"] = [shown[delay] / unit_ms for delay in delays]
        line["compute_ms"] = list(trace.compute_ms)
    return line


def trace_of_instance(line: Any, *, unit: Unit = "word") -> Trace:
    """The sentence of a line of `instances.log`, SimulEval's own or ours.

    Tokens and actions are not in it. Of a log in sentence pieces (`prediction_spm`), words are read
    and each has the delay of its last piece.

    Args:
        line: its values.
        unit: that it was written in.

    Raises:
        CorruptState: keys that are missing or do not fit together.
        InvalidSetting: a log of speech, or of another unit than `unit`.
    """
    if isinstance(line, dict) and isinstance(line.get("source"), list):
        raise InvalidSetting("a log of speech: only logs of text are read")
    try:
        source, prediction, delays = line["source"], line["prediction"], line["delays"]
        pieces = line.get("prediction_spm")
        if pieces is not None:
            words, delays = _words_of_pieces(pieces, delays)
        else:
            words = prediction.split() if unit == "word" else [*prediction.replace(" ", "")]
        units = source.split()
        length, reference = line["source_length"], line["reference"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptState(f"no instance of SimulEval's: {error!r}") from None
    if isinstance(delays, list) and len(words) != len(delays):
        raise InvalidSetting(
            f"{len(words)} {unit}s and {len(delays)} delays: the log is in another unit"
        )
    if length != len(units):
        raise CorruptState(f"the source has {len(units)} words, `source_length` is {length}")
    held = {"source": units, "words": words, "delays": delays, "reference": reference}
    rest = {"tokens": [], "token_delays": [], "actions": ""}
    return Trace.from_json(held | rest | {"compute_ms": line.get("compute_ms", [])})


def _words_of_pieces(pieces: list[str], delays: list[int]) -> tuple[list[str], list[int]]:
    """Words of sentence pieces, each with the delay of its last one."""
    words, ends = [""], [0]
    for piece, delay in zip(pieces, delays, strict=True):
        for letter in piece:
            if letter == "\N{LOWER ONE EIGHTH BLOCK}":
                words.append("")
                ends.append(0)
            else:
                words[-1] += letter
                ends[-1] = delay
    kept = [at for at, word in enumerate(words) if word]
    return [words[at] for at in kept], [ends[at] for at in kept]
