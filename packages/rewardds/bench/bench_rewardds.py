"""What privacy costs in speed and memory, and what batched scoring gains; 1 if a floor is missed.

    python packages/rewardds/bench/bench_rewardds.py [--device cuda] [--repeats N]

DPTrainer against a plain loop with the model's own loss, and the scorer against a call of each
proxy for each candidate, on random models. Ways take turns, medians count; on a CPU ratios are of
the process's own seconds on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from lipogram.console import show
from lipogram.report import Table
from rewardds.benchmark import (
    Shape,
    Tune,
    gradient_difference,
    peak_memory,
    scorer_speed,
    training_speeds,
)

HOOKS, GHOST, SCORER, MEMORY, PARITY = 0.5, 0.4, 5.0, 1.5, 1e-5
SHAPE = Shape()
SMALL, MIDDLE = Shape(layers=2, width=64), Shape(layers=2, width=128)
SCORED = (
    # model, tokens of a question with its prompt, of an answer, questions, floor on a CPU
    (SMALL, 36, (6, 24), 32, SCORER),
    (MIDDLE, 36, (6, 24), 32, None),
    (SHAPE, 48, (8, 32), 32, None),
    (SHAPE, 130, (100, 190), 8, None),  # as in the authors' medical set
)


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_cpu = options.device == "cpu"
    missed: list[str] = []

    def held(what: str, value: float, floor: float | None, *, most: bool = False) -> float | str:
        if floor is not None and (value > floor if most else value < floor):
            missed.append(f"{what}: {value:.3g}, {'at most' if most else 'at least'} {floor:g}")
        return "" if floor is None else floor

    rows: list[list[str | int | float | None]] = []
    tunes: tuple[Tune, ...] = ("lora", "full")
    for tune in tunes:
        speeds = training_speeds(SHAPE, tune, repeats=options.repeats, device=options.device)
        plain = speeds["plain"]
        for way, floor in (
            ("plain", None),
            ("hooks", HOOKS if tune == "lora" else None),
            ("ghost", GHOST if tune == "full" else None),
        ):
            took = speeds[way]  # type: ignore[index]
            ratio = plain.own / took.own
            name = f"{tune}, {way}"
            rows.append([name, 1 / took.own, 1 / took.wall, ratio, held(name, ratio, floor)])
        far = gradient_difference(SHAPE, tune, options.device)
        held(f"{tune}, difference of clipped gradients", far, PARITY, most=True)
        print(f"{tune}: clipped gradients differ by {far:.1e} from one row at a time ({PARITY:g})")
    columns = ["training", "tokens/s", "of the clock", "of plain", "floor"]
    show(Table(columns=columns, rows=rows, caption=f"{options.device}, 1 thread; {SHAPE}"))
    if on_cpu:
        peaks = {way: peak_memory(SHAPE, way, "full") for way in ("plain", "ghost", "hooks")}
        ratio = peaks["ghost"] / peaks["plain"]
        held("peak memory of ghost, full", ratio, MEMORY, most=True)
        told = ", ".join(f"{way} {peak / 2**20:.0f} MiB" for way, peak in peaks.items())
        print(f"peak memory, full: {told}; ghost {ratio:.2f} of plain (at most {MEMORY})")
    rows = []
    for shape, question, answers, questions, floor in SCORED:
        found = scorer_speed(
            shape,
            question=question,
            answers=answers,
            questions=questions,
            repeats=options.repeats,
            device=options.device,
        )
        name = f"{shape.layers}x{shape.width}, {question} + {answers[0]} to {answers[1]} tokens"
        told = held(f"scorer, {name}", found.ratio, floor if on_cpu else SCORER)
        held(f"scores, {name}", found.difference, 1e-3, most=True)
        rows.append([name, found.batched.own, found.one_by_one.own, found.ratio, told])
    show(
        Table(
            columns=["scorer", "ours, s", "one by one, s", "ratio", "floor"],
            rows=rows,
            caption="6 candidates a question, batches of 32; where multiplying is all the time, as "
            "with long answers on one core, only what the candidates share can be saved",
        )
    )
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
