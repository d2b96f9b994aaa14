"""What privacy costs in speed and memory, and what batched scoring gains; 1 if a floor is missed.

`--device cuda` on a GPU. On a CPU seconds are those of the process on one thread, the ways
interleaved, the best of the repeats.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from rewardds.benchmark import Shape, Tune, peak_memory, scorer_speed, training_speeds

HOOKS, GHOST, SCORER, MEMORY = 0.5, 0.4, 5.0, 1.5


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = 0
    shape = Shape()
    print(f"{options.device}, {torch.get_num_threads()} threads; {shape}")
    tunes: tuple[Tune, ...] = ("lora", "full")
    for tune in tunes:
        speeds = training_speeds(shape, tune, repeats=options.repeats, device=options.device)
        plain = speeds["plain"]
        floors = {"hooks": HOOKS if tune == "lora" else 0.0, "ghost": GHOST}
        told = []
        for way, floor in floors.items():
            share = speeds[way] / plain  # type: ignore[index]
            missed += share < floor
            told.append(f"{way} {share:.2f}" + (f" (floor {floor})" if floor else ""))
        print(f"{tune}: plain {plain:.0f} tokens/s; of these {', '.join(told)}")
    scorer = scorer_speed(shape, repeats=options.repeats, device=options.device)
    missed += scorer.ratio < SCORER
    print(
        f"scorer, batches of 32: {scorer.ratio:.1f} times one by one (floor {SCORER:g}), largest "
        f"relative difference {scorer.difference:.1e}"
    )
    if options.device == "cpu":
        peaks = {way: peak_memory(shape, way, "full") for way in ("plain", "ghost", "hooks")}
        ratio = peaks["ghost"] / peaks["plain"]
        missed += ratio > MEMORY
        told = [f"{way} {peak / 2**20:.0f} MiB" for way, peak in peaks.items()]
        print(f"peak memory, full: {', '.join(told)}; ghost {ratio:.2f} (at most {MEMORY})")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
