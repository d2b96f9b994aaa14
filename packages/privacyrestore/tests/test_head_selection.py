"""Sites that were planted are found; what is recorded is what the model computes."""

import pytest
import torch

from lipogram.errors import (
    CorruptState,
    InvalidProbes,
    InvalidSetting,
    NothingMeasurable,
)
from lipogram.llm import record, rng, tiny_random
from privacyrestore.head_selection import (
    MIN_PAIRS,
    HeadSelection,
    SpanPair,
    chosen_sites,
    probe_span,
    select_heads,
)
from privacyrestore.restoration_bank import identify

SPANS = ("mild cough", "finding-07", "night sweats")


def pairs(n=30, spans=SPANS):
    found = []
    for number in range(n):
        span = number % len(spans)
        rest = f"patient {number}: age {20 + 7 * number % 60}"
        found.append(SpanPair(f"{rest}, {spans[span]}", rest, (span,)))
    return found


def test_planted_sites_are_found():
    draw = rng("planted", 0)
    planted = {1, 6, 10}
    probed = []
    for span in range(4):
        base = torch.randn(40, 12, 8, generator=draw)
        gone = base + 0.3 * torch.randn(40, 12, 8, generator=draw)
        for site in planted:
            gone[:, site] -= 4 * torch.nn.functional.normalize(
                torch.randn(8, generator=draw), dim=0
            )
        probed.append(probe_span(base, gone, span, 0))
    directions = torch.stack([direction for direction, _ in probed])
    accuracies = torch.stack([accuracy for _, accuracy in probed])
    selection = chosen_sites(directions, accuracies, 3, n_heads=4)
    assert selection.sites == ((0, 1), (1, 2), (2, 2))
    assert selection.directions.shape == (4, 3, 8)
    assert float(selection.mean_ranks[list(planted)].max()) < 2.5


def test_both_halves_of_a_pair_are_on_one_side_of_the_split():
    # Each pair has a place of its own and its halves differ by chance: a probe that has seen one
    # half of a test pair would know the other by its place, and be wrong every time.
    draw = rng("places", 0)
    places = 100 * torch.nn.functional.normalize(torch.randn(20, 1, 64, generator=draw), dim=-1)
    noise = torch.randn(20, 1, 64, generator=draw)
    _, accuracy = probe_span(places + noise, places - noise, 0, 0)
    assert 0.2 <= float(accuracy) <= 0.8


def test_ties_go_to_the_lower_site_and_share_their_rank():
    accuracies = torch.tensor([[0.5, 1.0, 1.0, 0.5], [0.5, 1.0, 1.0, 0.75]]).double()
    selection = chosen_sites(torch.zeros(2, 4, 3), accuracies, 1, n_heads=2)
    assert selection.sites == ((0, 1),)
    assert selection.mean_ranks.tolist() == [(2.5 + 3) / 2, 0.5, 0.5, (2.5 + 2) / 2]


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_directions_are_differences_of_means_at_the_last_token(model_type):
    loaded = tiny_random(model_type)
    given = pairs()
    k = 5
    selection = select_heads(loaded.model, loaded.tokenizer, given, 3, k, batch_size=4)
    assert list(selection.sites) == sorted(set(selection.sites))
    assert selection.accuracies.shape == (3, 12)
    wanted = torch.zeros(3, 12, 8, dtype=torch.float64)
    for pair in given:
        for text, sign in ((pair.question, 1), (pair.question_removed, -1)):
            ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
            with torch.no_grad(), record(loaded.model, ["head_in"]) as held:
                loaded.model(ids)
            last = torch.stack([held["head_in", layer][0, -1] for layer in range(3)])
            wanted[pair.span_ids[0]] += sign * last.view(12, 8).double() / 10
    flat = [layer * 4 + head for layer, head in selection.sites]
    assert float((selection.directions - wanted[:, flat]).abs().max()) < 1e-5


def test_the_order_of_layers_does_not_depend_on_memory(monkeypatch):
    loaded = tiny_random()
    whole = select_heads(loaded.model, loaded.tokenizer, pairs(), 3)
    monkeypatch.setattr("privacyrestore.head_selection._BYTES", 1)  # a pass for each layer
    again = select_heads(loaded.model, loaded.tokenizer, pairs(), 3)
    assert whole.sites == again.sites
    assert len(whole.sites) == round(0.17 * 12)
    assert torch.equal(whole.accuracies, again.accuracies)
    assert torch.equal(whole.directions, again.directions)


def test_a_span_with_few_pairs_has_a_direction_and_no_vote():
    loaded = tiny_random()
    given = pairs(20, SPANS[:2])
    rare = [SpanPair(f"case {i}, night sweats", f"case {i}", (2,)) for i in range(MIN_PAIRS - 1)]
    alone = select_heads(loaded.model, loaded.tokenizer, given, 2, 4)
    selection = select_heads(loaded.model, loaded.tokenizer, given + rare, 3, 4)
    assert selection.unranked == (2,)
    assert selection.sites == alone.sites
    assert float(selection.directions[2].norm(dim=-1).min()) > 0


def test_a_pair_of_several_spans_counts_for_each():
    loaded = tiny_random()
    given = [SpanPair(f"case {i}: cough, sweats", f"case {i}", (0, 1, 1)) for i in range(8)]
    selection = select_heads(loaded.model, loaded.tokenizer, given, 2, 3)
    assert torch.equal(selection.directions[0], selection.directions[1])


def test_bad_calls_are_refused():
    loaded = tiny_random()
    model, tokenizer = loaded.model, loaded.tokenizer
    with pytest.raises(InvalidSetting, match="12 head sites"):
        select_heads(model, tokenizer, pairs(), 3, 13)
    with pytest.raises(InvalidSetting, match="12 head sites"):
        select_heads(model, tokenizer, pairs(), 3, 0)
    with pytest.raises(InvalidSetting, match="1 of 4 spans"):
        select_heads(model, tokenizer, pairs(), 4)
    with pytest.raises(InvalidSetting, match="names span 2"):
        select_heads(model, tokenizer, pairs(), 2)
    with pytest.raises(NothingMeasurable, match="no span"):
        select_heads(model, tokenizer, pairs(6), 3)
    bad = [*pairs()[:1], SpanPair("mild cough", "", (0,)), *pairs()[2:]]
    with pytest.raises(InvalidProbes, match="question_removed of pair 1"):
        select_heads(model, tokenizer, bad, 3)


def test_a_selection_is_saved_and_becomes_a_bank(tmp_path):
    loaded = tiny_random()
    selection = select_heads(loaded.model, loaded.tokenizer, pairs(), 3, 4)
    selection.save(tmp_path / "heads.safetensors")
    again = HeadSelection.load(tmp_path / "heads.safetensors")
    assert again.sites == selection.sites
    assert torch.equal(again.directions, selection.directions)
    bank = again.bank(SPANS, identify(loaded.model), gamma=2.0)
    assert bank.sites == selection.sites
    assert bank.gamma == 2.0
    assert torch.allclose(bank.vectors.norm(dim=-1), torch.ones(3, 4))
    with pytest.raises(InvalidSetting, match="names 2"):
        selection.bank(SPANS[:2], identify(loaded.model))
    content = (tmp_path / "heads.safetensors").read_bytes()
    for broken in (b"", content[:-9], b"\x80\x04K\x01."):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(CorruptState, match="no selection"):
            HeadSelection.load(tmp_path / "broken")
