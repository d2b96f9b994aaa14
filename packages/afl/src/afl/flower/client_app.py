"""A node's side: it answers with statistics, with a masked vector, or with a refusal.

Flower runs the app anew for each message, so what a masked sum needs between its stages lies in the
node's own state, which never leaves it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from afl import wire
from afl.client_rows import public_labels
from afl.client_stats import ClientStats
from afl.cohort import Session
from afl.errors import Declined, RejectedUpload
from afl.fixed_point import StatsLayout
from afl.flower import messages
from afl.flower.node_data import check_consent, node_name, rows_of
from afl.noisy_stats import release
from afl.secure_client import SecureSumClient
from lipogram.errors import IncompatibleFeatures, LipogramError

app = ClientApp()
KEPT = "afl"
Answer = Callable[[dict[str, Any], Message, Context], RecordDict]


def answered(answer: Answer) -> Callable[[Message, Context], Message]:
    """Turn a handler of facts into one of Flower's, which refuses instead of raising."""

    def handle(message: Message, context: Context) -> Message:
        try:
            facts = messages.facts_of(message.content, messages.ASK)
            content = answer(facts, message, context)
        except (LipogramError, FileNotFoundError) as error:
            print(f"refused: {error}", file=sys.stderr)  # stays at the node
            kind = error if isinstance(error, LipogramError) else Declined("no data")
            content = messages.refusing(kind)
        return Message(content, reply_to=message)

    return handle


@app.query("hello")
@answered
def hello(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """Name of the node; for a masked sum also the width and identity of its features."""
    name = node_name(context.node_config, context.node_id)
    if not asked["describe"]:
        return messages.answering(name=name)
    rows, _, space = rows_of(context.node_config, asked)
    return messages.answering(name=name, n_features=int(rows.shape[1]), space=space)


@app.train("stats")
@answered
def stats(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """The statistics of the node's rows, with noise where it is asked for."""
    check_consent(context.node_config, masked=False, epsilon=asked["epsilon"])
    rows, labels, space = rows_of(context.node_config, asked)
    made = ClientStats.compute(
        rows, labels, clip=asked["clip"] or None, per_class=asked["per-class"], space=space
    )
    if asked["epsilon"]:
        made = release(
            made,
            epsilon=asked["epsilon"],
            delta=asked["delta"],
            classes=public_labels(asked["classes"], labels.tolist()),
        )
    name = node_name(context.node_config, context.node_id)
    data = wire.to_bytes(made, client=name, round=asked["round"], dtype=asked["dtype"])
    return messages.with_bytes(data)


@app.query("keys")
@answered
def keys(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """Stage 1 of a masked sum."""
    check_consent(context.node_config, masked=True, epsilon=asked["epsilon"])
    agreed = Session(**asked["session"])
    least = int(context.node_config.get("minimum-cohort", 0))
    if agreed.minimum_cohort < least:
        raise Declined(f"the owner of this node asks for cohorts of {least}")
    client = SecureSumClient(node_name(context.node_config, context.node_id), agreed)
    advert = client.advertise()
    _keep(context, client)
    return messages.with_adverts({client.name: advert})


@app.query("deal")
@answered
def deal(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """Stage 2 of a masked sum."""
    client = _kept(context, asked)
    parcels = client.deal(messages.adverts_of(message.content))
    _keep(context, client)
    return messages.with_parcels(parcels)


@app.train("masked")
@answered
def masked(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """Stage 3 of a masked sum: the statistics under masks."""
    client = _kept(context, asked)
    layout = StatsLayout(**asked["layout"])
    rows, labels, space = rows_of(context.node_config, asked)
    if space != layout.space:
        raise IncompatibleFeatures("the cohort reads other features than this node")
    made = ClientStats.compute(rows, labels, clip=layout.clip, space=space)
    noise = layout.noise
    check_consent(context.node_config, masked=True, epsilon=noise.epsilon if noise else 0.0)
    if noise is not None and client.session.minimum_cohort < noise.least_survivors:
        raise Declined("the cohort may be opened with less noise than was agreed")
    ring = client.mask(layout.encode(made), messages.parcels_of(message.content))
    _keep(context, client)
    return messages.with_ring(ring)


@app.query("open")
@answered
def open_shares(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """Stage 4 of a masked sum."""
    client = _kept(context, asked)
    shares = client.open([str(name) for name in asked["survivors"]])
    _keep(context, client)
    return messages.with_parcels(shares)


@app.evaluate("head")
@answered
def evaluate(asked: dict[str, Any], message: Message, context: Context) -> RecordDict:
    """How many labels the head gets right here: of held-out rows where the node has some."""
    held_out = "test" in context.node_config
    rows, labels, space = rows_of(context.node_config, asked, "test" if held_out else "data")
    arrays = message.content.array_records.get(messages.UPLOAD, ArrayRecord())
    head = messages.head_of(arrays, asked["head"])
    if space != head.space:
        raise IncompatibleFeatures("the head reads other features than this node's")
    right = int((head.predict(rows) == labels).sum()) if len(labels) else 0
    counted = MetricRecord({"correct": right, "rows": len(labels), "held-out": int(held_out)})
    return RecordDict({messages.ANSWER: counted})


def _keep(context: Context, client: SecureSumClient) -> None:
    context.state[KEPT] = ConfigRecord({client.session.name: client.to_bytes()})


def _kept(context: Context, asked: dict[str, Any]) -> SecureSumClient:
    held = context.state.config_records.get(KEPT, ConfigRecord()).get(str(asked["session"]))
    if not isinstance(held, bytes):
        raise RejectedUpload("this node is not in the session: it was started anew, or never asked")
    return SecureSumClient.from_bytes(held)
