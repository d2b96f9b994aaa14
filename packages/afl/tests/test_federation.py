import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afl import wire
from afl.client_stats import ClientStats
from afl.errors import ReplayedUpload, RevealsOneClient, TooFewClients
from afl.federation import Federation
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import (
    CorruptState,
    IllConditioned,
    IncompatibleFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
)

rng = np.random.default_rng(0)
D, K, N = 24, 6, 2000
Y = rng.integers(0, K, N)
X = rng.standard_normal((N, D)) + rng.standard_normal((K, D))[Y]
ONEHOT = np.eye(K)[Y]


def joint(gamma):
    return np.linalg.solve(X.T @ X + gamma * np.eye(D), X.T @ ONEHOT)


def off(weight, oracle):
    return np.abs(weight.numpy() - oracle).max() / np.abs(oracle).max()


def parts(cuts):
    return np.split(np.arange(N), sorted(cuts))


def federated(pieces, **settings):
    federation = Federation(minimum_rows=1, **settings)
    for number, rows in enumerate(pieces):
        federation.add(f"client {number}", ClientStats.compute(X[rows], Y[rows]))
    return federation


@settings(max_examples=20)
@given(st.integers(1, 1000), st.integers(0, 2**32 - 1))
def test_any_partition_gives_the_pooled_head(clients, seed):
    random = np.random.default_rng(seed)
    owner = random.integers(0, clients, N) if seed % 3 else np.sort(random.integers(0, clients, N))
    pieces = [np.flatnonzero(owner == client) for client in range(clients)]  # some are empty
    assert off(federated(pieces).solve(0.1).weight, joint(0.1)) < 1e-12


def test_order_does_not_change_a_bit():
    sent = [ClientStats.compute(X[p], Y[p]) for p in parts([100, 700, 1500])]
    totals = set()
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        federation = Federation()
        for number in order:
            federation.add(str(number), sent[number])
        totals.add((federation.digest, federation.solve(1.0).weight.numpy().tobytes()))
    assert len(totals) == 1


def test_a_thousand_joins_and_leaves_end_at_the_same_integers():
    pieces = [ClientStats.compute(X[p], Y[p]) for p in parts(range(100, N, 100))]
    federation, random = Federation(), np.random.default_rng(1)
    rounds, inside = dict.fromkeys(range(20), -1), set()
    for _ in range(1000):
        who = int(random.integers(20))
        if who in inside:
            federation.remove(str(who), pieces[who])
            inside.discard(who)
        else:
            rounds[who] += 1
            federation.add(str(who), pieces[who], round=rounds[who])
            inside.add(who)
    plain = Federation()
    for who in sorted(inside):
        plain.add(str(who), pieces[who])
    assert federation.digest == plain.digest
    assert torch.equal(federation.solve(1.0).weight, plain.solve(1.0).weight)
    federation.ledger.verify()


def test_leaving_equals_never_having_been_there():
    pieces = parts([300, 900])
    federation = federated(pieces)
    federation.remove("client 1", ClientStats.compute(X[pieces[1]], Y[pieces[1]]))
    never = Federation()
    for number in (0, 2):
        never.add(f"client {number}", ClientStats.compute(X[pieces[number]], Y[pieces[number]]))
    assert federation.digest == never.digest
    assert federation.clients == ["client 0", "client 2"]


def test_few_rows_at_every_client_and_no_ridge():
    pieces = np.split(np.arange(N), range(5, N, 5))  # 5 rows each, 24 features
    head = federated(pieces).solve(0)
    assert off(head.weight, np.linalg.lstsq(X, ONEHOT, rcond=None)[0]) < 1e-10
    assert head.rank == D


def test_a_singular_sum_gives_the_least_norm_solution_and_its_rank():
    flat = np.hstack([X[:, :10], X[:, :10]])
    federation = Federation()
    federation.add("a", ClientStats.compute(flat[:800], Y[:800]))
    federation.add("b", ClientStats.compute(flat[800:], Y[800:]))
    with pytest.warns(IllConditioned, match="10 of 20"):
        head = federation.solve(0)
    assert head.rank == 10
    assert off(head.weight, np.linalg.lstsq(flat, ONEHOT, rcond=None)[0]) < 1e-9


def test_the_path_is_one_solve_a_gamma():
    federation = federated(parts([500]))
    for gamma, head in zip([0.01, 1, 100], federation.path([0.01, 1, 100]), strict=True):
        assert off(head.weight, joint(gamma)) < 1e-10
        assert head.gamma == gamma
    centred = federation.path([1.0], fit_intercept=True)[0]
    direct = federation.solve(1.0, fit_intercept=True)
    assert torch.allclose(centred.weight, direct.weight, rtol=1e-9, atol=1e-12)
    assert torch.allclose(centred.intercept, direct.intercept, rtol=1e-9, atol=1e-12)
    with pytest.raises(InvalidSetting, match="gamma"):
        federation.path([0.0])


def test_intercept_and_class_weights_come_from_the_sums():
    from sklearn.linear_model import Ridge

    federation = Federation()
    for number, rows in enumerate(parts([100, 1200])):
        federation.add(str(number), ClientStats.compute(X[rows], Y[rows], per_class=True))
    head = federation.solve(2.0, fit_intercept=True, class_weight="balanced")
    weight = (N / (K * np.bincount(Y)))[Y]
    oracle = Ridge(2.0, solver="svd").fit(X, ONEHOT, sample_weight=weight)
    assert off(head.weight, oracle.coef_.T) < 1e-9
    assert np.allclose(head.intercept, oracle.intercept_)
    ones = federation.solve(2.0, class_weight=dict.fromkeys(range(K), 1.0))
    assert off(ones.weight, joint(2.0)) < 1e-10
    with pytest.raises(InvalidSetting, match="class 5"):
        federation.solve(2.0, class_weight=dict.fromkeys(range(5), 1.0))
    with pytest.raises(InvalidSetting, match="per_class"):
        federated(parts([9])).solve(2.0, class_weight="balanced")


def test_gcv_picks_a_gamma_from_the_sums():
    head = federated(parts([700])).solve("gcv")
    assert 0 < head.gamma < 1e4
    assert head.accuracy(X, Y) > 0.9
    with pytest.raises(InvalidSetting, match="cv"):
        federated(parts([700])).solve("cv")


def test_classes_are_united_by_name():
    federation = Federation()
    federation.add("a", ClientStats.compute(X[Y == 4], Y[Y == 4]))
    federation.add("b", ClientStats.compute(X[Y == 1], Y[Y == 1]))
    assert federation.total().classes == [1, 4]
    before = federation.digest
    with pytest.raises(InvalidLabels):
        federation.add("c", ClientStats.compute(X[:30], ["x"] * 30))
    assert federation.digest == before
    assert "c" not in federation.clients


def test_another_backbone_is_refused_by_name():
    federation = Federation()
    federation.add("a", ClientStats.compute(X, Y, space="91bc" * 16))
    for other in (
        ClientStats.compute(X, Y, space="3fa2" * 16),
        ClientStats.compute(X[:, :9], Y, space="91bc" * 16),
    ):
        with pytest.raises(IncompatibleFeatures, match="client 'seven'"):
            federation.add("seven", other)
    assert federation.clients == ["a"]


def test_few_rows_are_refused_unless_randomised():
    federation = Federation()
    federation.add("empty", ClientStats.compute(X[:0], Y[:0]).declare([0]))
    with pytest.raises(TooFewClients, match="1 rows, at least 20"):
        federation.add("one", ClientStats.compute(X[:1], Y[:1]))
    randomised = ClientStats.compute(X[:1], Y[:1])
    randomised.noise = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}
    federation.add("one", randomised)


def test_replays_and_duplicates_are_refused():
    federation = federated([np.arange(100)])
    sent, before = ClientStats.compute(X[:100], Y[:100]), federation.digest
    more = ClientStats.compute(X[100:200], Y[100:200])
    for client, stats, number in (
        ("client 0", sent, 0),  # the same message again
        ("client 0", more, 0),  # a round that is over
        ("thief", sent, 0),  # somebody else's
    ):
        with pytest.raises(ReplayedUpload):
            federation.add(client, stats, round=number)
    assert federation.digest == before
    federation.add("client 0", more, round=1)
    federation.remove("client 0", sent)
    with pytest.raises(ReplayedUpload, match="round 0 is over"):
        federation.add("client 0", sent, round=0)  # deleted data do not come back by replay
    federation.add("client 0", sent, round=2)


def test_only_what_was_added_leaves():
    federation = federated([np.arange(100), np.arange(100, 200)])
    before = federation.digest
    for client, rows in (("client 0", 99), ("nobody", 100)):
        with pytest.raises(NotSeen):
            federation.remove(client, ClientStats.compute(X[:rows], Y[:rows]))
    assert federation.digest == before


def test_a_head_waits_for_enough_clients():
    federation = federated([np.arange(100)], minimum_clients=2)
    with pytest.raises(TooFewClients, match="1 clients are in the sum, 2"):
        federation.solve(1.0)
    with pytest.raises(TooFewClients):
        Federation().solve(1.0)


def test_masked_cohorts_never_show_one_client():
    whole, one = ClientStats.compute(X[:900], Y[:900]), ClientStats.compute(X[900:], Y[900:])
    federation = Federation()
    with pytest.raises(TooFewClients, match="2 members"):
        federation.add("cohort", whole, members=["a", "b"])
    federation.add("cohort", whole, members=["a", "b", "c"])
    federation.solve(1.0)
    with pytest.raises(RevealsOneClient, match="'b'"):
        federation.remove("b", whole)
    with pytest.raises(ReplayedUpload, match="masked cohort"):
        federation.add("b", one)
    federation.add("d", one)
    with pytest.raises(RevealsOneClient, match="1 clients"):
        federation.solve(1.0)
    federation.add("e", ClientStats.compute(X[:400], Y[:400]))
    federation.add("f", ClientStats.compute(X[:500], Y[:500]))
    federation.solve(1.0)
    federation.remove("cohort", whole)
    assert federation.clients == ["d", "e", "f"]


def test_coarse_uploads_of_an_ill_conditioned_system_are_pointed_out():
    close = np.hstack([X, X[:, :1] + 1e-4 * rng.standard_normal((N, 1))])
    sent = wire.from_bytes(wire.to_bytes(ClientStats.compute(close, Y), dtype="bfloat16"))
    federation = Federation()
    federation.add("a", sent.stats)
    with pytest.warns(IllConditioned, match="bfloat16"):
        federation.solve(10.0)


def test_a_saved_federation_goes_on(tmp_path):
    pieces = parts([300, 900])
    whole, first = federated(pieces), federated(pieces[:2])
    first.save(tmp_path / "sum.st")
    again = Federation.load(tmp_path / "sum.st")
    assert again.digest == first.digest
    again.add("client 2", ClientStats.compute(X[pieces[2]], Y[pieces[2]]))
    assert again.digest == whole.digest
    assert again.ledger.describe() == whole.ledger.describe()
    with pytest.raises(TooFewClients):
        Federation().save(tmp_path / "none.st")


@pytest.mark.parametrize("what", ["sum", "ledger", "entry", "rows"])
def test_a_file_that_was_changed_is_refused(tmp_path, what):
    path = federated(parts([300, 900])).save(tmp_path / "sum.st")
    tensors, described = read_state(path)
    match what:
        case "sum":
            tensors["gram/fraction"][0] += 1
        case "ledger":
            described["ledger"].pop()
        case "entry":
            described["ledger"][0]["client"] = "somebody"
        case "rows":
            described["total"]["rows"][0] += 1
    write_state(path, tensors, described)
    with pytest.raises(CorruptState, match=r"sum\.st"):
        Federation.load(path)


def test_a_class_that_leaves_with_its_client_leaves_no_trace():
    rare, rest = ClientStats.compute(X[Y == 5], Y[Y == 5]), ClientStats.compute(X[Y < 5], Y[Y < 5])
    federation, never = Federation(), Federation()
    never.add("rest", rest)
    federation.add("rare", rare)
    federation.add("rest", rest)
    federation.remove("rare", rare)
    assert federation.digest == never.digest
    assert federation.solve(1.0).classes == never.solve(1.0).classes == tuple(range(5))
    assert (federation.solve(1.0).predict(X) == never.solve(1.0).predict(X)).all()


def test_private_heads_hide_rows_and_add_up_their_cost(tmp_path):
    federation = Federation()
    federation.add("a", ClientStats.compute(X, Y, clip=1.0))
    exact = federation.solve(1.0).accuracy(X, Y)
    heads = [
        federation.solve_private(epsilon=1.0, delta=1e-5, classes=range(K), seed=seed)
        for seed in (0, 1)
    ]
    assert not torch.equal(heads[0].weight, heads[1].weight)
    assert exact - 0.4 < heads[0].accuracy(X, Y) < exact + 0.01
    assert 1.4 < federation.spent.epsilon(1e-5) < 2.0
    again = Federation.load(federation.save(tmp_path / "sum.st"))
    assert again.spent == federation.spent
    with pytest.raises(InvalidSetting, match="clip"):
        federated(parts([700])).solve_private(epsilon=1.0, delta=1e-5, classes=range(K))
