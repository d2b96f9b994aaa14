"""Every policy on 160 fresh sentences, and PsFuture against wait-k at equal latency.

Debian handbook, English to Portuguese, pages on which nothing was chosen; SmolLM2-135M invents the
future. Settings were chosen on LibreOffice's help. Half an hour on two cores; what was done is
not done again. `study_policies.py FOLDER SENTENCES` for another folder or size.
"""

import sys
from pathlib import Path

import torch

from lipogram.console import show
from psfuture import load
from psfuture.debian_text import evaluation_split
from psfuture.lm_future import LanguageModel
from psfuture.study import draw_curves, findings, findings_table, run_study
from psfuture.sweep_processes import run_shares
from psfuture.sweep_report import points_table

PROCESSES = 2


def study(folder, count, share=None):
    """The study of some sentences, or one process's share of it."""
    torch.set_num_threads(1)
    text = evaluation_split("pt-br").fresh.sample(count)
    return run_study(folder, load("enpt"), LanguageModel(), text.sources, text.targets, share=share)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/psfuture-policies")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 160
    run_shares(PROCESSES, study, folder, count)
    points = study(folder, count)
    print(f"{count} fresh sentences of the handbook, English to Portuguese, one thread a process")
    for latency in ("LAAL", "DAL"):
        draw_curves(points, latency, folder / f"{latency}.png")
    show(points_table(points))
    show(findings_table(findings(points)))
