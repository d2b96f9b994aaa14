"""One federated round at the server: ask, sum, solve, and ask what the head gets right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from afl import wire
from afl.errors import RejectedUpload, TooFewClients
from afl.federation import Federation
from afl.flower import messages
from afl.flower.exchange import Attendance, introduce, question, sort_answers, wait_for_nodes
from afl.flower.masked_round import MaskedRound
from afl.flower.plan import Plan
from afl.head import LinearHead
from lipogram.errors import LipogramError
from lipogram.files import write_atomically

COUNTS = ("correct", "rows", "held-out")
SUM, HEAD, OUTCOME = "sum.st", "head.st", "outcome.json"


@dataclass
class FederatedRound:
    """A round in steps; :func:`afl.flower.federate.federate` takes them one after the other.

    Attributes:
        plan: what is to be done.
        federation: the sum; of an earlier run where the plan names one.
        attendance: who was asked, and who did not answer.
        joined: names whose statistics are new in the sum.
        present: names that were in it before and are not asked again.
        head: of the sum, once it is solved.
        accuracy: what the nodes counted: correct, rows and held-out, by name.
    """

    plan: Plan
    federation: Federation
    attendance: Attendance = field(default_factory=Attendance)
    joined: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    head: LinearHead | None = None
    accuracy: dict[str, dict[str, int]] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)
    _masked: MaskedRound | None = None
    _grid: Grid | None = None

    @classmethod
    def of(cls, plan: Plan) -> FederatedRound:
        """The round of a plan, going on from the sum that it names.

        Raises:
            FileNotFoundError, CorruptState: there is no such sum.
        """
        if plan.into:
            federation = Federation.load(Path(plan.into) / SUM)
            federation.minimum_rows = plan.minimum_rows
        else:
            federation = Federation(
                minimum_rows=plan.minimum_rows, minimum_cohort=max(plan.minimum_cohort, 1)
            )
        return cls(plan, federation)

    def begin(self, grid: Grid) -> list[Message]:
        """Wait for nodes, learn their names, and ask those that are new for their statistics.

        Raises:
            TooFewClients: too few are connected, or, for masks, answer.
        """
        plan, self._grid = self.plan, grid
        nodes = wait_for_nodes(grid, plan.minimum_clients, plan.wait)
        hello = messages.asking(describe=plan.masked, **plan.to_config())
        told = introduce(grid, nodes, hello, plan.timeout, self.attendance)
        known = set(self.federation.clients)
        for node in list(told):
            name = self.attendance.name(node)
            last = self.federation.ledger.last_round(name)
            if name in known and (plan.masked or (last is not None and last >= plan.round)):
                self.present.append(name)
                del told[node]
        self._asked = list(told)
        if not told:
            return []
        if plan.masked:
            self._masked = MaskedRound.begin(grid, plan, told, self.attendance)
            contents = self._masked.ask_vectors()
            self._asked = list(contents)
            return question(messages.MASKED, contents)
        return question(messages.STATS, dict.fromkeys(told, messages.asking(**plan.to_config())))

    def finish(self, replies: Iterable[Message]) -> LinearHead:
        """Add what came to the sum, and solve it.

        Raises:
            TooFewClients, BelowThreshold, RevealsOneClient: see :meth:`afl.Federation.total`.
        """
        kind = messages.MASKED if self._masked else messages.STATS
        got = sort_answers(replies, self._asked, kind, self.attendance)
        if self._masked is not None:
            assert self._grid is not None
            stats, members = self._masked.finish(self._grid, got)
            name = f"cohort {self._masked.server.session.name[:8]}"
            self.federation.add(name, stats, round=self.plan.round, members=members)
            self.joined = members
        else:
            for node, content in got.items():
                self._admit(self.attendance.name(node), content)
        if len(self.federation.clients) < self.plan.minimum_clients:
            raise TooFewClients(
                f"{len(self.federation.clients)} clients are in the sum, "
                f"{self.plan.minimum_clients} are needed"
            )
        plan = self.plan
        self.head = self.federation.solve(
            plan.ridge, fit_intercept=plan.intercept, class_weight=plan.class_weight or None
        )
        return self.head

    def ask_accuracy(self, grid: Grid) -> list[Message]:
        """The head to every node that told its name."""
        if self.head is None or not self.plan.evaluate:
            return []
        plan = self.plan
        asked = messages.asking(head=messages.head_facts(self.head), **plan.to_config())
        asked[messages.UPLOAD] = messages.head_arrays(self.head)
        online = set(grid.get_node_ids())
        self._asked = [node for node in self.attendance.names if node in online]
        return question(messages.HEAD, dict.fromkeys(self._asked, asked))

    def take_accuracy(self, replies: Iterable[Message]) -> None:
        """Count what came back; a node without an answer is left out."""
        late = Attendance(names=self.attendance.names)
        for node, content in sort_answers(replies, self._asked, messages.HEAD, late).items():
            record = content.metric_records.get(messages.ANSWER, MetricRecord())
            counts = {
                name: count
                for name, count in record.items()
                if isinstance(count, int) and count >= 0
            }
            if set(counts) == set(COUNTS) and counts["correct"] <= counts["rows"]:
                self.accuracy[self.attendance.name(node)] = counts
        self.attendance.missing |= {
            name: why for name, why in late.missing.items() if name not in self.attendance.missing
        }

    def outcome(self) -> dict[str, Any]:
        """The round in words and numbers, for ``outcome.json``."""
        right, rows = (
            sum(each[key] for each in self.accuracy.values()) for key in ("correct", "rows")
        )
        held_out = [each["held-out"] for each in self.accuracy.values() if each["rows"]]
        head = self.head
        return {
            "clients": len(self.federation.clients),
            "rows": self.federation.n_rows,
            "joined": sorted(self.joined),
            "present": sorted(self.present),
            "missing": self.attendance.missing,
            "refused": self.attendance.refused,
            "total": self.federation.digest,
            "masked": self.plan.masked,
            "gamma": None if head is None else head.gamma,
            "condition": None if head is None else head.condition,
            "accuracy": right / rows if rows else None,
            "accuracy_rows": rows,
            "accuracy_of": "held-out rows" if held_out and all(held_out) else "training rows",
        }

    def save(self) -> Path:
        """Sum, head and outcome to the plan's folder, each whole or not at all."""
        folder = Path(self.plan.out)
        folder.mkdir(parents=True, exist_ok=True)
        self.federation.save(folder / SUM)
        if self.head is not None:
            self.head.save(folder / HEAD)
        write_atomically(folder / OUTCOME, json.dumps(self.outcome(), indent=2).encode())
        return folder

    def _admit(self, name: str, content: RecordDict) -> None:
        try:
            sent = wire.from_bytes(messages.bytes_of(content))
            if sent.client != name or sent.round != self.plan.round:
                raise RejectedUpload(
                    f"the statistics are those of {sent.client!r} in round {sent.round}"
                )
            self._check_noise(sent.stats.noise)
            self.federation.add(name, sent.stats, round=sent.round)
        except LipogramError as error:
            self.attendance.refused[name] = f"{type(error).__name__}: {error}"
            return
        self.joined.append(name)

    def _check_noise(self, noise: Mapping[str, Any] | None) -> None:
        """A claim of noise exempts from checks, so it counts only where noise was asked for."""
        if noise is None and not self.plan.epsilon:
            return
        asked = {"unit": "row", "epsilon": self.plan.epsilon, "delta": self.plan.delta}
        if noise is None or {k: v for k, v in noise.items() if k != "sigma"} != asked:
            raise RejectedUpload("the statistics claim other noise than was asked for")
