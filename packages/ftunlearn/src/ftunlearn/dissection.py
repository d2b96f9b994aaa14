"""From two models and probes to a report: prepare, sweep, patch in reverse, attack, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftunlearn.answers import Answered, answer, baselines, batched, excluded
from ftunlearn.attacks import direction_ablation, logit_lens
from ftunlearn.collateral import side_effects
from ftunlearn.components import COMPONENTS, Component, swept
from ftunlearn.dissect_config import DissectConfig
from ftunlearn.dissection_report import DissectionReport
from ftunlearn.findings import findings, score_rows
from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe, ProbeSet
from ftunlearn.relearning import Relearned, control_facts, relearn_attack
from ftunlearn.reverse import Reverse, reverse
from ftunlearn.sweep import Job, Sweep, plan, sweep
from lipogram.errors import CorruptState
from lipogram.llm.generation import generate
from lipogram.progress import bar
from lipogram.runs import Run

WHOLE = (
    "nothing",
    "coef",
    "attn",
    "coef+attn",
    "attn+mlp_states",
    "values",
    "keys",
    "attn_weights",
    "attn_qk",
    "attn_vo",
    "mlp_weights",
    "norms",
    "embed",
    "head",
    "all",
)
"""What is also replaced in all layers at once, and all parameters but one group."""

ALL_BUT = ("values", "keys", "attn")


@dataclass(frozen=True)
class Measured:
    """All that a dissection measured, before it is put into words.

    Attributes:
        config: what was asked for.
        n_layers: blocks of each model.
        answered: n forget probes, the excluded ones marked.
        problems: probes that could not be run, a line each.
        vanilla: (n, 9) of :data:`ftunlearn.scores.MEASURES`.
        unlearned: (n, 9).
        sweep: the interventions.
        calibration: the same with the reference model in the unlearned one's place, or None, and
            what it measures without an intervention.
        reverse: S1 and S2, or None.
        reverse_unrelated: the same of unrelated probes, or None.
        relearned: of the attack, or None.
        side_effects: of :func:`ftunlearn.collateral.side_effects`, or None.
        attacks: what each attack found, by name.
        skipped: tests that did not run, and why.
    """

    config: DissectConfig
    n_layers: int
    answered: list[Answered]
    problems: list[str]
    vanilla: NDArray[np.float64]
    unlearned: NDArray[np.float64]
    sweep: Sweep
    calibration: tuple[Sweep, NDArray[np.float64]] | None
    reverse: Reverse | None
    reverse_unrelated: Reverse | None
    relearned: Relearned | None
    side_effects: dict[str, Any] | None
    attacks: dict[str, Any]
    skipped: dict[str, str]


def dissect(
    pair: ModelPair,
    probes: ProbeSet,
    config: DissectConfig | None = None,
    *,
    out: str | Path | None = None,
    redact: bool = False,
) -> DissectionReport:
    """Find out whether what a model unlearned is gone or only hidden (arXiv 2410.06606, and ours).

    Args:
        pair: the two models, and perhaps a reference; left bit for bit as they are.
        probes: group "forget" is dissected; "retain" and "unrelated" serve as controls.
        config: what to measure.
        out: folder of a run. Interrupted, the dissection goes on there; finished, the report, its
            figures and its page lie there.
        redact: write hashes in place of prompts and answers.

    Raises:
        InvalidProbes: no probe of group "forget", or none that can be run.
        NothingMeasurable: the vanilla model knows none of them.
        NotFinite: a model's logits are NaN or infinite.
        RunMismatch: `out` holds a dissection of other models, probes or settings.
    """
    config = config or DissectConfig()
    prints = pair.fingerprints()
    run = None if out is None else _run(Path(out), pair, prints, probes, config)
    try:
        measured = _measure(pair, probes, config, run)
        answers = _said(pair, measured)
    finally:
        _check_untouched(prints, pair.fingerprints())
    report = DissectionReport(
        findings(measured, pair.names, prints), tuple(score_rows(measured)), tuple(answers)
    )
    if run is not None:
        report.save(run.folder, redact=redact)
    return report


def _run(
    folder: Path,
    pair: ModelPair,
    prints: dict[str, dict[str, str]],
    probes: ProbeSet,
    config: DissectConfig,
) -> Run:
    settings = asdict(config) | {
        "models": pair.names,
        "fingerprints": prints,
        "probes": probes.fingerprint,
    }
    return Run.create(folder, settings, package="lipogram-ftunlearn")


def _measure(pair: ModelPair, probes: ProbeSet, config: DissectConfig, run: Run | None) -> Measured:
    forget = probes.group("forget")
    budget = config.max_tokens
    answered, problems = answer(pair, forget, n_new_tokens=config.n_new_tokens)
    vanilla, unlearned = baselines(pair, answered, max_tokens=budget)
    answered = excluded(answered, vanilla)
    skipped: dict[str, str] = {}
    swept_jobs = plan(
        swept(config.components),
        _whole(pair, skipped) if config.whole else (),
        n_layers=pair.n_layers,
        size=config.window,
        stride=config.stride,
    )
    done = _swept(pair, answered, swept_jobs, config, run, "unlearned")
    calibration = _calibration(pair, answered, swept_jobs, config, run)
    reversed_, unrelated = _reversed(pair, probes, answered, config, skipped)
    relearned = _attacked(pair, probes, answered, config, skipped)
    compared = _compared(pair, probes, config, skipped)
    tried = _tried(pair, probes, answered, config, skipped)
    return Measured(
        config=config,
        n_layers=pair.n_layers,
        answered=answered,
        problems=[*probes.problems, *problems],
        vanilla=vanilla,
        unlearned=unlearned,
        sweep=done,
        calibration=calibration,
        reverse=reversed_,
        reverse_unrelated=unrelated,
        relearned=relearned,
        side_effects=compared,
        attacks=tried,
        skipped=skipped,
    )


def _said(pair: ModelPair, measured: Measured) -> list[dict[str, str | None]]:
    """What each model says to each probe, in the words that were scored."""
    prompts = [item.text.prompt_ids for item in measured.answered]
    after = generate(
        pair.unlearned, pair.tokenizer, prompts, max_new_tokens=measured.config.n_new_tokens
    )
    return [
        {
            "id": item.probe.id,
            "prompt": item.probe.prompt,
            "answer": item.probe.answer,
            "vanilla": pair.tokenizer.decode(item.text.answer_ids, skip_special_tokens=True),
            "unlearned": words.text,
        }
        for item, words in zip(measured.answered, after, strict=True)
    ]


def _whole(pair: ModelPair, skipped: dict[str, str]) -> list[Component]:
    """Components in all layers, and all parameters but one group."""
    outside = {"embed", "head"}
    chosen = [COMPONENTS[name] for name in WHOLE]
    groups = ("values", "keys", "attn", "norms", "embed", "head")
    for left_out in ALL_BUT:
        rest = tuple(group for group in groups if group != left_out)
        chosen.append(Component(f"all but {left_out}", groups=rest))
    if not pair.resized:
        return chosen
    left = [item for item in chosen if outside & {*item.groups} or "all" in item.groups]
    skipped["restorations"] = (
        f"the embeddings have different numbers of rows: {', '.join(item.name for item in left)}"
    )
    return [item for item in chosen if item not in left]


def _swept(
    pair: ModelPair,
    answered: Sequence[Answered],
    jobs: Sequence[Job],
    config: DissectConfig,
    run: Run | None,
    model: str,
) -> Sweep:
    done: dict[tuple[str, int], dict[int, list[float]]] = {}
    for event in [] if run is None else run.events("measured"):
        if event["model"] == model:
            held = done.setdefault((event["component"], event["centre"]), {})
            held.update(zip(event["probes"], event["values"], strict=True))

    def keep(job: Job, places: tuple[int, ...], values: NDArray[np.float64]) -> None:
        if run is not None:
            run.log(
                "measured",
                model=model,
                component=job.component.name,
                centre=job.centre,
                probes=places,
                values=values,
            )

    places = [i for i, item in enumerate(answered) if item.excluded is None]
    batches = batched(answered, pair, max_tokens=config.max_tokens, positions=places)
    with bar("interventions", len(jobs) * len(batches)) as advance:
        return sweep(
            pair,
            answered,
            jobs,
            max_tokens=config.max_tokens,
            positions=config.positions,
            done=done,
            keep=keep,
            tick=lambda: advance(1),
        )


def _calibration(
    pair: ModelPair,
    answered: Sequence[Answered],
    jobs: Sequence[Job],
    config: DissectConfig,
    run: Run | None,
) -> tuple[Sweep, NDArray[np.float64]] | None:
    """The paper's curves for a model that never knew, to be laid beside those of the unlearned."""
    if pair.reference is None:
        return None
    control = ModelPair(pair.vanilla, pair.reference, pair.tokenizer)
    _, plain = baselines(control, answered, max_tokens=config.max_tokens)
    return _swept(control, answered, jobs, config, run, "reference"), plain


def _reversed(
    pair: ModelPair,
    probes: ProbeSet,
    answered: list[Answered],
    config: DissectConfig,
    skipped: dict[str, str],
) -> tuple[Reverse | None, Reverse | None]:
    if not config.reverse:
        skipped["depth"] = "the reverse patch was not asked for"
        return None, None
    unrelated = [probe for probe in probes.group("unrelated") if probe.answer]
    others: list[Answered] = []
    if unrelated:
        chosen = unrelated[: max(2, len(answered))]
        others, _ = answer(pair, chosen, n_new_tokens=1)
    total = pair.n_layers * (1 + bool(others))
    with bar("reverse patches", total) as advance:

        def run(texts: list[Answered]) -> Reverse:
            return reverse(pair, texts, max_tokens=config.max_tokens, tick=lambda: advance(1))

        return run(answered), run(others) if others else None


def _attacked(
    pair: ModelPair,
    probes: ProbeSet,
    answered: list[Answered],
    config: DissectConfig,
    skipped: dict[str, str],
) -> Relearned | None:
    if config.relearn is None:
        skipped["gain"] = "the relearning attack was not asked for"
        return None
    facts = [item.probe for item in answered if item.excluded is None and item.probe.answer]
    known = control_facts(probes)
    if len(facts) < 2 or not known:
        skipped["gain"] = (
            "the attack needs two forget probes with answers, and known facts with answers "
            "(group unrelated or retain) for its control"
        )
        return None
    made_up: Sequence[Probe] = ()
    if config.relearn.made_up:
        from ftunlearn.facts import made_up_facts

        made_up = made_up_facts(len(facts), seed=config.relearn.seed)
    arms = config.relearn.folds + 1 + bool(made_up)
    with bar("relearning", arms * config.relearn.steps[-1]) as advance:
        return relearn_attack(
            pair, facts, known, config.relearn, made_up=made_up, tick=lambda: advance(1)
        )


def _compared(
    pair: ModelPair, probes: ProbeSet, config: DissectConfig, skipped: dict[str, str]
) -> dict[str, Any] | None:
    if not config.side_effects:
        skipped["side effects"] = "they were not asked for"
        return None
    return side_effects(pair, probes, seed=config.seed)


def _tried(
    pair: ModelPair,
    probes: ProbeSet,
    answered: list[Answered],
    config: DissectConfig,
    skipped: dict[str, str],
) -> dict[str, Any]:
    """Means over probes of what the cheap attacks bring back."""
    facts = [item.probe for item in answered if item.excluded is None and item.probe.answer]
    others = control_facts(probes)
    found: dict[str, Any] = {}
    for name in config.attacks:
        if not facts or (name == "direction_ablation" and not others):
            skipped[name] = "it needs forget probes, and to ablate others too, with answers"
        elif name == "logit_lens":
            with pair.as_vanilla() as model:
                before = logit_lens(model, pair.tokenizer, facts)
            after = logit_lens(pair.unlearned, pair.tokenizer, facts)
            found[name] = {"vanilla": before.mean(1), "unlearned": after.mean(1)}
        else:
            ablated = direction_ablation(pair.unlearned, pair.tokenizer, facts, others)
            found[name] = {"forget": ablated.forget.mean(1), "others": ablated.others.mean(1)}
    return found


def _check_untouched(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> None:
    if before != after:
        raise CorruptState("a model's parameters changed during the dissection: do not use them")
