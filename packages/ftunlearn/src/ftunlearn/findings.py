"""What a dissection measured, as the report holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftunlearn.relearning import Relearned
from ftunlearn.reverse import Reverse
from ftunlearn.scores import (
    LOSSES,
    MEASURES,
    PROTOCOLS,
    SCORES,
    Protocol,
    ratio_of_sums,
    recoveries,
)
from ftunlearn.sweep import WHOLE, Sweep
from ftunlearn.verdict import Interval, bootstrap, decide, interval_of_mean
from lipogram.environment import environment

if TYPE_CHECKING:
    from ftunlearn.dissection import Measured

SCHEMA = 1


def findings(
    measured: Measured, names: dict[str, str], prints: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """The content of `report.json`."""
    kept = _kept(measured)
    vanilla, unlearned = measured.vanilla[kept], measured.unlearned[kept]
    calibration = None
    if measured.calibration is not None:
        done, plain = measured.calibration
        calibration = _curves(measured, done, plain[kept])
    verdict, skipped = _verdict(measured)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment("lipogram-ftunlearn"),
        "pair": {
            role: {"spec": names.get(role, "a model in memory"), "fingerprint": print_}
            for role, print_ in prints.items()
        },
        "settings": asdict(measured.config),
        "layers": measured.n_layers,
        "probes": _probes(measured),
        "problems": measured.problems,
        "baseline": {
            "vanilla": _means(vanilla),
            "unlearned": _means(unlearned),
        },
        "curves": _curves(measured, measured.sweep, unlearned),
        "whole": _whole(measured, vanilla, unlearned),
        "calibration": calibration,
        "reverse": _reverse(measured.reverse, measured.reverse_unrelated),
        "relearn": _relearn(measured.relearned),
        "side_effects": measured.side_effects,
        "attacks": measured.attacks,
        "verdict": verdict,
        "skipped": skipped,
    }


def score_rows(measured: Measured) -> Iterator[tuple[str, str, str, int | None, str, float]]:
    """(probe, component, protocol, layer, score, value) of every run.

    The layer of a component in all layers at once is None.
    """
    kept = _kept(measured)
    ids = [measured.answered[i].probe.id for i in kept]
    vanilla, unlearned = measured.vanilla[kept], measured.unlearned[kept]
    for j, job in enumerate(measured.sweep.jobs):
        layer = None if job.centre == WHOLE else job.centre
        for protocol in PROTOCOLS:
            scores = recoveries(measured.sweep.measured[j, kept], unlearned, vanilla, protocol)
            for score, values in scores.items():
                if protocol == "aligned" or score in LOSSES:
                    for probe, value in zip(ids, values.tolist(), strict=True):
                        yield probe, job.component.name, protocol, layer, score, value


def _kept(measured: Measured) -> list[int]:
    return [i for i, item in enumerate(measured.answered) if item.excluded is None]


def _means(values: NDArray[np.float64]) -> dict[str, float]:
    """Geometric-mean answer probability, first-token probability and greedy accuracy."""
    column = {name: i for i, name in enumerate(MEASURES)}
    return {
        "probability": float(np.exp(values[:, column["log_prob"]]).mean()),
        "first_token": float(values[:, column["first_token"]].mean()),
        "greedy": float(values[:, column["greedy"]].mean()),
    }


def _probes(measured: Measured) -> list[dict[str, Any]]:
    column = {name: i for i, name in enumerate(MEASURES)}
    shown = []
    for i, item in enumerate(measured.answered):
        before, after = measured.vanilla[i], measured.unlearned[i]
        gap = after[column[f"krs:{measured.config.protocol}"]]
        shown.append(
            {
                "id": item.probe.id,
                "group": item.probe.group,
                "prompt": item.probe.prompt,
                "answer": item.probe.answer,
                "n_answer": item.n_answer,
                "n_scored": len(item.text.answer_ids),
                "p_vanilla": float(np.exp(before[column["log_prob"]])),
                "p_unlearned": float(np.exp(after[column["log_prob"]])),
                "gap": float(gap),
                "forgotten": bool(
                    np.exp(after[column["log_prob"]] - before[column["log_prob"]]) < 0.5
                ),
                "excluded": item.excluded,
            }
        )
    return shown


def _curves(
    measured: Measured, sweep: Sweep, unlearned: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Mean recovery by layer, protocol and score, with the number of probes that define it."""
    kept = _kept(measured)
    vanilla = measured.vanilla[kept]
    curves = []
    for name in measured.config.components:
        layers, values = sweep.of(name)
        values = values[:, kept]
        for protocol in PROTOCOLS:
            scores = recoveries(values, unlearned, vanilla, protocol)
            curves.append(
                {
                    "component": name,
                    "protocol": protocol,
                    "window": measured.config.window,
                    "layers": layers,
                    "mean": {s: _nanmean(scores[s]) for s in _scores_of(protocol)},
                    "ratio_of_sums": {
                        s: ratio.tolist()
                        for s, ratio in ratio_of_sums(values, unlearned, protocol).items()
                    },
                    "n": {s: (~np.isnan(scores[s])).sum(-1).tolist() for s in _scores_of(protocol)},
                }
            )
    return curves


def _scores_of(protocol: Protocol) -> tuple[str, ...]:
    return SCORES if protocol == "aligned" else LOSSES


def _nanmean(values: NDArray[np.float64]) -> list[float]:
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(-1), defined.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist()


def _whole(
    measured: Measured, vanilla: NDArray[np.float64], unlearned: NDArray[np.float64]
) -> list[dict[str, Any]]:
    shown = []
    for j, job in enumerate(measured.sweep.jobs):
        if job.centre == WHOLE:
            values = measured.sweep.measured[j, _kept(measured)]
            scores = recoveries(values, unlearned, vanilla, measured.config.protocol)
            means = {s: _nanmean(scores[s][None])[0] for s in SCORES}
            shown.append({"component": job.component.name, "mean": means})
    return shown


def _reverse(found: Reverse | None, unrelated: Reverse | None) -> dict[str, Any] | None:
    if found is None:
        return None

    def mean(drops: NDArray[np.float64]) -> list[float]:
        return _nanmean(drops)

    content: dict[str, Any] = {
        "source": found.source,
        "layers": list(range(len(found.s1))),
        "s1": mean(found.s1),
        "s2": mean(found.s2),
        "depth": found.depth(),
        "knowledge_layers": found.knowledge_layers,
        "unrelated": None,
    }
    if unrelated is not None:
        content["unrelated"] = {
            "s1": mean(unrelated.s1),
            "s2": mean(unrelated.s2),
            "depth": unrelated.depth(),
        }
    return content


def _relearn(found: Relearned | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "steps": list(found.steps),
        "k": found.k,
        "facts": len(found.ids),
        "start": float(found.start.mean()),
        "vanilla": float(found.vanilla.mean()),
        "shown": _nanmean(found.shown),
        "held_out": _nanmean(found.held_out),
        "control": _nanmean(found.control),
        "made_up": None if found.made_up is None else found.made_up.tolist(),
        "made_up_start": found.made_up_start,
        "gain": float(np.nanmean(found.gains)),
    }


def _verdict(measured: Measured) -> tuple[dict[str, Any], dict[str, str]]:
    kept = _kept(measured)
    column, seed = MEASURES.index("log_prob"), measured.config.seed
    p_before, p_after = (
        np.exp(values[kept, column]) for values in (measured.vanilla, measured.unlearned)
    )
    forgetting = interval_of_mean(1 - p_after / p_before, seed=seed)
    gain = None
    if measured.relearned is not None:
        gain = interval_of_mean(measured.relearned.gains, seed=seed)
    depth = None
    if measured.reverse is not None:
        found = measured.reverse
        low, high = bootstrap(
            lambda drawn: found.depth([kept[i] for i in drawn]), len(kept), seed=seed
        )
        depth = Interval(found.depth(), low, high)
    verdict = decide(
        forgetting,
        gain,
        depth,
        skipped=measured.skipped,
        surrogate=measured.reverse is not None and measured.reverse.source == "surrogate",
    )
    content = asdict(verdict)
    return content, content.pop("skipped")
