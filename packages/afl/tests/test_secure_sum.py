import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from afl.client_stats import ClientStats
from afl.cohort import (
    Advert,
    Session,
    default_session,
    default_threshold,
    neighbourhoods,
    plan_neighbours,
)
from afl.errors import BelowThreshold, RejectedUpload, ReplayedUpload, TooFewClients
from afl.federation import Federation
from afl.fixed_point import FixedPoint, StatsLayout
from afl.secure_client import SecureSumClient
from afl.secure_server import SecureSumServer
from afl.secure_sum import secure_sum
from afl.shamir import combine, split
from lipogram.errors import CorruptState, IncompatibleFeatures, InvalidFeatures, InvalidSetting

rng = np.random.default_rng(0)


def vectors(clients, size=50):
    numbers = rng.integers(0, 2**64, (clients, size), dtype=np.uint64)
    return {f"c{i}": numbers[i] for i in range(clients)}


def plain(held, names):
    return np.sum([held[name] for name in names], axis=0, dtype=np.uint64)


@settings(max_examples=40)
@given(st.integers(3, 9), st.data())
def test_the_sum_is_the_plain_one_whoever_drops_out(clients, data):
    held = vectors(clients)
    most = min(clients - default_threshold(clients), clients - 3)  # three at least stay
    gone = data.draw(st.sets(st.sampled_from(sorted(held)), max_size=most))
    total, left = secure_sum(held, dropped=gone)
    assert left == sorted(set(held) - gone)
    assert np.array_equal(total, plain(held, left))


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_drop_outs_up_to_the_threshold_are_recovered_and_no_more(gone):
    held = vectors(10)
    names = sorted(held)[:gone]
    total, left = secure_sum(held, threshold=7, dropped=names)
    assert np.array_equal(total, plain(held, left))
    with pytest.raises(BelowThreshold, match=r"6 vectors arrived near .*, 7 are needed"):
        secure_sum(held, threshold=7, dropped=sorted(held)[:4])


def test_one_masked_vector_looks_like_noise():
    zeros = {f"c{i}": np.zeros(20_000, dtype=np.uint64) for i in range(3)}
    session = Session("s", 20_000, 3)
    clients = {name: SecureSumClient(name, session) for name in zeros}
    roster = {name: client.advertise() for name, client in clients.items()}
    dealt = {name: client.deal(roster) for name, client in clients.items()}
    sent = clients["c0"].mask(zeros["c0"], {n: dealt[n]["c0"] for n in ("c1", "c2")})
    counts = np.bincount(np.frombuffer(sent.tobytes(), dtype=np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6
    assert chisquare(np.bincount(np.zeros(160_000, dtype=int), minlength=256)).pvalue < 1e-6


def stage(upto, clients=4):
    """A session of four clients, led to a stage."""
    session = Session("s", 5, 3)
    server = SecureSumServer(session)
    members = {f"c{i}": SecureSumClient(f"c{i}", session) for i in range(clients)}
    for name, client in members.items():
        server.register(name, client.advertise())
    if upto >= 2:
        for name, client in members.items():
            server.deliver(name, client.deal(server.roster()))
    if upto >= 3:
        for name, client in members.items():
            ones = np.ones(5, dtype=np.uint64)
            server.collect(name, client.mask(ones, server.mailbox(name)))
    return server, members


def test_a_client_opens_one_kind_of_share_once():
    server, members = stage(3)
    shares = members["c0"].open(["c0", "c1", "c2"])
    assert set(shares) == set(members)
    with pytest.raises(ReplayedUpload, match="never does again"):
        members["c0"].open(["c0", "c1", "c2", "c3"])
    with pytest.raises(BelowThreshold):
        members["c1"].open(["c1", "c2"])
    with pytest.raises(RejectedUpload, match="'x'"):
        members["c1"].open(["c1", "c2", "x"])
    for name in ("c1", "c2"):
        server.receive(name, members[name].open(server.survivors()))
    with pytest.raises(BelowThreshold, match="2 clients sent shares"):
        server.result()


def test_a_client_masks_one_vector_and_deals_once():
    server, members = stage(3)
    with pytest.raises(ReplayedUpload, match="vector"):
        members["c0"].mask(np.zeros(5, dtype=np.uint64), server.mailbox("c0"))
    with pytest.raises(ReplayedUpload, match="dealt"):
        members["c0"].deal(server.roster())


def test_the_server_refuses_what_does_not_belong_there():
    server, members = stage(2)
    good = np.zeros(5, dtype=np.uint64)
    bad = [
        (lambda: server.collect("stranger", good), RejectedUpload),
        (lambda: server.collect("c0", good[:4]), RejectedUpload),
        (lambda: server.collect("c0", good.astype(float)), RejectedUpload),
        (lambda: server.deliver("c0", {}), ReplayedUpload),
        (lambda: server.register("c0", members["c0"].advertise()), ReplayedUpload),
        (lambda: server.register("late", members["c0"].advertise()), RejectedUpload),
        (lambda: server.mailbox("stranger"), RejectedUpload),
        (lambda: server.receive("c0", {}), RejectedUpload),
    ]
    for call, error in bad:
        with pytest.raises(error):
            call()
    assert not server.vectors
    assert len(server.adverts) == 4
    fresh = SecureSumServer(Session("s", 5, 3))
    with pytest.raises(RejectedUpload, match="length"):
        fresh.register("c0", Advert(b"", b"x" * 32))


def test_what_a_client_was_told_closes_the_stage_before():
    """Else clients mask against different lists, and the sum is silently wrong."""
    session = Session("s", 5, 3)
    server, ones = SecureSumServer(session), np.ones(5, dtype=np.uint64)
    members = {f"c{i}": SecureSumClient(f"c{i}", session) for i in range(5)}
    for name in list(members)[:4]:
        server.register(name, members[name].advertise())
    roster = server.roster()
    with pytest.raises(RejectedUpload, match="keys is closed"):
        server.register("c4", members["c4"].advertise())
    dealt = {name: members[name].deal(roster) for name in roster}
    with pytest.raises(RejectedUpload, match="size"):
        server.deliver("c0", dealt["c0"] | {"c1": bytes(10**6)})
    for name in ("c0", "c1", "c2"):
        server.deliver(name, dealt[name])
    server.mailbox("c0")
    with pytest.raises(RejectedUpload, match="parcels is closed"):
        server.deliver("c3", dealt["c3"])
    vectors = {n: members[n].mask(ones, server.mailbox(n)) for n in ("c0", "c1", "c2")}
    for name in ("c0", "c1"):
        server.collect(name, vectors[name])
    with pytest.raises(BelowThreshold):
        server.survivors()
    server.collect("c2", vectors["c2"])  # a refused list closes nothing
    left = server.survivors()
    for name in left:
        server.receive(name, members[name].open(left))
    assert server.result().tolist() == [3] * 5


def test_a_vector_after_the_list_of_survivors_is_too_late():
    server, members = stage(2, clients=5)
    ones = np.ones(5, dtype=np.uint64)
    masked = {name: client.mask(ones, server.mailbox(name)) for name, client in members.items()}
    for name in ("c0", "c1", "c2"):
        server.collect(name, masked[name])
    left = server.survivors()
    with pytest.raises(RejectedUpload, match="vectors is closed"):
        server.collect("c3", masked["c3"])
    for name in left:
        server.receive(name, members[name].open(left))
    assert server.result().tolist() == [3] * 5


def test_a_client_looks_at_the_cohort_itself():
    lonely = Session("s", 5, 2)
    pair = [SecureSumClient(name, lonely) for name in ("a", "b")]
    with pytest.raises(TooFewClients, match="at least 3"):
        pair[0].deal({client.name: client.advertise() for client in pair})


def test_a_false_key_for_masks_is_noticed_before_anything_is_dealt():
    session = Session("s", 5, 2)
    honest = [SecureSumClient(name, session) for name in ("a", "b", "c")]
    roster = {client.name: client.advertise() for client in honest}
    with pytest.raises(RejectedUpload, match="public key"):
        honest[0].deal(roster | {"b": Advert(roster["b"].channel, bytes(32))})
    assert set(honest[0].deal(roster)) == {"b", "c"}  # the refused call left it as it was


def test_a_changed_parcel_is_noticed():
    server, members = stage(2)
    mail = server.mailbox("c0")
    mail["c1"] = mail["c1"][:-1] + bytes([mail["c1"][-1] ^ 1])
    with pytest.raises(RejectedUpload, match="changed"):
        members["c0"].mask(np.zeros(5, dtype=np.uint64), mail)
    with pytest.raises(RejectedUpload, match="changed"):  # another's parcel under this name
        members["c0"].mask(
            np.zeros(5, dtype=np.uint64), server.mailbox("c0") | {"c1": server.mailbox("c0")["c2"]}
        )
    with pytest.raises(BelowThreshold):
        members["c0"].mask(np.zeros(5, dtype=np.uint64), {})


def test_a_roster_with_false_keys_is_refused():
    session = Session("s", 5, 2)
    honest = [SecureSumClient(name, session) for name in ("a", "b", "c")]
    roster = {client.name: client.advertise() for client in honest}
    with pytest.raises(RejectedUpload, match="its own"):
        honest[0].deal(roster | {"a": roster["b"]})
    with pytest.raises(RejectedUpload, match="one key"):
        honest[0].deal(roster | {"b": roster["c"]})
    with pytest.raises(RejectedUpload, match="public key"):
        honest[0].deal(roster | {"b": Advert(bytes(32), b"x" * 32)})


def test_small_cohorts_and_small_thresholds_are_refused():
    with pytest.raises(TooFewClients, match="2 clients"):
        secure_sum(vectors(2))
    with pytest.raises(TooFewClients, match="threshold is 6"):
        secure_sum(vectors(5), threshold=6)
    with pytest.raises(InvalidSetting, match="more than half"):
        secure_sum(vectors(6), threshold=3)
    with pytest.raises(TooFewClients):
        secure_sum({})


def test_secrets_are_not_shown():
    client = SecureSumClient("a", Session("s", 5, 2))
    assert repr(client) == "SecureSumClient('a')"
    server, _ = stage(3)
    assert "vectors" not in repr(server)


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.data())
def test_any_t_shares_open_the_secret(secret, threshold, data):
    shares = split(secret, threshold, 8)
    places = data.draw(st.sets(st.integers(1, 8), min_size=threshold))
    assert combine({x: shares[x - 1] for x in places}, threshold) == secret
    few = {x: shares[x - 1] for x in list(places)[: threshold - 1]}
    with pytest.raises(BelowThreshold):
        combine(few, threshold)
    with pytest.raises(InvalidSetting, match="31 bytes"):
        split(secret[:31], threshold, 8)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30),
    st.floats(1e4, 1e9),
    st.integers(30, 99),
)
def test_a_decoded_sum_is_off_by_half_a_step_a_client_at_most(values, bound, clients):
    code = FixedPoint(bound=bound, clients=clients)
    total = np.sum([code.encode(np.array([v])) for v in values], axis=0, dtype=np.uint64)
    exact = float(np.sum(np.array(values, dtype=np.longdouble)))
    limit = np.ldexp(len(values) / 2, -code.scale_bits) + 2.0**-52 * abs(exact)
    assert abs(code.decode(total)[0] - exact) <= limit
    assert bound * clients * 2.0**code.scale_bits <= 2.0**62


@pytest.mark.parametrize("bad", [np.nan, np.inf, 10.1, -10.1])
def test_nothing_is_cut_off_silently(bad):
    with pytest.raises(InvalidFeatures, match="number 1"):
        FixedPoint(bound=10.0, clients=3).encode(np.array([1.0, bad]))
    with pytest.raises(InvalidSetting, match="2\\^62"):
        FixedPoint(bound=2.0**60, clients=5)


def test_masked_silos_give_the_pooled_head():
    X, y = rng.standard_normal((300, 12)), rng.integers(0, 4, 300)
    layout = StatsLayout(
        n_features=12, classes=range(4), clip=2.0, most_rows=100, clients=6, space="s"
    )
    parts = np.array_split(np.argsort(y), 6)
    made = {
        f"silo {i}": ClientStats.compute(X[p], y[p], clip=2.0, space="s")
        for i, p in enumerate(parts)
    }
    total, left = secure_sum({n: layout.encode(s) for n, s in made.items()}, dropped=["silo 2"])
    federation = Federation()
    federation.add("cohort", layout.decode(total), members=left)
    kept = np.concatenate([p for i, p in enumerate(parts) if i != 2])
    pooled = ClientStats.compute(X[kept], y[kept], clip=2.0, space="s")
    weight = federation.solve(1.0).weight
    order = [pooled.classes.index(c) for c in range(4)]
    oracle = pooled.solve(1.0).weight[:, order]
    assert float((weight - oracle).abs().max()) < 1e-13
    assert federation.n_rows == len(kept)


def test_a_layout_refuses_what_was_not_agreed():
    X, y = rng.standard_normal((50, 3)), rng.integers(0, 4, 50)
    layout = StatsLayout(n_features=3, classes=range(3), clip=1.0, most_rows=40, clients=5)
    with pytest.raises(IncompatibleFeatures, match="class 3"):
        layout.encode(ClientStats.compute(X, y, clip=1.0))
    with pytest.raises(IncompatibleFeatures, match="clip"):
        layout.encode(ClientStats.compute(X, y % 3, clip=2.0))
    randomised = ClientStats.compute(X[:9], y[:9] % 3, clip=1.0)
    randomised.noise = {"unit": "row", "epsilon": 1.0, "delta": 1e-5, "sigma": 1.0}
    with pytest.raises(InvalidFeatures, match="randomised"):
        layout.encode(randomised)
    with pytest.raises(InvalidFeatures, match="50 rows"):
        layout.encode(ClientStats.compute(X, y % 3, clip=1.0))


def test_a_large_cohort_shares_masks_with_a_few_and_sums_the_same():
    held = vectors(140, size=7)
    agreed = default_session("s", 7, 140)
    assert agreed.neighbours is not None
    assert agreed.neighbours < 100
    gone = sorted(held)[:20]
    total, left = secure_sum(held, dropped=gone)
    assert left == sorted(set(held) - set(gone))
    assert np.array_equal(total, plain(held, left))


@settings(max_examples=25)
@given(st.integers(6, 14), st.sampled_from([2, 4]), st.data())
def test_a_sparse_graph_sums_exactly_or_opens_nothing(clients, neighbours, data):
    held = vectors(clients, size=3)
    gone = data.draw(st.sets(st.sampled_from(sorted(held)), max_size=3))
    threshold = neighbours // 2 + 1
    try:
        total, left = secure_sum(held, threshold=threshold, neighbours=neighbours, dropped=gone)
    except BelowThreshold:
        assert len(gone) >= 2
        return
    assert np.array_equal(total, plain(held, left))


def test_the_graph_is_mutual_and_the_same_for_both_sides():
    session = Session("s", 1, 3, neighbours=4)
    roster = {f"c{i}": SecureSumClient(f"c{i}", session).advertise() for i in range(11)}
    groups = neighbourhoods(session, roster)
    assert {len(group) for group in groups.values()} == {5}
    assert all(name in groups[peer] for name, group in groups.items() for peer in group)
    assert neighbourhoods(session, dict(reversed(roster.items()))) == groups
    other = neighbourhoods(Session("t", 1, 3, neighbours=4), roster)
    assert other != groups
    with pytest.raises(InvalidSetting, match="even"):
        Session("s", 1, 3, neighbours=3)


@pytest.mark.parametrize("clients", [101, 1000])
@pytest.mark.parametrize(("colluding", "dropping"), [(0.1, 0.2), (0.3, 0.0)])
def test_a_planned_graph_is_safe_and_finishes(clients, colluding, dropping):
    k, t = plan_neighbours(clients, colluding=colluding, dropping=dropping)
    assert 2 * t > k + 1
    members, corrupt = clients - 1, math.ceil(colluding * clients)
    gone = math.ceil(dropping * clients)

    def tail(good, k, places):
        return sum(math.comb(good, x) * math.comb(members - good, k - x) for x in places)

    def fails(k, t):
        """Exact, in integers."""
        few = clients * 2**40
        least = math.comb(members, k)
        too_few = tail(members - gone, k, range(t - 1))
        if gone:
            too_few = max(too_few, tail(clients - gone, k, range(t)))
        row = math.comb(clients - k // 2, corrupt + gone - k // 2)
        return (
            few * tail(corrupt, k, range(t, k + 1)) > least
            or few * too_few > least
            or few * row > math.comb(clients, corrupt + gone)
        )

    assert not fails(k, t)
    assert all(fails(k - 2, lower) for lower in range(k // 2, k))  # and no smaller one is
    with pytest.raises(InvalidSetting, match="above one half"):
        plan_neighbours(clients, dropping=0.5)


def test_a_client_opens_only_what_it_must():
    session = Session("s", 5, 4)
    server = SecureSumServer(session)
    members = {f"c{i}": SecureSumClient(f"c{i}", session) for i in range(6)}
    for name, client in members.items():
        server.register(name, client.advertise())
    roster = server.roster()
    dealt = {name: members[name].deal(roster) for name in list(members)[:5]}
    for name, parcels in dealt.items():
        with pytest.raises(RejectedUpload, match="do not fit"):
            server.deliver(name, {peer: parcels[peer] for peer in list(parcels)[1:]})
        server.deliver(name, parcels)
    for name in dealt:
        server.collect(name, members[name].mask(np.ones(5, np.uint64), server.mailbox(name)))
    client = members["c0"]
    with pytest.raises(BelowThreshold, match="3 clients are left"):
        client.open(["c0", "c1", "c2"])
    with pytest.raises(BelowThreshold):
        client.open(["c1", "c2", "c3", "c4"])  # it is not one of them
    with pytest.raises(RejectedUpload, match="'c5' is named"):
        client.open(["c0", "c1", "c2", "c3", "c5"])  # registered, but never dealt
    assert set(client.open(["c0", "c1", "c2", "c3"])) == set(dealt)


def test_drop_outs_while_masks_come_off():
    held = vectors(6, size=4)
    session = Session("s", 4, 4)
    server = SecureSumServer(session)
    members = {name: SecureSumClient(name, session) for name in held}
    for name, client in members.items():
        server.register(name, client.advertise())
    for name, client in members.items():
        server.deliver(name, client.deal(server.roster()))
    for name in sorted(held)[:5]:
        server.collect(name, members[name].mask(held[name], server.mailbox(name)))
    left = server.survivors()
    for name in left[:3]:
        server.receive(name, members[name].open(left))
    with pytest.raises(BelowThreshold, match="3 clients sent shares"):
        server.result()
    server.receive(left[3], members[left[3]].open(left))
    assert np.array_equal(server.result(), plain(held, left))  # the fifth never answered


def test_a_client_goes_on_after_its_process_ended_at_any_stage():
    session = Session("s", 4, 3)
    server = SecureSumServer(session)
    kept = {f"c{i}": SecureSumClient(f"c{i}", session).to_bytes() for i in range(4)}

    def resumed(name, act):
        client = SecureSumClient.from_bytes(kept[name])
        answer = act(client)
        kept[name] = client.to_bytes()
        return answer

    for name in kept:
        server.register(name, resumed(name, SecureSumClient.advertise))
    for name in kept:
        server.deliver(name, resumed(name, lambda c: c.deal(server.roster())))
    ones = np.ones(4, dtype=np.uint64)
    for name in ("c0", "c1", "c2"):
        mail = server.mailbox(name)
        server.collect(name, resumed(name, lambda c, mail=mail: c.mask(ones, mail)))
    left = server.survivors()
    for name in left:
        server.receive(name, resumed(name, lambda c: c.open(left)))
    assert server.result().tolist() == [3] * 4
    for call in (
        lambda c: c.open(left),
        lambda c: c.mask(ones, server.mailbox("c0")),
        lambda c: c.deal(server.roster()),
    ):
        with pytest.raises(ReplayedUpload):  # what was done stays done
            resumed("c0", call)
    for damaged in (b"", b"{}", b"[1]", kept["c0"][:-9], kept["c0"].replace(b"roster", b"rooster")):
        with pytest.raises(CorruptState):
            SecureSumClient.from_bytes(damaged)


def test_a_session_cannot_talk_a_client_into_a_cohort_of_one():
    session = Session("s", 4, 1, minimum_cohort=1)
    client = SecureSumClient("a", session)
    with pytest.raises(TooFewClients, match="at least 3"):
        client.deal({"a": client.advertise()})
