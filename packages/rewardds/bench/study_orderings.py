"""The claims about filter and refinement on the toy domain, over seeds and budgets; 1 if one fails.

Bundles and outcomes are kept in `--folder` as soon as they are there: a second call goes on. Masks
and noise come from the system's secure source, so another study differs by chance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from lipogram.console import say, show
from lipogram.files import write_atomically
from lipogram.report import Table
from rewardds.bundle import read_bundle
from rewardds.toy_claims import budget_claims, nothing_claim
from rewardds.toy_proxies import toy_model
from rewardds.toy_study import ToyOutcome, ToyStudy

NOTHING = 0.02  # an ε at which nothing can be learnt
ARMS = ("random", "shuffled", "filtered", "refined")


def kept(path: Path, work: Any) -> dict[str, Any]:
    """What a run gave, from its file if it is there; with the CPU seconds that it took."""
    if not path.exists():
        begun = time.process_time()
        found = work()
        found["seconds"] = time.process_time() - begun
        write_atomically(path, json.dumps(found, indent=1).encode())
    told: dict[str, Any] = json.loads(path.read_bytes())
    return told


def outcome(told: dict[str, Any]) -> ToyOutcome:
    """From its file."""
    return ToyOutcome(**{name: value for name, value in told.items() if name != "seconds"})


def main() -> int:
    """Run what is missing, print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[8.0, 2.0])
    parser.add_argument("--folder", type=Path, default=Path("runs/rewardds-orderings"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    study = ToyStudy(base := toy_model(), base)

    def run(seed: int, epsilon: float) -> dict[str, Any]:
        place = folder / f"{epsilon:g}-{seed}"
        there = (place / "bundle").exists()
        bundle = read_bundle(place / "bundle") if there else study.fit(seed, epsilon, place)
        work = study.proxies if epsilon == NOTHING else study.serve
        return asdict(work(seed, bundle))

    found: dict[float, list[ToyOutcome]] = {each: [] for each in [*options.epsilons, NOTHING]}
    bounds: dict[int, float] = {}
    rows: list[list[Any]] = []
    shares: list[list[Any]] = []
    for seed in range(options.seeds):
        told = kept(folder / f"bound-{seed}.json", lambda seed=seed: {"bound": study.bound(seed)})
        bounds[seed] = told["bound"]
        for epsilon in found:
            told = kept(
                folder / f"{epsilon:g}-{seed}.json",
                lambda seed=seed, epsilon=epsilon: run(seed, epsilon),
            )
            one = outcome(told)
            found[epsilon].append(one)
            say(f"seed {seed}, ε {one.epsilon:.3g}: {told['seconds']:.0f} s of CPU")
            if one.accuracy:
                run_of, told_by = [f"{epsilon:g}", seed], [one.accuracy[arm] for arm in ARMS]
                rows.append([*run_of, one.auc, one.generator, *told_by, bounds[seed]])
                shares.append([*run_of, *(one.right[arm] for arm in ("candidates", *ARMS))])
    heads = ["ε", "seed", "AUC", "generator", *ARMS, "bound"]
    show(Table(heads, rows, digits=3), "Right answers to held-out questions")
    heads = ["ε", "seed", "candidates", *ARMS]
    show(Table(heads, shares, digits=3), "Right answers among the rows that were learnt from")
    judged: list[list[Any]] = []
    for epsilon in options.epsilons:
        judged += [
            [f"{epsilon:g}", claim.name, f"{claim.mean:+.3f} ± {claim.error:.3f}", claim.holds]
            for claim in budget_claims(epsilon, found[epsilon], bounds)
        ]
    last = nothing_claim(found[NOTHING])
    judged.append([f"{NOTHING:g}", last.name, f"{last.mean:+.3f} ± {last.error:.3f}", last.holds])
    show(Table(["ε", "claim", "mean ± standard error", "holds"], judged))
    return int(not all(row[-1] for row in judged))


if __name__ == "__main__":
    sys.exit(main())
