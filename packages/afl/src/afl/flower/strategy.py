"""AFL as one of Flower's strategies; one round is all there is."""

from __future__ import annotations

from collections.abc import Iterable
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from afl.flower import messages
from afl.flower.plan import Plan
from afl.flower.round import FederatedRound


class AFLStrategy(Strategy):
    """Sums what the nodes send, as integers, and solves; averages nothing.

    ``AFLStrategy(plan).start(grid, ArrayRecord(), num_rounds=1)`` returns the head as arrays
    ``weight`` (d, k) and ``intercept`` (k,). Nodes run :mod:`afl.flower.client_app`. A second round
    asks only nodes that have come since.

    Args:
        plan: what is to be done.

    Attributes:
        round: the round, with federation, head and who was missing.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.round = FederatedRound.of(plan)
        self._grid: Grid | None = None

    def summary(self) -> None:
        """Log what will be done."""
        log(INFO, "\t└──> AFL: one exact round, %s", self.plan)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the nodes; ``arrays`` and ``config`` are not used, the plan says everything."""
        self._grid = grid
        if server_round > 1:
            self.round = FederatedRound(self.plan, self.round.federation)
        return self.round.begin(grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The head of the sum, and how many clients and rows are in it."""
        head = self.round.finish(replies)
        self.round.save()
        federation = self.round.federation
        facts = MetricRecord({"clients": len(federation.clients), "rows": federation.n_rows})
        return messages.head_arrays(head), facts

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the head to the nodes."""
        return self.round.ask_accuracy(grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The share of rows that the head gets right, over all nodes that answered."""
        self.round.take_accuracy(replies)
        self.round.save()
        accuracy = self.round.outcome()["accuracy"]
        return None if accuracy is None else MetricRecord({"accuracy": accuracy})
