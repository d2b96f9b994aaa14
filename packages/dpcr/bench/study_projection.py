"""The category-wise projection and the settings of the shift map, on real images.

    python packages/dpcr/bench/study_projection.py [openclipart|fashion-mnist|digits] [SEEDS] [DEMO]

Classifiers over the networks that `dpcr demo --out DEMO` trained (runs/dpcr-demo by default), which
are trained now where they are not there. A map that knows its noise leaves the row space that the
projection keeps, so the projection goes with an ε by rows.
"""

import sys
from dataclasses import replace
from pathlib import Path

from dpcr.real_images import data_of, study_of
from dpcr.study import run_study
from dpcr.study_report import study_table
from lipogram.console import show

BY_ROWS = {"method": "dpcr", "eps": "auto", "prior": "identity"}
VARIANTS = {
    "ε by rows": BY_ROWS,
    "ε by rows, projection: rank": {**BY_ROWS, "cip": "rank"},
    "ε by rows, projection: soft": {**BY_ROWS, "cip": "soft"},
    "ε by rows, pull to 0": {**BY_ROWS, "prior": "zero"},
    "ε by rows, pull to 0, projection: rank": {**BY_ROWS, "prior": "zero", "cip": "rank"},
    "ε = 0.1": {**BY_ROWS, "eps": 0.1},
    "ε by classes, pull to 0": {"method": "dpcr", "prior": "zero"},
    "ε by classes": {"method": "dpcr"},
}


def main(arguments: list[str]) -> None:
    """Print one table."""
    name = arguments[0] if arguments else "openclipart"
    seeds = tuple(range(int(arguments[1]) if len(arguments) > 1 else 3))
    kept = Path(arguments[2] if len(arguments) > 2 else "runs/dpcr-demo") / name
    study = replace(
        study_of(name, seeds=seeds, methods=("dpcr",)),
        methods=tuple(VARIANTS),
        variants=VARIANTS,
    )
    run = run_study(
        study,
        data_of(name),
        kept.parent / f"{name}-projection",
        networks=kept / "networks",
        progress=lambda line: print(line, file=sys.stderr),
    )
    assert run.result is not None
    show(study_table(run.result), name)


if __name__ == "__main__":
    main(sys.argv[1:])
