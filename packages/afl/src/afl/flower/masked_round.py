"""A masked sum in four exchanges over Flower; whoever stops answering is left out of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from afl.client_stats import ClientStats
from afl.cohort import default_session
from afl.errors import TooFewClients
from afl.fixed_point import StatsLayout
from afl.flower import messages
from afl.flower.exchange import Attendance, ask
from afl.flower.plan import Plan
from afl.limits import MINIMUM_COHORT
from afl.noise_shares import NoiseShares
from afl.secure_server import SecureSumServer
from lipogram.errors import LipogramError


@dataclass
class MaskedRound:
    """The server's side of one masked sum.

    Attributes:
        server: holds what arrived.
        layout: how statistics lie in a vector.
        nodes: those still in it, by name.
        attendance: who dropped out, and why.
        plan: what the round is to do.
    """

    server: SecureSumServer
    layout: StatsLayout
    nodes: dict[str, int]
    attendance: Attendance
    plan: Plan

    @classmethod
    def begin(
        cls,
        grid: Grid,
        plan: Plan,
        told: Mapping[int, Mapping[str, Any]],
        attendance: Attendance,
    ) -> MaskedRound:
        """Exchanges 1 and 2: keys, then shares.

        Raises:
            TooFewClients: too few nodes with the same features, or that sent keys.
        """
        spaces = sorted({(facts["n_features"], facts["space"]) for facts in told.values()})
        if len(spaces) != 1:
            raise TooFewClients(
                f"the nodes have {len(spaces)} kinds of features, one is needed: widths "
                f"{[width for width, _ in spaces]}"
            )
        agreed_noise: Any = plan.noise_agreed
        layout = StatsLayout(
            n_features=spaces[0][0],
            classes=plan.labels(),
            clip=plan.clip,
            most_rows=plan.most_rows,
            clients=len(told),
            space=spaces[0][1],
            noise=None if agreed_noise is None else NoiseShares(**agreed_noise),
        )
        name = secrets.token_hex(16)
        least = layout.noise.least_survivors if layout.noise else 0
        cohort = max(plan.minimum_cohort, least)  # fewer have too little noise
        agreed = default_session(name, layout.size, max(len(told), MINIMUM_COHORT), cohort)
        nodes = {attendance.name(node): node for node in told}
        made = cls(SecureSumServer(agreed), layout, nodes, attendance, plan)
        first = messages.asking(session=asdict(agreed), **plan.to_config())
        made._exchange(
            grid,
            messages.KEYS,
            dict.fromkeys(nodes, first),
            lambda who, got: made.server.register(who, messages.adverts_of(got)[who]),
        )
        roster = messages.with_adverts(made.server.roster())
        second = made._content(roster)
        made._exchange(
            grid,
            messages.DEAL,
            dict.fromkeys(made.nodes, second),
            lambda who, got: made.server.deliver(who, messages.parcels_of(got)),
        )
        return made

    def ask_vectors(self) -> dict[int, RecordDict]:
        """Exchange 3, as messages by node."""
        layout = asdict(self.layout)
        layout["classes"] = list(self.layout.classes)
        return {
            node: self._content(messages.with_parcels(self.server.mailbox(name)), layout=layout)
            for name, node in self.nodes.items()
        }

    def finish(
        self, grid: Grid, vectors: Mapping[int, RecordDict]
    ) -> tuple[ClientStats, list[str]]:
        """Exchange 4: the sum of those whose vectors arrived, and their names.

        Raises:
            BelowThreshold, TooFewClients: too few are left; nothing is opened.
            RejectedUpload: the sum is none of statistics.
        """
        for name, node in list(self.nodes.items()):
            if node not in vectors:
                del self.nodes[name]
                continue
            self._take(
                name,
                vectors[node],
                lambda who, got: self.server.collect(who, messages.ring_of(got)),
            )
        left = self.server.survivors()
        self._exchange(
            grid,
            messages.OPEN,
            dict.fromkeys(left, self._content(RecordDict(), survivors=left)),
            lambda who, got: self.server.receive(who, messages.parcels_of(got)),
        )
        return self.layout.decode(self.server.result(), left), left

    def _content(self, record: RecordDict, **facts: Any) -> RecordDict:
        session = self.server.session.name
        asked = messages.asking(session=session, **self.plan.to_config(), **facts)
        return RecordDict({**record, **asked})

    def _exchange(
        self,
        grid: Grid,
        kind: str,
        contents: Mapping[str, RecordDict],
        take: Callable[[str, RecordDict], None],
    ) -> None:
        by_node = {self.nodes[name]: content for name, content in contents.items()}
        got = ask(grid, kind, by_node, self.plan.timeout, self.attendance)
        for name in contents:
            if self.nodes[name] in got:
                self._take(name, got[self.nodes[name]], take)
            else:
                del self.nodes[name]

    def _take(
        self, name: str, content: RecordDict, take: Callable[[str, RecordDict], None]
    ) -> None:
        try:
            take(name, content)
        except (LipogramError, KeyError) as error:
            self.attendance.refused[name] = str(error)
            del self.nodes[name]
