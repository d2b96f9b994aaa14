"""Every policy on 160 fresh sentences, and PsFuture against wait-k at equal latency.

Debian handbook, English to Portuguese, pages on which nothing was chosen; SmolLM2-135M invents the
future. Settings were chosen on LibreOffice's help. A quarter of an hour on one core; what was done
is not done again. `bench_policies.py FOLDER SENTENCES` for another folder or size.
"""

import sys
from pathlib import Path

import torch

from lipogram.console import show
from psfuture import load
from psfuture.debian_text import evaluation_split
from psfuture.lm_future import LanguageModel
from psfuture.study import findings, findings_table, run_study
from psfuture.sweep_report import points_table

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/psfuture-policies")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 160
    torch.set_num_threads(1)
    text = evaluation_split("pt-br").fresh.sample(count)
    points = run_study(
        folder,
        load("enpt"),
        LanguageModel(),
        text.sources,
        text.targets,
        progress=lambda done: print(f"{done} of {len(text)} sentences", flush=True),
    )
    print(f"{text.name}, {len(text)} sentences, one thread")
    show(points_table(points))
    show(findings_table(findings(points)))
