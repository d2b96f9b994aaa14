"""Prefix-to-Full against an equal-step control, three training seeds, on fresh sentences.

Both train the embedded English-Portuguese model on LibreOffice's help with its own translations as
targets; the control sees whole sentences alone. Policies run on 160 sentences of handbook pages on
which nothing was chosen; PsFuture with the fixed future, closed prefixes. Half an hour on one core;
what was done is not done again. `study_p2f.py FOLDER SENTENCES` for another folder or size.
"""

import sys
from pathlib import Path

import torch

from lipogram.console import show
from lipogram.report import Table
from psfuture import load
from psfuture.bootstrap import Measured, compare_runs_at
from psfuture.debian_text import evaluation_split
from psfuture.p2f_settings import P2FSettings
from psfuture.p2f_training import train_p2f
from psfuture.points import curves_of, table
from psfuture.policies import Offline, PsFuture, WaitK
from psfuture.sweeps import sweep_points

SEEDS = (0, 1, 2)
THRESHOLDS = (0.1, 0.03, 0.01, 0.006, 0.003, 0.001)
AT = (3.5, 4.5, 5.5)


def trained(folder, objective, seed, pairs):
    """A model's folder, and what its training says of itself."""
    settings = P2FSettings(objective=objective, seed=seed, threads=1)
    out = folder / f"{objective}-{seed}"
    return out / "model", train_p2f("enpt", pairs, out, settings)


def measured(folder, model, text):
    """The curves of one model, and its offline BLEU."""
    families = {
        "psfuture": [PsFuture(x) for x in THRESHOLDS],
        "wait-k": [WaitK(k) for k in range(1, 8)],
        "offline": [Offline()],
    }
    points = sweep_points(model, families, text.sources, text.targets, folder=folder)
    rows = {row["policy"]: row["BLEU"] for row in table(points).to_dict("records")}
    curves = {name.split(",")[0]: Measured(curve) for name, curve in curves_of(points).items()}
    return curves, rows["offline"]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/psfuture-p2f")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 160
    torch.set_num_threads(1)
    split = evaluation_split("pt-br")
    text = split.fresh.sample(count)
    base, offline = measured(folder / "base-curves", load("enpt"), text)
    rows, curves = [["base", offline, None, None]], {"p2f": [], "ce": []}
    for seed in SEEDS:
        chosen = split.tuning.with_words(4, 40).sample(1800, seed=seed)
        pairs = list(zip(chosen.sources, chosen.targets, strict=True))
        for objective, kept in curves.items():
            place, told = trained(folder, objective, seed, pairs)
            name = f"{objective}-{seed}"
            found, offline = measured(folder / f"{name}-curves", load(f"bergamot:{place}"), text)
            kept.append(found)
            held = told["held_out"]
            rows.append([name, offline, held["before"]["prefix"], held["after"]["prefix"]])
            print(f"{name} done", flush=True)
    print(f"{text.name}, {len(text)} sentences, {len(SEEDS)} training seeds, one thread")
    columns = ["model", "BLEU offline", "prefix loss before", "prefix loss after"]
    show(Table(columns, rows, digits=2, caption="Nats a token, 200 held-out pairs of the help."))
    compared = {
        "PsFuture on P2F, on the control": ("p2f", "psfuture", "ce", "psfuture"),
        "PsFuture on P2F, wait-k on P2F": ("p2f", "psfuture", "p2f", "wait-k"),
        "PsFuture on P2F, wait-k on the control": ("p2f", "psfuture", "ce", "wait-k"),
        "wait-k on P2F, on the control": ("p2f", "wait-k", "ce", "wait-k"),
    }
    lines = []
    for name, (a, policy, b, other) in compared.items():
        runs = [(x[policy], y[other]) for x, y in zip(curves[a], curves[b], strict=True)]
        lines += [(name, row) for row in compare_runs_at("AL", AT, runs)]
    on_base = {
        "PsFuture on P2F, PsFuture on the base": ("psfuture", "psfuture"),
        "PsFuture on P2F, wait-k on the base": ("psfuture", "wait-k"),
    }
    for name, (policy, other) in on_base.items():
        runs = [(found[policy], base[other]) for found in curves["p2f"]]
        lines += [(name, row) for row in compare_runs_at("AL", AT, runs)]
    cells = [
        [name, f"AL {row.at:g}", row.difference, row.low, row.high, row.gap or row.verdict]
        for name, row in lines
    ]
    columns = ["the first over the second", "at", "BLEU", "from", "to", "so it is"]
    show(Table(columns, cells, digits=2, caption="Mean of the seeds; 95 % over sentences."))
