import numpy as np
import pytest
import torch

from afl import wire
from afl.budget import Budget
from afl.client_folds import leave_clients_out
from afl.client_stats import ClientStats
from afl.errors import BudgetSpent, ReplayedUpload, RevealsOneClient
from afl.federation import Federation
from afl.kept_statistics import kept_statistics
from lipogram.errors import NotSeen

rng = np.random.default_rng(0)
X = rng.standard_normal((300, 4))
Y = rng.integers(0, 3, 300)


def sent(client, start, stop, round=0, **settings):
    stats = ClientStats.compute(X[start:stop], Y[start:stop], **settings)
    return wire.from_bytes(wire.to_bytes(stats, client=client, round=round))


def merged(*messages, **terms):
    federation = Federation(**terms)
    for each in messages:
        federation.add(each.client, each.stats, round=each.round)
    return federation


def test_what_clients_added_comes_back_and_adds_up_to_the_sum():
    messages = [sent("a", 0, 100), sent("b", 100, 180), sent("a", 180, 300, round=3)]
    federation = merged(*messages)
    kept = kept_statistics(federation, messages)
    assert sorted(kept) == ["a", "b"]
    assert kept["a"].n_rows == 220
    together = kept["a"] + kept["b"]
    assert torch.allclose(together.gram_packed, federation.total().gram_packed, rtol=1e-13)
    assert kept_statistics(federation, messages[1:2])["b"].digest == messages[1].digest


def test_clients_come_back_as_they_were_bounded():
    messages = [sent("a", 0, 200, clip=1.0), sent("b", 200, 220, clip=1.0)]
    federation = merged(*messages, client_bound=60.0)
    kept = kept_statistics(federation, messages)
    assert kept["a"].trace < 0.9 * messages[0].stats.trace
    assert torch.allclose(
        (kept["a"] + kept["b"]).gram_packed, federation.total().gram_packed, rtol=1e-12
    )
    assert leave_clients_out(federation.total(), kept).losses.min() > 0


def test_what_is_not_in_the_sum_is_refused():
    first, second = sent("a", 0, 100), sent("b", 100, 200)
    federation = merged(first, second)
    for stranger in (
        sent("c", 0, 100),  # another name
        sent("a", 0, 99),  # other rows
        sent("a", 0, 100, round=1),  # another round
    ):
        with pytest.raises(NotSeen, match="very ones"):
            kept_statistics(federation, [stranger])
    with pytest.raises(ReplayedUpload, match="'a', round 0"):
        kept_statistics(federation, [first, first])
    federation.remove("b", second.stats)
    with pytest.raises(NotSeen, match="'b'"):
        kept_statistics(federation, [second])


def test_nothing_is_said_of_one_client_under_masks():
    cohort, alone, one = sent("ward", 0, 150), sent("d", 150, 300), sent("b", 0, 60)
    federation = merged(alone)
    federation.add("ward", cohort.stats, members=["a", "b", "c"])
    with pytest.raises(RevealsOneClient, match="'b' is in the masked cohort 'ward'"):
        kept_statistics(federation, [alone, one])
    assert sorted(kept_statistics(federation, [alone, cohort])) == ["d", "ward"]


def test_a_budget_covers_single_clients_too():
    message = sent("a", 0, 100, clip=1.0)
    federation = merged(message, budget=Budget(1.0, 1e-5, "row"))
    with pytest.raises(BudgetSpent):
        kept_statistics(federation, [message])
