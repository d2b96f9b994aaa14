"""The demonstration: real images with a natural long tail, in every class order, on a laptop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from air.comparison_report import write_comparison
from air.experiment import Experiment, run_experiment
from lipogram.errors import MissingAsset
from lipogram.files import write_atomically
from lipogram.runs import Run

GAMMA = 100.0


@dataclass(frozen=True)
class Demo:
    """What the demonstration left behind.

    Attributes:
        runs: by name, the class-incremental and the blurry comparison.
        reports: their pages.
        fallback: why another data set was taken, or "".
    """

    runs: dict[str, Run]
    reports: dict[str, Path]
    fallback: str = ""

    def headline(self) -> dict[str, float]:
        """Balanced and overall accuracy at the end of the class-incremental stream."""
        result = self.runs["lt-cil"].result
        assert result is not None, "a demonstration has finished runs"
        methods = next(iter(result["orders"].values()))
        return {
            f"{what}, {method}": methods[method.lower()][figure]
            for what, figure in (("balanced accuracy", "balanced_last"), ("accuracy", "a_last"))
            for method in ("AIR", "ridge")
        }


def run_demo(
    folder: Path,
    *,
    dataset: str = "openclipart",
    progress: Callable[[str], None] = lambda line: None,
) -> Demo:
    """AIR against its baselines on one long-tailed image set.

    openclipart's 44 largest folders are classes of 21 to 250 drawings; where they cannot be had,
    Fashion-MNIST made long-tailed takes their place, and without any of the two scikit-learn's
    digits.

    Args:
        folder: for two runs, ``lt-cil`` and ``gcil``.
        dataset: see :data:`lipogram.analytic.sources.NAMES`.
        progress: told what is being worked on.

    Raises:
        MissingAsset: none of the sets could be had.
    """
    missing: list[str] = []
    for name in dict.fromkeys((dataset, "fashion-mnist", "digits")):
        try:
            return _demo(folder, name, progress, "; ".join(missing))
        except MissingAsset as error:
            missing.append(str(error))
            progress(f"{name} is not to be had: {error}")
    raise MissingAsset("; ".join(missing))


def _demo(folder: Path, dataset: str, progress: Callable[[str], None], fallback: str) -> Demo:
    natural = dataset == "openclipart"
    pixels = dataset == "digits"
    settings = Experiment(
        dataset=dataset,
        rho=None if natural else 100.0,
        gamma=1.0 if pixels else GAMMA,
        buffer_size=512 if pixels else None,
    )
    experiments = {
        "lt-cil": replace(
            settings, orders=("descending", "ascending", "shuffled"), tasks=11 if natural else 5
        ),
        "gcil": replace(settings, scenario="gcil", every=250),
    }
    titles = {
        "lt-cil": "Class by class: AIR on a long-tailed stream",
        "gcil": "Blurry tasks: AIR where classes come back",
    }
    lead = (
        "Features of a frozen backbone, one pass, no stored image. Ridge and AIR solve the same "
        "closed form; AIR lets every class count equally."
    )
    runs, reports = {}, {}
    for name, experiment in experiments.items():
        runs[name] = run_experiment(experiment, folder / dataset / name, progress=progress)
        reports[name] = write_comparison(runs[name], title=titles[name], lead=lead)
    done = Demo(runs, reports, fallback)
    summary = {"dataset": dataset, "headline": done.headline(), "fallback": fallback}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    return done
