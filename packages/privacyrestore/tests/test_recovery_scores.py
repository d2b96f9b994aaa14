"""Scores against counting by hand, chance against drawing, inversion against least squares."""

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting
from privacyrestore.embedding_inversion import inverted, inverted_per_head
from privacyrestore.mechanisms import Exact
from privacyrestore.recovery_scores import bootstrap_mean, chance_scores, recovery, set_scores
from privacyrestore.server_view import simulated_view
from privacyrestore.span_prior import SpanPrior, indicators

from .banks import loose_identity, random_bank


def test_scores_by_hand():
    true = indicators([(0, 1), (2,), (0, 3)], 4)
    guessed = indicators([(0, 2), (2,), ()], 4)
    found = {name: values.tolist() for name, values in set_scores(guessed, true).items()}
    assert found == {
        "recall": [0.5, 1.0, 0.0],
        "precision": [0.5, 1.0, 0.0],
        "f1": [0.5, 1.0, 0.0],
        "exact": [0.0, 1.0, 0.0],
    }


def test_chance_is_what_drawing_gives():
    frequencies = torch.tensor([0.5, 0.2, 0.2, 0.2, 0.1])
    true = indicators([(0, 1), (1, 2, 3), (4,), (0, 1, 2, 3)], 5)
    sizes = torch.tensor([2, 3, 1, 4])
    exact = chance_scores(frequencies, sizes, true)
    draw = torch.Generator().manual_seed(0)
    n = 4000
    noise = 0.01 * torch.rand(n, 1, 5, generator=draw)
    order = (frequencies + noise).argsort(-1, descending=True).expand(n, 4, 5)
    chosen = (torch.arange(5) < sizes[:, None]).expand(n, 4, 5)
    guessed = torch.zeros(n, 4, 5, dtype=torch.bool).scatter(2, order, chosen)
    drawn = set_scores(guessed.flatten(0, 1), true.repeat(n, 1))
    for name, values in exact.items():
        np.testing.assert_allclose(values, drawn[name].view(n, 4).mean(0), atol=0.03)


def test_the_interval_is_that_of_a_mean():
    values = torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = bootstrap_mean(values)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.08)


def test_repeats_are_averaged_before_queries_are_drawn():
    true = indicators([(0,), (1,)], 2)
    found = recovery(torch.cat([true, ~true]), true, torch.tensor([0.5, 0.5]), repeats=2)
    assert found.recall.value == found.recall.low == found.recall.high == 0.5


def test_what_cannot_be_scored():
    with pytest.raises(InvalidProbes):
        set_scores(torch.ones(2, 3, dtype=torch.bool), indicators([(0,), ()], 3))
    with pytest.raises(InvalidSetting):
        set_scores(torch.ones(2, 4, dtype=torch.bool), indicators([(0,), (1,)], 3))


def test_the_prior_of_sizes_and_spans_sums_to_one():
    prior = SpanPrior.of([(0,), (0, 1), (2,), (0, 1, 3)], 4)
    total = 0.0
    for code in range(1, 16):
        spans = [i for i in range(4) if code >> i & 1]
        log_p = prior.size_terms[len(spans)] + prior.log_odds[spans].sum()
        total += float(log_p.exp())
    assert total == pytest.approx(1.0)


def test_inversion_finds_the_spans_and_reproduces_the_message():
    bank = random_bank(loose_identity(), [(0, 0), (1, 3)], 10)
    sets = [(0, 4, 7), (2, 3), (9,)]
    view = simulated_view(bank, Exact(unsafe=True), sets)
    weights = inverted(view)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))
    signals = torch.nn.functional.normalize(weights @ view.rows, dim=1)
    assert float((signals * view.coordinates).sum(1).min()) > 0.995
    for row, spans in zip(weights, sets, strict=True):
        assert set(row.topk(len(spans)).indices.tolist()) == set(spans)


def test_messages_normalised_head_by_head_are_inverted_too():
    bank = random_bank(loose_identity(), [(0, 0), (1, 3), (2, 2)], 10)
    sets = [(0, 4, 7), (2, 3), (9,)]
    flat = [bank.vectors[list(spans)].double().sum(0) for spans in sets]
    messages = torch.stack([torch.nn.functional.normalize(z, dim=-1).flatten() for z in flat])
    for row, spans in zip(inverted_per_head(bank, messages), sets, strict=True):
        assert set(row.topk(len(spans)).indices.tolist()) == set(spans)
    with pytest.raises(InvalidSetting):
        inverted_per_head(bank, messages[:, 1:])
    with pytest.raises(InvalidSetting):
        inverted_per_head(bank, messages, steps=0)
