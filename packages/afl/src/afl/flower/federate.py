"""A round from start to end, for a ServerApp of one's own."""

from __future__ import annotations

from typing import Any

from flwr.serverapp import Grid

from afl.errors import BelowThreshold, TooFewClients
from afl.flower.plan import Plan
from afl.flower.round import FederatedRound


def federate(grid: Grid, plan: Plan) -> tuple[FederatedRound, dict[str, Any]]:
    """Run one round; sum, head and outcome lie in ``plan.out`` afterwards.

    Args:
        grid: Flower's, as its ServerApp gets it.
        plan: what is to be done.

    Returns:
        The round, with federation and head, and its outcome as written to ``outcome.json``.

    Raises:
        TooFewClients, BelowThreshold, RevealsOneClient, InvalidSetting, CorruptState: there is no
            head; an earlier result in the folder stays as it was.
    """
    round = FederatedRound.of(plan)
    try:
        questions = round.begin(grid)
        replies = grid.send_and_receive(questions, timeout=plan.timeout) if questions else []
        round.finish(replies)
    except (BelowThreshold, TooFewClients) as error:
        raise type(error)(f"{error} ({round.attendance.absent()})") from None
    round.save()  # before anything else can fail
    if asked := round.ask_accuracy(grid):
        round.take_accuracy(grid.send_and_receive(asked, timeout=plan.timeout))
        round.save()
    return round, round.outcome()
