"""The server's side: one round of the run's plan."""

from __future__ import annotations

import json

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.exception import AggregationError

from afl.flower.federate import federate
from afl.flower.plan import Plan
from lipogram.errors import LipogramError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan of the run's configuration; the log ends with the outcome."""
    try:
        plan = Plan.from_config(context.run_config)
        _, outcome = federate(grid, plan)
    except (LipogramError, FileNotFoundError) as error:
        raise AggregationError(f"{type(error).__name__}: {error}") from None
    print("afl outcome " + json.dumps(outcome), flush=True)
