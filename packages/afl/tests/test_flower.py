"""Both apps and the strategy, with messages passed in this process."""

import json

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from afl import wire
from afl.classifier import AFLClassifier
from afl.client_stats import ClientStats
from afl.cohort import default_session
from afl.errors import BelowThreshold, RejectedUpload, TooFewClients
from afl.federation import Federation
from afl.flower import messages
from afl.flower.client_app import app as client_app
from afl.flower.federate import federate
from afl.flower.plan import Plan
from afl.flower.strategy import AFLStrategy
from afl.head import LinearHead
from lipogram.analytic.datasets import digits
from lipogram.errors import CorruptState, InvalidSetting

ROWS, LABELS = digits()
CLASSES = ",".join(str(c) for c in range(10))
MASKED = {"masked": True, "clip": 70.0, "most_rows": 1000, "classes": CLASSES}


class Loop(Grid):
    """Nodes in this process; `lost` and `change` make them fail or lie."""

    def __init__(self, nodes, lost=(), change=None):
        self.nodes = {number: dict(config) for number, config in enumerate(nodes, start=1)}
        self.states = {number: RecordDict() for number in self.nodes}
        self.lost, self.change, self.seen = set(lost), change, []

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for number, message in enumerate(messages):
            node = message.metadata.dst_node_id
            kind = message.metadata.message_type
            name = self.nodes[node].get("name")
            if (name, kind) in self.lost:
                continue
            message.metadata.__dict__["_message_id"] = f"{len(self.seen)}-{number}"
            context = Context(0, node, self.nodes[node], self.states[node], {})
            reply = client_app(message, context)
            self.states[node] = context.state
            self.seen.append((name, kind, reply))
            if self.change is not None:
                reply = self.change(name, kind, reply, message)
            replies.append(reply)
        return replies

    def set_run(self, run): ...

    run = None

    def create_message(self, *_, **__): ...

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...


@pytest.fixture(autouse=True)
def _running(monkeypatch):
    """What Flower sets in the process of an app."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def nodes(tmp_path):
    """Four nodes, each with some digits only."""
    configs = []
    for number, name in enumerate(("north", "south", "east", "west")):
        mine = np.isin(LABELS, [number, number + 4, 8, 9][: 2 + number % 3])
        path = tmp_path / f"{name}.npz"
        np.savez(path, X=ROWS[mine], y=LABELS[mine])
        configs.append({"name": name, "data": str(path)})
    return configs


def pooled(nodes, names=("north", "south", "east", "west"), gamma=1.0, clip=None):
    """The head of the rows of some nodes, put together and solved by scikit-learn."""
    from sklearn.linear_model import Ridge

    X, y = (
        np.concatenate([np.load(n["data"])[key] for n in nodes if n["name"] in names])
        for key in ("X", "y")
    )
    if clip is not None:
        X = X * np.minimum(1, clip / np.linalg.norm(X, axis=1))[:, None]
    classes = np.unique(y)
    ridge = Ridge(alpha=gamma, fit_intercept=False, solver="cholesky")
    return classes, ridge.fit(X, (y[:, None] == classes).astype(float)).coef_.T


def off(head: LinearHead, expected):
    classes, weight = expected
    order = [head.classes.index(c) for c in classes.tolist()]
    return np.abs(head.weight.numpy()[:, order] - weight).max() / np.abs(weight).max()


def plan(tmp_path, **changes):
    settings = {"minimum_clients": 2, "wait": 0.1, "timeout": 1.0, "out": str(tmp_path / "out")}
    return Plan(**(settings | changes))


@pytest.mark.parametrize("changes", [{}, MASKED, {"dtype": "float32"}, {"gamma": "gcv"}])
def test_the_head_is_that_of_all_rows(nodes, tmp_path, changes):
    done, outcome = federate(Loop(nodes), plan(tmp_path, **changes))
    expected = pooled(nodes, gamma=done.head.gamma, clip=changes.get("clip"))
    assert off(done.head, expected) < (1e-4 if "dtype" in changes else 1e-10)
    assert outcome["joined"] == ["east", "north", "south", "west"]
    assert outcome["missing"] == outcome["refused"] == {}
    assert outcome["accuracy_of"] == "training rows"
    assert json.loads((tmp_path / "out/outcome.json").read_text()) == outcome
    assert Federation.load(tmp_path / "out/sum.st").digest == done.federation.digest
    assert (LinearHead.load(tmp_path / "out/head.st").weight == done.head.weight).all()


def test_the_bytes_that_travel_are_those_of_a_file(nodes, tmp_path):
    loop = Loop(nodes)
    federate(loop, plan(tmp_path))
    sent = {
        name: messages.bytes_of(reply.content)
        for name, kind, reply in loop.seen
        if kind == messages.STATS
    }
    for node in nodes:
        held = np.load(node["data"])
        made = ClientStats.compute(
            held["X"], held["y"], space=wire.from_bytes(sent["north"]).stats.space
        )
        assert sent[node["name"]] == wire.to_bytes(made, client=node["name"])


def test_held_out_rows_are_counted_where_nodes_have_some(nodes, tmp_path):
    np.savez(tmp_path / "test.npz", X=ROWS[::7], y=LABELS[::7])
    for node in nodes:
        node["test"] = str(tmp_path / "test.npz")
    done, outcome = federate(Loop(nodes), plan(tmp_path))
    assert outcome["accuracy_of"] == "held-out rows"
    assert outcome["accuracy_rows"] == 4 * len(ROWS[::7])
    assert outcome["accuracy"] == done.head.accuracy(ROWS[::7], LABELS[::7])


STAGES = [
    (messages.HELLO, ["east", "north", "south"]),
    (messages.KEYS, ["east", "north", "south"]),
    (messages.DEAL, ["east", "north", "south"]),
    (messages.MASKED, ["east", "north", "south"]),
    (messages.OPEN, ["east", "north", "south", "west"]),
]


@pytest.mark.parametrize(("stage", "joined"), STAGES)
def test_a_masked_sum_survives_a_node_that_disappears_at_any_stage(nodes, tmp_path, stage, joined):
    done, outcome = federate(Loop(nodes, lost={("west", stage)}), plan(tmp_path, **MASKED))
    assert outcome["joined"] == joined
    assert outcome["rows"] == sum(
        len(np.load(n["data"])["y"]) for n in nodes if n["name"] in joined
    )
    assert off(done.head, pooled(nodes, joined, clip=70.0)) < 1e-10
    who = next(iter(outcome["missing"]))
    assert who == ("node-4" if stage == messages.HELLO else "west")
    assert stage in outcome["missing"][who]


def test_too_few_left_under_masks_opens_nothing_and_writes_nothing(nodes, tmp_path):
    lost = {("west", messages.MASKED), ("east", messages.MASKED)}
    with pytest.raises(BelowThreshold, match=r"2 vectors.*3 are needed.*east: train.masked: no an"):
        federate(Loop(nodes, lost=lost), plan(tmp_path, **MASKED))
    assert not (tmp_path / "out").exists()
    with pytest.raises(TooFewClients, match="2 clients, at least 3"):
        federate(Loop(nodes[:2]), plan(tmp_path, **MASKED))
    with pytest.raises(TooFewClients, match=r"3 clients, at least 4|4 hide"):
        federate(Loop(nodes[:3]), plan(tmp_path, **MASKED, minimum_cohort=4))


def test_the_server_sees_no_single_vector_and_no_share_of_both_kinds(nodes, tmp_path):
    loop = Loop(nodes, lost={("west", messages.MASKED)})
    done, _ = federate(loop, plan(tmp_path, **MASKED))
    vectors = [messages.ring_of(r.content) for _, kind, r in loop.seen if kind == messages.MASKED]
    assert len(vectors) == 3
    for vector in vectors:
        counts = np.bincount(np.frombuffer(vector.tobytes(), np.uint8), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400  # chi-square, 255 d.f.
    opened = [messages.parcels_of(r.content) for _, kind, r in loop.seen if kind == messages.OPEN]
    assert all(set(shares) == {"north", "south", "east", "west"} for shares in opened)
    assert all(len(s) == 66 for shares in opened for s in shares.values())
    assert done.federation.ledger.entries[0].members == ("east", "north", "south")


def test_a_node_that_does_not_answer_is_named_and_the_others_go_on(nodes, tmp_path):
    done, outcome = federate(Loop(nodes, lost={("west", messages.STATS)}), plan(tmp_path))
    assert outcome["missing"] == {"west": "train.stats: no answer in time"}
    assert off(done.head, pooled(nodes, ("north", "south", "east"))) < 1e-10


def test_late_nodes_join_an_earlier_sum_and_nobody_is_counted_twice(nodes, tmp_path):
    federate(Loop(nodes[:2]), plan(tmp_path))
    first = tmp_path / "out"
    loop = Loop(nodes)
    done, outcome = federate(loop, plan(tmp_path, into=str(first), out=str(tmp_path / "two")))
    assert (outcome["present"], outcome["joined"]) == (["north", "south"], ["east", "west"])
    assert [n for n, kind, _ in loop.seen if kind == messages.STATS] == ["east", "west"]
    assert off(done.head, pooled(nodes)) < 1e-10
    together, _ = federate(Loop(nodes), plan(tmp_path, out=str(tmp_path / "three")))
    assert together.federation.digest == done.federation.digest
    again, outcome = federate(Loop(nodes), plan(tmp_path, into=str(tmp_path / "two")))
    assert outcome["joined"] == []
    assert again.federation.digest == done.federation.digest
    with pytest.raises(FileNotFoundError):
        federate(Loop(nodes), plan(tmp_path, into=str(tmp_path / "nowhere")))
    (tmp_path / "two/sum.st").write_bytes(b"x" * 100)
    with pytest.raises(CorruptState):
        federate(Loop(nodes), plan(tmp_path, into=str(tmp_path / "two")))


def lying(name, kind, make):
    """A change of one node's answer at one stage."""

    def change(who, stage, reply, message):
        if (who, stage) != (name, kind):
            return reply
        return Message(make(reply.content), reply_to=message)

    return change


def stats_of(**changes):
    rows = ROWS[:50]
    made = ClientStats.compute(rows, LABELS[:50], clip=70.0, space=changes.pop("space", "x"))
    made.noise = changes.pop("noise", None)
    return messages.with_bytes(wire.to_bytes(made, **changes))


CLAIM = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1e5}
LIES = [
    (lambda c: stats_of(client="north"), "are those of 'north'"),
    (lambda c: stats_of(client="west", round=3), "in round 3"),
    (lambda c: stats_of(client="west", noise=CLAIM), "other noise than was asked for"),
    (lambda c: stats_of(client="west", space="another"), "IncompatibleFeatures"),
    (lambda c: messages.with_bytes(messages.bytes_of(c)[:-100]), "RejectedUpload"),
    (lambda c: RecordDict({}), "holds no message"),
    (lambda c: messages.with_ring(np.zeros(4, np.uint64)), "holds no message"),
    (
        lambda c: RecordDict({messages.UPLOAD: ArrayRecord({"message": Array(np.zeros(3))})}),
        "holds no message",
    ),
]


@pytest.mark.parametrize(("make", "why"), LIES)
def test_a_node_that_lies_is_refused_by_name_and_the_sum_stays(nodes, tmp_path, make, why):
    loop = Loop(nodes, change=lying("west", messages.STATS, make))
    done, outcome = federate(loop, plan(tmp_path))
    assert why in outcome["refused"]["west"]
    assert off(done.head, pooled(nodes, ("north", "south", "east"))) < 1e-10


MASK_LIES = [
    (messages.KEYS, lambda c: messages.with_parcels({"west": b"short"})),
    (messages.KEYS, lambda c: messages.with_parcels({"north": bytes(64)})),
    (messages.KEYS, lambda c: messages.answering(x=1)),
    (messages.DEAL, lambda c: messages.with_parcels({"north": b"x"})),
    (messages.MASKED, lambda c: messages.with_ring(np.zeros(9, np.uint64))),
    (messages.MASKED, lambda c: messages.with_bytes(b"x" * 80)),
    (messages.OPEN, lambda c: messages.with_parcels({"north": b"x"})),
]


@pytest.mark.parametrize(("kind", "make"), MASK_LIES)
def test_a_node_that_breaks_the_masked_protocol_is_refused(nodes, tmp_path, kind, make):
    done, outcome = federate(
        Loop(nodes, change=lying("west", kind, make)), plan(tmp_path, **MASKED)
    )
    assert "west" in outcome["refused"]
    joined = ["east", "north", "south"] + (["west"] if kind == messages.OPEN else [])
    assert outcome["joined"] == joined
    assert off(done.head, pooled(nodes, joined, clip=70.0)) < 1e-10


def test_a_node_without_its_data_refuses_without_telling_why(nodes, tmp_path):
    nodes[3]["data"] = str(tmp_path / "secret-name.npz")
    _, outcome = federate(Loop(nodes), plan(tmp_path))
    assert outcome["refused"] == {"west": "train.stats: Declined"}
    assert "secret" not in json.dumps(outcome)
    del nodes[3]["data"]
    assert federate(Loop(nodes), plan(tmp_path))[1]["refused"]["west"].endswith("InvalidSetting")


CONSENT = [
    ({"release": "masked"}, {}, "Declined"),
    ({"release": "noisy"}, {}, "Declined"),
    ({"release": "noisy"}, MASKED, "Declined"),
    ({"most-epsilon": 0.5}, MASKED | {"epsilon": 1.0}, "Declined"),
    ({"minimum-cohort": 5}, MASKED, "Declined"),
    ({"most-epsilon": 0.5}, {"epsilon": 1.0, "clip": 70.0, "classes": CLASSES}, "Declined"),
    ({"release": "everything"}, {}, "InvalidSetting"),
]


@pytest.mark.parametrize(("own", "changes", "why"), CONSENT)
def test_the_owner_of_a_node_decides_what_leaves_it(nodes, tmp_path, own, changes, why):
    nodes[3] |= own
    loop = Loop(nodes)
    _, outcome = federate(loop, plan(tmp_path, **changes))
    assert outcome["refused"]["west"].endswith(why)
    assert "west" not in outcome["joined"]
    assert not any(n == "west" and r.content.array_records for n, _, r in loop.seen)


def test_noise_is_added_where_it_is_asked_for(nodes, tmp_path):
    nodes[3] |= {"release": "noisy", "most-epsilon": 4.0}
    changes = {"epsilon": 4.0, "clip": 70.0, "classes": CLASSES}
    done, outcome = federate(Loop(nodes), plan(tmp_path, **changes))
    assert outcome["joined"] == ["east", "north", "south", "west"]
    assert off(done.head, pooled(nodes, clip=70.0)) > 1e-3
    plain = lambda c: stats_of(client="west")  # noqa: E731
    loop = Loop(nodes, change=lying("west", messages.STATS, plain))
    assert "other noise" in federate(loop, plan(tmp_path, **changes))[1]["refused"]["west"]


def test_masks_and_noise_together_give_a_sum_that_claims_what_it_is_worth(nodes, tmp_path):
    nodes[2] |= {"release": "masked", "most-epsilon": 4.0}
    nodes[3] |= {"release": "noisy", "most-epsilon": 4.0}
    changes = MASKED | {"epsilon": 4.0, "minimum_clients": 4}
    done, outcome = federate(Loop(nodes), plan(tmp_path, **changes))
    assert outcome["joined"] == ["east", "north", "south", "west"]
    claim = done.federation.total().noise
    assert (claim["unit"], claim["epsilon"], claim["shares"]) == ("row", 4.0, 3)
    with pytest.raises(TooFewClients, match="3 vectors, at least 4"):
        federate(
            Loop(nodes, lost={("west", messages.MASKED)}),
            plan(tmp_path, **changes, noise_shares=4),
        )
    nodes[3]["most-epsilon"] = 1.0
    _, outcome = federate(Loop(nodes), plan(tmp_path, **changes | {"minimum_clients": 2}))
    assert outcome["refused"] == {"west": "query.keys: Declined"}


def test_nodes_do_not_mask_where_too_few_would_share_the_noise(nodes, tmp_path, monkeypatch):
    def careless(name, size, clients, minimum_cohort):
        return default_session(name, size, clients, 3)

    monkeypatch.setattr("afl.flower.masked_round.default_session", careless)
    changes = MASKED | {"epsilon": 4.0, "minimum_clients": 4, "noise_shares": 4}
    with pytest.raises(BelowThreshold, match=r"train.masked: Declined"):
        federate(Loop(nodes), plan(tmp_path, **changes))


def test_two_nodes_of_one_name_are_both_refused(nodes, tmp_path):
    nodes[3]["name"] = "east"
    _, outcome = federate(Loop(nodes), plan(tmp_path))
    assert outcome["refused"] == {"east": "2 nodes call themselves so"}
    assert outcome["joined"] == ["north", "south"]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_a_name_must_be_printable(nodes, tmp_path, name):
    nodes[3]["name"] = name
    _, outcome = federate(Loop(nodes), plan(tmp_path))
    assert list(outcome["refused"]) == ["node-4"]


def test_nodes_with_other_features_do_not_share_masks(nodes, tmp_path):
    np.savez(tmp_path / "wide.npz", X=np.ones((30, 5)), y=np.zeros(30, int))
    nodes[3]["data"] = str(tmp_path / "wide.npz")
    with pytest.raises(TooFewClients, match="2 kinds of features"):
        federate(Loop(nodes), plan(tmp_path, **MASKED))
    _, outcome = federate(Loop(nodes), plan(tmp_path))
    assert "IncompatibleFeatures" in outcome["refused"]["west"]


def test_small_clients_and_small_federations_are_refused(nodes, tmp_path):
    np.savez(tmp_path / "few.npz", X=ROWS[:3], y=LABELS[:3])
    nodes[3]["data"] = str(tmp_path / "few.npz")
    _, outcome = federate(Loop(nodes), plan(tmp_path))
    assert "TooFewClients" in outcome["refused"]["west"]
    with pytest.raises(TooFewClients, match=r"4 nodes are connected.*9 are needed"):
        federate(Loop(nodes), plan(tmp_path, minimum_clients=9))
    with pytest.raises(TooFewClients, match=r"3 clients are in the sum, 4 .*west: TooFewClients"):
        federate(Loop(nodes), plan(tmp_path, minimum_clients=4))


def test_the_strategy_gives_the_same_head_and_a_second_round_asks_newcomers_only(nodes, tmp_path):
    made = AFLStrategy(plan(tmp_path))
    loop = Loop(nodes[:3])
    result = made.start(loop, ArrayRecord(), num_rounds=1, timeout=1)
    done, outcome = federate(Loop(nodes[:3]), plan(tmp_path, out=str(tmp_path / "plain")))
    assert np.array_equal(result.arrays["weight"].numpy(), done.head.weight.numpy())
    assert dict(result.train_metrics_clientapp[1]) == {"clients": 3, "rows": outcome["rows"]}
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == outcome["accuracy"]
    loop = Loop(nodes)
    messages_of_two = list(made.configure_train(2, ArrayRecord(), ConfigRecord(), loop))
    assert [m.metadata.dst_node_id for m in messages_of_two] == [4]


def test_the_strategy_sums_under_masks_too(nodes, tmp_path):
    made = AFLStrategy(plan(tmp_path, **MASKED))
    result = made.start(Loop(nodes), ArrayRecord(), num_rounds=1, timeout=1)
    classes, weight = pooled(nodes, clip=70.0)
    order = [made.round.head.classes.index(c) for c in classes.tolist()]
    assert np.abs(result.arrays["weight"].numpy()[:, order] - weight).max() < 1e-10


def test_nodes_share_one_data_set_in_a_simulation(tmp_path):
    shared = [{"partition-id": i, "num-partitions": 5} for i in range(5)]
    changes = {"data": "digits", "split": "dirichlet", "alpha": 0.5, "minimum_rows": 1}
    done, outcome = federate(Loop(shared), plan(tmp_path, **changes))
    assert outcome["joined"] == [f"node-000{i}" for i in range(5)]
    own = AFLClassifier(gamma=1.0).fit(ROWS, LABELS)
    assert off(done.head, (own.classes_, own.coef_.T)) < 1e-10


def test_false_counts_are_not_counted(nodes, tmp_path):
    def too_good(content):
        return RecordDict({messages.ANSWER: MetricRecord({"correct": 9, "rows": 3, "held-out": 0})})

    _, outcome = federate(
        Loop(nodes, change=lying("west", messages.HEAD, too_good)), plan(tmp_path)
    )
    assert outcome["accuracy_rows"] == outcome["rows"] - len(np.load(nodes[3]["data"])["y"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": "much"},
        {"gamma": True},
        {"dtype": "float16"},
        {"split": "odd"},
        {"clip": "big"},
        {"timeout": 0},
        {"wait": -1.0},
        {"epsilon": -1.0},
        {"epsilon": 1.0},
        {"masked": True},
        {"masked": True, "clip": 1.0, "classes": "a"},
        {"masked": True, "clip": 1.0, "classes": "a", "most-rows": 5, "per-class": True},
        {"minimum-clients": 0},
        {"round": -1},
        {"round": 1.5},
        {"class-weight": "odd"},
    ],
)
def test_a_plan_refuses_what_it_cannot_do(wrong):
    with pytest.raises(InvalidSetting):
        Plan.from_config(wrong)


def test_a_plan_survives_the_run_configuration():
    made = Plan(gamma="gcv", **MASKED)
    assert Plan.from_config(made.to_config()) == made
    assert Plan.from_config({"gamma": 3, "clip": 2, "other": "x"}) == Plan(gamma="3", clip=2.0)
    assert Plan(classes="0, 1,-2").labels() == [0, 1, -2]
    assert Plan(classes="cat,2").labels() == ["cat", "2"]


def test_a_damaged_head_or_record_is_refused(nodes, tmp_path):
    done, _ = federate(Loop(nodes), plan(tmp_path))
    arrays, facts = messages.head_arrays(done.head), messages.head_facts(done.head)
    same = messages.head_of(arrays, facts)
    assert (same.weight == done.head.weight).all()
    assert same.classes == done.head.classes
    for spoiled in (
        (ArrayRecord(), facts),
        (arrays, {}),
        (arrays, facts | {"classes": [1]}),
        (ArrayRecord({"weight": Array(np.zeros(3)), "intercept": arrays["intercept"]}), facts),
    ):
        with pytest.raises(RejectedUpload):
            messages.head_of(*spoiled)
    with pytest.raises(RejectedUpload, match="damaged"):
        messages.facts_of(RecordDict({messages.ANSWER: ConfigRecord({"x": "{"})}))
