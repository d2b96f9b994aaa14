"""The smallest real example of rewardds."""

from pathlib import Path
from typing import Any

import rewardds
from lipogram.runs import Run


def run_demo(folder: Path) -> dict[str, Any]:
    """Run the example in `folder`.

    Returns:
        The summary, as written to `folder/summary.json`. Its "headline" maps the names of the few
        figures that matter to their values.

    Raises:
        RunMismatch: `folder` holds a run with other settings.
    """
    run = Run.create(folder, {"seed": 0}, package="lipogram-rewardds")
    summary = {"headline": {"version": rewardds.__version__}}
    run.summary(summary)
    return summary
