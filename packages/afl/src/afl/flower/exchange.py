"""One question to many nodes, and who answered it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from afl.errors import RejectedUpload, TooFewClients
from afl.flower import messages

POLL_SECONDS = 0.5


@dataclass
class Attendance:
    """Who took part, and who did not and why, by name.

    Attributes:
        names: of nodes, by their number.
        missing: stage at which a node gave no answer in time.
        refused: what a node, or the server for it, gave as the reason.
    """

    names: dict[int, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def name(self, node: int) -> str:
        """The node's name, or its number where it never told one."""
        return self.names.get(node, f"node-{node}")

    def absent(self) -> str:
        """Who did not take part, and why, in one line."""
        why = [*self.missing.items(), *self.refused.items()]
        return "; ".join(f"{name}: {reason}" for name, reason in why) or "nobody is missing"


def wait_for_nodes(grid: Grid, minimum: int, seconds: float) -> list[int]:
    """Nodes that are connected, as soon as there are ``minimum`` of them.

    Raises:
        TooFewClients: fewer after that time.
    """
    end = time.monotonic() + seconds
    while len(nodes := sorted(grid.get_node_ids())) < minimum:
        if time.monotonic() > end:
            raise TooFewClients(
                f"{len(nodes)} nodes are connected after {seconds:g} s, {minimum} are needed"
            )
        time.sleep(POLL_SECONDS)
    return nodes


def question(kind: str, contents: Mapping[int, RecordDict]) -> list[Message]:
    """One message a node."""
    return [
        Message(content, dst_node_id=node, message_type=kind) for node, content in contents.items()
    ]


def sort_answers(
    replies: Iterable[Message], asked: Iterable[int], kind: str, attendance: Attendance
) -> dict[int, RecordDict]:
    """What came back, by node; the others are entered as missing or as having refused."""
    got: dict[int, RecordDict] = {}
    waited = set(asked)
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in waited:
            continue
        waited.discard(node)
        if reply.has_error():
            # The node is gone, or its app broke: either way there is nothing of it.
            attendance.missing[attendance.name(node)] = f"{kind}: error {reply.error.code}"
        elif (why := messages.refusal(reply.content)) is not None:
            attendance.refused[attendance.name(node)] = f"{kind}: {why}"
        else:
            got[node] = reply.content
    for node in waited:
        attendance.missing[attendance.name(node)] = f"{kind}: no answer in time"
    return got


def ask(
    grid: Grid,
    kind: str,
    contents: Mapping[int, RecordDict],
    timeout: float,
    attendance: Attendance,
) -> dict[int, RecordDict]:
    """Send, wait for everybody or until the time is over, and sort what came."""
    if not contents:
        return {}
    replies = grid.send_and_receive(question(kind, contents), timeout=timeout)
    return sort_answers(replies, contents, kind, attendance)


def introduce(
    grid: Grid, nodes: Iterable[int], asked: RecordDict, timeout: float, attendance: Attendance
) -> dict[int, dict[str, object]]:
    """What nodes say of themselves, by node; those with a name that another has are refused."""
    answers = ask(grid, messages.HELLO, dict.fromkeys(nodes, asked), timeout, attendance)
    told: dict[int, dict[str, object]] = {}
    for node, content in answers.items():
        try:
            facts = messages.facts_of(content)
            name = facts["name"]
            if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
                raise RejectedUpload("the name is no printable text of at most 200 characters")
        except (RejectedUpload, KeyError) as error:
            attendance.refused[attendance.name(node)] = f"{messages.HELLO}: {error}"
            continue
        told[node] = facts
    often = Counter(str(facts["name"]) for facts in told.values())
    for node, facts in list(told.items()):
        name = str(facts["name"])
        if often[name] > 1:
            attendance.refused[name] = f"{often[name]} nodes call themselves so"
            del told[node]
        else:
            attendance.names[node] = name
    return told
