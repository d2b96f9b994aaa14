"""`make bench-afl`: noise that 30 clients share under masks, against each adding all of it.

Prints test accuracies, each the mean of five draws of noise. Exit code 1 where sharing does not
help, or where drawing a vector's noise takes longer than it may.
"""

import sys
import time
import warnings

import numpy as np
import torch

from afl.adassp import noise_norm
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.fixed_point import StatsLayout
from afl.noise_shares import NoiseShares
from afl.noisy_stats import release
from afl.secure_sum import secure_sum
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.sources import features_of
from lipogram.console import show
from lipogram.discrete_gaussian import discrete_gaussian, noise_key
from lipogram.report import Table

CLIENTS, SHARES, DROPPED, WIDTH, DELTA, DRAWS = 30, 20, 4, 64, 1e-5, 5


def main(dataset: str = "fashion-mnist") -> int:
    """Print the table; 1 if a floor is missed."""
    warnings.simplefilter("ignore")
    held = features_of(dataset, image_size=64, per_class=(600, 150))
    buffer = RandomBuffer(held.train.shape[1], WIDTH, init="orthogonal", activation="identity")
    train, test = (unit(buffer, part) for part in (held.train, held.test))
    classes = sorted(set(np.asarray(held.train_labels).tolist()))
    order = np.random.default_rng(0).permutation(len(train))
    silos = {
        f"silo {i:02}": ClientStats.compute(train[p], held.train_labels[p], clip=1.0)
        for i, p in enumerate(np.array_split(order, CLIENTS))
    }
    exact = Federation()
    for name, stats in silos.items():
        exact.add(name, stats)
    rows, missed = [], []
    for epsilon in (1.0, 2.0, 4.0, 8.0):
        asked = {"epsilon": epsilon, "delta": DELTA, "classes": classes}
        layout = StatsLayout(
            n_features=WIDTH,
            classes=classes,
            clip=1.0,
            most_rows=1000,
            clients=CLIENTS,
            noise=NoiseShares(epsilon=epsilon, delta=DELTA, shares=SHARES),
        )
        found = []
        for draw in range(DRAWS):
            alone, shared = Federation(), Federation()
            for i, (name, stats) in enumerate(silos.items()):
                alone.add(name, release(stats, **asked, seed=1000 * draw + i))
            vectors = {
                name: layout.encode(stats, seed=1000 * draw + i)
                for i, (name, stats) in enumerate(silos.items())
            }
            total, left = secure_sum(
                vectors,
                dropped=list(silos)[:DROPPED],
                minimum_cohort=layout.noise.least_survivors,
            )
            shared.add("cohort", layout.decode(total, left), members=left)
            trusted = exact.solve_private(**asked, seed=draw)
            heads = [head(alone), head(shared), trusted]
            found.append([each.accuracy(test, held.test_labels) for each in heads])
        rows.append([epsilon, *np.mean(found, axis=0).tolist()])
        if rows[-1][2] <= rows[-1][1]:
            missed.append(f"ε = {epsilon:g}: shared noise is no better")
    start = time.perf_counter()
    discrete_gaussian(noise_key(), 150_000, 2**24)
    seconds = time.perf_counter() - start
    if seconds > 5:
        missed.append("150,000 numbers take more than 5 s")
    plain = exact.solve(0.01).accuracy(test, held.test_labels)
    caption = (
        f"{len(train)} rows at {CLIENTS} silos, {DROPPED} drop out under masks, m = {SHARES}, "
        f"δ = {DELTA:g}; {plain:.3f} without noise. 150,000 numbers of noise: {seconds:.2f} s."
    )
    columns = ["ε", "each silo alone", "shares under masks", "trusted server"]
    show(Table(columns=columns, rows=rows, caption=caption))
    for failure in missed:
        print(f"below its floor: {failure}", file=sys.stderr)
    return 1 if missed else 0


def head(federation: Federation):
    """With a γ that covers what the noise may bend."""
    sigma = federation.total().noise["sigma"]
    return federation.solve(noise_norm(sigma, WIDTH, 0.05))


def unit(buffer: RandomBuffer, rows: np.ndarray) -> np.ndarray:
    """Projected rows of norm 1."""
    mapped = buffer(torch.from_numpy(np.asarray(rows, dtype=np.float64)))
    return torch.nn.functional.normalize(mapped, dim=1).numpy()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
