"""A sum that shows nothing but itself: masks that cancel, and shares for those who drop out.

The protocol of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", CCS 2017, over integers modulo 2⁶⁴, with the sparse graph of Bell et al., CCS 2020, for
large cohorts. It holds against a server that keeps to the protocol and looks at everything,
together with fewer than t clients of any neighbourhood. It does not hold against clients that send
wrong numbers: nobody can look at one upload.

Stages: each client advertises two public keys; deals shares of its secrets to its neighbours; sends
its vector under masks; and, once the server says who is left, gives the shares that take off the
masks: for those who are left the share of their own mask's seed, for those who dropped out that of
their key, and never both for one client.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from afl.cohort import default_session
from afl.errors import TooFewClients
from afl.fixed_point import Ring
from afl.limits import MINIMUM_COHORT
from afl.secure_client import SecureSumClient
from afl.secure_server import SecureSumServer


def secure_sum(
    vectors: Mapping[str, Ring],
    *,
    session: str = "",
    threshold: int | None = None,
    neighbours: int | None = None,
    minimum_cohort: int = MINIMUM_COHORT,
    dropped: Iterable[str] = (),
) -> tuple[Ring, list[str]]:
    """The whole protocol in one process.

    Args:
        vectors: (size,) integers of each client.
        session: unique name of this sum; a random one by default.
        threshold: t; two thirds of the clients by default, see :func:`afl.cohort.default_session`.
        neighbours: see :class:`afl.cohort.Session`; chosen by the number of clients by default.
        minimum_cohort: fewer clients are refused.
        dropped: clients that disappear after dealing their shares.

    Returns:
        The sum of the survivors' vectors, and their names.

    Raises:
        TooFewClients, BelowThreshold, RejectedUpload: see the two sides.
    """
    if not vectors:
        raise TooFewClients("there is no vector to sum")
    size = len(next(iter(vectors.values())))
    agreed = default_session(
        session or secrets.token_hex(16), size, max(len(vectors), MINIMUM_COHORT), minimum_cohort
    )
    if threshold is not None:
        agreed = replace(agreed, threshold=threshold, neighbours=neighbours)
    server = SecureSumServer(agreed)
    clients = {name: SecureSumClient(name, agreed) for name in vectors}
    for name, client in clients.items():
        server.register(name, client.advertise())
    roster = server.roster()
    for name, client in clients.items():
        server.deliver(name, client.deal(roster))
    gone = set(dropped)
    for name, client in clients.items():
        if name not in gone:
            server.collect(name, client.mask(vectors[name], server.mailbox(name)))
    left = server.survivors()
    for name in left:
        server.receive(name, clients[name].open(left))
    return server.result(), left
