import math

import numpy as np
import pytest

from afl import wire
from afl.claims import claim_of, composed_claim, joint_claim, read_claim
from afl.client_stats import ClientStats
from afl.errors import RejectedUpload, TooFewClients
from afl.federation import Federation
from afl.noisy_stats import release
from lipogram.analytic.datasets import digits
from lipogram.gaussian_mechanism import epsilon_of, mu_of, noise_std

X, Y = digits()
STATS = ClientStats.compute(X[:400], Y[:400], clip=1.0)
ASKED = {"delta": 1e-5, "classes": range(10)}
SIGMA = noise_std(1.0, 1e-5, math.sqrt(3.0))
ROW = claim_of("row", 1.0, 1e-5, SIGMA)
CLIENT = claim_of("client", 1.0, 1e-5, noise_std(1.0, 1e-5, 50.0), bound=50.0)


@pytest.mark.parametrize("claim", [ROW, CLIENT, ROW | {"shares": 3}, CLIENT | {"shares": 3}])
def test_a_true_claim_travels(claim):
    stats = ClientStats.compute(X[:400], Y[:400], clip=1.0)
    stats.noise = dict(claim)
    assert wire.from_bytes(wire.to_bytes(stats)).stats.noise == claim
    assert read_claim(None, None) is None


@pytest.mark.parametrize(
    "claim",
    [
        ROW | {"sigma": 0.99 * SIGMA},  # not worth the ε
        ROW | {"epsilon": 0.99},
        ROW | {"delta": 0.9e-5},
        ROW | {"delta": 1.0},
        ROW | {"bound": 5.0},
        ROW | {"shares": 0},
        ROW | {"shares": 2.5},
        ROW | {"shares": True},
        ROW | {"sigma": math.inf},
        ROW | {"epsilon": "1"},
        ROW | {"unit": ["row"]},
        {k: v for k, v in CLIENT.items() if k != "bound"},
        CLIENT | {"bound": 51.0},
        CLIENT | {"unit": "row"},
        CLIENT | {"bound": -50.0},
        [1, 2, 3, 4],
    ],
)
def test_a_claim_that_cannot_be_true_is_refused(claim):
    with pytest.raises(RejectedUpload):
        read_claim(claim, 1.0)


def test_a_claim_without_a_clip_is_refused():
    with pytest.raises(RejectedUpload):
        read_claim(ROW, None)
    with pytest.raises(RejectedUpload, match="σ"):
        read_claim(ROW, 1.01)  # larger rows need more noise


def test_the_weakest_part_speaks_for_the_sum_and_units_do_not_mix():
    weak = claim_of("row", 3.0, 1e-6, 1.0, shares=4)
    joint = joint_claim([ROW, weak, ROW | {"shares": 2}])
    assert joint["epsilon"] == 3.0
    assert joint["delta"] == 1e-5
    assert joint["sigma"] == pytest.approx(math.sqrt(2 * SIGMA**2 + 1))
    assert joint["shares"] == 4
    assert joint_claim([ROW, CLIENT]) is None
    assert joint_claim([ROW, None]) is None
    assert joint_claim([]) is None
    assert joint_claim([CLIENT, CLIENT | {"bound": 70.0}])["bound"] == 70.0
    read_claim(joint, 1.0)


def test_a_client_pays_for_all_that_it_sends():
    twice = composed_claim([CLIENT, CLIENT])
    assert twice["epsilon"] == pytest.approx(epsilon_of(math.sqrt(2) * mu_of(1.0, 1e-5), 1e-5))
    assert composed_claim([CLIENT]) == CLIENT
    assert composed_claim([CLIENT, ROW]) is None
    assert composed_claim([CLIENT | {"epsilon": 1e12}] * 2) is None  # beyond what is accounted for


def federation_of(*stats, rounds=None):
    federation = Federation()
    for number, each in enumerate(stats):
        name, round = (f"c{number}", 0) if rounds is None else ("c", number)
        federation.add(name, each, round=round)
    return federation


def noisy(seed, epsilon=1.0, **settings):
    return release(STATS, epsilon=epsilon, seed=seed, **ASKED, **settings)


def test_a_total_claims_what_all_of_its_parts_do(tmp_path):
    federation = federation_of(noisy(0), noisy(1, epsilon=2.0))
    assert federation.total().noise["epsilon"] == 2.0
    again = Federation.load(federation.save(tmp_path / "sum.st"))
    assert again.total().noise == federation.total().noise
    sent = wire.from_bytes(wire.to_bytes(federation.total(), client="region"))
    assert sent.stats.noise["epsilon"] == 2.0  # a sum of sums tells it on
    again.remove("c1", noisy(1, epsilon=2.0))
    assert again.total().noise["epsilon"] == 1.0
    again.add("exact", STATS)
    assert again.total().noise is None
    again.remove("exact", STATS)
    assert again.total().noise["epsilon"] == 1.0
    again.add("hidden", noisy(3, unit="client", bound=90.0))
    assert again.total().noise is None


def test_rounds_of_one_client_compose_for_the_client_and_not_for_its_rows():
    hidden = [noisy(seed, unit="client", bound=90.0) for seed in (0, 1)]
    apart, together = federation_of(*hidden), federation_of(*hidden, rounds=True)
    assert apart.total().noise["epsilon"] == 1.0
    assert together.total().noise["epsilon"] == composed_claim([h.noise for h in hidden])["epsilon"]
    assert federation_of(noisy(0), noisy(1), rounds=True).total().noise["epsilon"] == 1.0


def test_when_the_noisy_ones_left_the_head_is_that_of_never_having_had_them():
    federation = federation_of(STATS, noisy(0))
    assert not np.array_equal(federation.solve(1.0).weight, federation_of(STATS).solve(1.0).weight)
    federation.remove("c1", noisy(0))
    assert np.array_equal(federation.solve(1.0).weight, federation_of(STATS).solve(1.0).weight)


def test_shared_noise_needs_its_clients_to_be_named():
    shared = noisy(0)
    shared.noise = shared.noise | {"shares": 4}
    federation = Federation()
    for members in ([], ["a", "b", "c"], ["a", "b", "c", "c"]):
        with pytest.raises(TooFewClients, match=r"4 clients share, [03] are named"):
            federation.add("cohort", shared, members=members)
    federation.add("cohort", shared, members=["a", "b", "c", "d"])
    assert federation.total().noise["shares"] == 4


def test_a_private_head_of_noisy_sums_is_not_refused():
    federation = federation_of(noisy(0), noisy(1))
    federation.solve_private(epsilon=1.0, **ASKED)
    assert federation.spent.epsilon(1e-5) == pytest.approx(1.0)
