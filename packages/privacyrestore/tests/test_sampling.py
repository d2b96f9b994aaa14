import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacyrestore.sampling import Sampler, token_logprob


def nucleus(logits, temperature, top_p):
    """{token: probability} that a draw follows, by a loop over the sorted tokens."""
    weights = [math.exp((value - max(logits)) / temperature) for value in logits]
    probs = [weight / sum(weights) for weight in weights]
    kept, reached = {}, 0.0
    for token in sorted(range(len(probs)), key=lambda token: (-probs[token], token)):
        if reached >= top_p:
            break
        kept[token] = probs[token]
        reached += probs[token]
    return {token: prob / sum(kept.values()) for token, prob in kept.items()}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.5, 0.8), (1, 0.3)])
def test_draws_follow_the_cut_distribution(temperature, top_p):
    logits = torch.tensor([0.3, -1.0, 2.0, 1.7, 0.0, -4.0])
    expected = nucleus(logits.tolist(), temperature, top_p)
    sampler, n = Sampler(temperature, top_p, 5), 4000
    counts = torch.zeros(6)
    for _ in range(n):
        counts[sampler.choose(logits)] += 1
    for token in range(6):
        share = expected.get(token, 0.0)
        assert abs(counts[token] / n - share) <= 4 * math.sqrt(share * (1 - share) / n)


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60)
def test_a_draw_is_one_of_the_kept_tokens_and_repeats_with_its_seed(
    logits, temperature, top_p, seed
):
    values = torch.tensor(logits)
    token = Sampler(temperature, top_p, seed).choose(values)
    kept = nucleus(logits, temperature, min(1.0, top_p + 1e-9))  # both sides of a rounded edge
    assert token in kept
    assert Sampler(temperature, top_p, seed).choose(values) == token


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.5, 3.0])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
def test_of_a_large_vocabulary_the_same_tokens_are_kept(spread, top_p):
    draw = torch.Generator().manual_seed(8)
    logits = (torch.randn(2000, generator=draw) * spread).round(decimals=2)  # with many ties
    kept = nucleus(logits.tolist(), 1.0, top_p)
    edges, reached = [], 0.0
    for token, share in kept.items():
        reached += share
        edges.append((reached, token))
    for seed in range(40):
        point = float(
            torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        )
        expected = next(token for edge, token in edges if edge > point)
        assert Sampler(1.0, top_p, seed).choose(logits) == expected


def test_no_temperature_a_tiny_one_and_a_tiny_share_are_greedy():
    logits = torch.tensor([1.0, 3.0, 3.0, -math.inf, 2.9])
    assert Sampler(0, 1.0, None).choose(logits) == 1
    assert {Sampler(1e-300, 1.0, seed).choose(logits) for seed in range(20)} == {1, 2}
    assert {Sampler(1.0, 1e-9, seed).choose(logits) for seed in range(20)} == {1}


def test_the_global_generator_is_neither_read_nor_moved():
    logits, drawn = torch.zeros(1000), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn.append(Sampler(1.0, 1.0, 9).choose(logits))
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1]
    assert len({Sampler(1.0, 1.0, None).choose(logits) for _ in range(20)}) > 1


def test_log_probabilities_are_those_of_the_model_itself():
    logits = torch.randn(9, generator=torch.Generator().manual_seed(0))
    found = token_logprob(logits, 4, 3)
    total = math.log(sum(math.exp(value) for value in logits.tolist()))
    assert found.token_id == 4
    assert found.logprob == pytest.approx(float(logits[4]) - total, abs=1e-5)
    best = sorted(range(9), key=lambda token: -float(logits[token]))[:3]
    assert [token for token, _ in found.top] == best
    assert len(token_logprob(logits, 0, 100).top) == 9
