"""What the method claims, on four generated worlds: orderings, ε, rules at equal recovery, groups.

About three minutes a seed on one core. `--seeds 2` for fewer; trained models and banks are kept in
`--folder`, so that a second run only measures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lipogram.console import say, show
from lipogram.llm.loaded import LoadedModel, ModelInfo, describe_weights
from lipogram.report import Table
from privacyrestore.confusable import confusable_bank
from privacyrestore.curve_figure import plot_curve
from privacyrestore.diagnosis_world import DiagnosisWorld
from privacyrestore.mechanisms import Full, Gaussian, Subspace
from privacyrestore.restoration_bank import RULES, RestorationBank
from privacyrestore.utility_curve import CurvePoint, at_equal_recovery, utility_recovery_curve
from privacyrestore.world_study import WorldStudy, gap_recovered, random_bank

EPSILONS = (3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 300.0)
LOCAL = (4.0, 10.0, 30.0, 100.0)
DELTA = 1e-5
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CASES = 400

Curves = dict[str, list[CurvePoint]]


def study(seed: int, rule: str, folder: Path) -> WorldStudy:
    """The world's study, from the folder if it was made before."""
    world, place = DiagnosisWorld(seed), folder / f"model-{seed}"
    if not (place / "config.json").exists():
        loaded = world.train_model(seed=seed, steps=300)
        loaded.model.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
    model: Any = AutoModelForCausalLM.from_pretrained(place).eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    dtype, n = describe_weights(model)
    loaded = LoadedModel(model, tokenizer, ModelInfo("world", "folder", "llama", None, dtype, n))
    bank = folder / f"bank-{seed}-{rule}"
    if not (bank / "manifest.json").exists():
        made = WorldStudy.make(seed, rule=rule, n_cases=CASES, loaded=loaded)
        made.bank.save(bank)
        return made
    return WorldStudy(
        world,
        loaded,
        random_bank(world, loaded, rule, seed),
        RestorationBank.load(bank),
        tuple(world.cases(CASES, 2)),
    )


def curves_of(made: WorldStudy, seed: int) -> Curves:
    """Every mechanism over its ε, and the confusable bank."""
    owners = [int(made.world.owner[finding]) for finding in made.world.spans]
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    shared = confusable_bank(made.bank, [numbers[owner] for owner in owners])
    kinds = {
        "full": (made.bank, [Full(epsilon) for epsilon in EPSILONS]),
        "subspace": (made.bank, [Subspace(epsilon) for epsilon in EPSILONS]),
        "gaussian": (made.bank, [Gaussian(epsilon, DELTA) for epsilon in LOCAL]),
        "subspace, confusable": (shared, [Subspace(epsilon) for epsilon in EPSILONS]),
    }
    return {
        name: utility_recovery_curve(
            bank,
            mechanisms,
            lambda meta, bank=bank: made.correct(made.removed, meta, bank),
            made.span_sets,
            seed=seed,
        )
        for name, (bank, mechanisms) in kinds.items()
    }


def pooled(curves: list[list[CurvePoint]]) -> list[CurvePoint]:
    """One curve over the queries of all seeds."""
    found = []
    for points in zip(*curves, strict=True):
        utilities = np.concatenate([point.utilities for point in points])
        recalls = np.concatenate([point.recalls for point in points])
        found.append(
            replace(
                points[0],
                utilities=utilities,
                recalls=recalls,
                utility=float(utilities.mean()),
                recovery=float(np.nanmean(recalls)),
                utility_interval=interval(utilities),
                recovery_interval=interval(recalls[np.isfinite(recalls)]),
            )
        )
    return found


def interval(values: Any) -> tuple[float, float]:
    """95 %, by 2,000 bootstrap draws of queries."""
    draw = np.random.default_rng(0)
    means = [draw.choice(values, len(values)).mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def spread(value: float, around: tuple[float, float]) -> str:
    """A mean with its interval."""
    return f"{value:.3f} ({around[0]:.3f} to {around[1]:.3f})"


def main() -> None:
    """Print the tables, and write what they hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("runs/privacyrestore-study"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    held: dict[str, list[Curves]] = {rule: [] for rule in RULES}
    rows: list[list[Any]] = []
    for seed in range(options.seeds):
        for rule in RULES:
            say(f"seed {seed}, {rule}")
            made = study(seed, rule, options.folder)
            right = made.orderings()
            gaps = [gap_recovered(right, name) for name in ("restored", "another's", "untrained")]
            rows.append([rule, seed, *(float(v.mean()) for v in right.values()), *gaps])
            held[rule].append(curves_of(made, seed))
    names = ["full", "removed", "restored", "another's", "untrained"]
    gap_names = [f"gap {name}" for name in names[2:]]
    for begin, end in ((2, 7), (7, 10)):  # as wide as a terminal
        some = [[row[0], row[1], *row[begin:end]] for row in rows]
        heads = ["rule", "seed", *[*names, *gap_names][begin - 2 : end - 2]]
        show(Table(heads, some), "Right answers, no noise")
    merged = {
        rule: {name: pooled([curves[name] for curves in all_curves]) for name in all_curves[0]}
        for rule, all_curves in held.items()
    }
    points: list[list[Any]] = [
        [
            rule,
            name,
            f"{point.epsilon:g}",
            f"{point.local_epsilon:.3g}",
            spread(point.utility, point.utility_interval),
            spread(point.recovery, point.recovery_interval),
        ]
        for rule, curves in merged.items()
        for name, curve in curves.items()
        for point in curve
    ]
    heads = ["rule", "bank, mechanism", "ε", "local ε", "right", "spans recovered"]
    show(Table(heads, points), f"{options.seeds} seeds of {CASES} questions")
    ours, theirs = merged["additive"], merged["quadratic"]
    pairs = {
        "additive − quadratic": (ours["subspace"], theirs["subspace"]),
        "the same, confusable": (ours["subspace, confusable"], theirs["subspace, confusable"]),
        "confusable − ordinary": (ours["subspace, confusable"], ours["subspace"]),
        "subspace − full": (ours["subspace"], ours["full"]),
    }
    compared: list[list[Any]] = [
        [name, row.recovery, str(row.difference)]
        for name, (one, other) in pairs.items()
        for row in at_equal_recovery(one, other, LEVELS)
    ]
    show(Table(["right answers", "at recovery", "difference"], compared, digits=1))
    options.folder.mkdir(parents=True, exist_ok=True)
    removed = float(np.mean([row[3] for row in rows]))
    plot_curve(ours, options.folder / "curve.png", utility="right answers", removed=removed)
    (options.folder / "study.json").write_text(
        json.dumps({"orderings": rows, "points": points, "compared": compared}, indent=1)
    )


if __name__ == "__main__":
    main()
