"""Whole sentences and cut ones, side by side."""

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import byte_tokenizer
from psfuture.p2f_batches import (
    HFPairTokenizer,
    P2FCollator,
    examples_of,
    token_batches,
)
from psfuture.prefix_draw import draw_prefix

from .p2f_models import WORDS, pairs, tokenizer

words = st.lists(st.sampled_from(["a", "bc", "déf", "g-h", "日本"]), min_size=1, max_size=7)


class Pieces:
    """Two pieces a word, and a note of what was asked for."""

    pad = 0

    def __init__(self):
        self.asked = []

    def source_ids(self, words, *, closed):
        self.asked.append((tuple(words), closed))
        ids = [2 * (1 + at) + half for at, word in enumerate(words) for half in (0, 1)]
        return [*ids, 1] if closed else ids

    def target_ids(self, text):
        return [5] * len(text.split())


@given(source=words, seed=st.integers(0, 99), epoch=st.integers(0, 5), closed=st.booleans())
def test_a_prefix_is_of_whole_words_and_closed_as_told(source, seed, epoch, closed):
    pieces = Pieces()
    collator = P2FCollator(pieces, prefix_eos=closed, seed=seed)
    collator.epoch = epoch
    batch = collator([{"index": 3, "source": " ".join(source), "target": "x y"}])
    (whole, whole_closed), (cut, cut_closed) = pieces.asked
    assert whole == tuple(source)
    assert whole_closed
    assert cut == tuple(source[: len(cut)])
    assert cut
    assert cut_closed == (closed or len(cut) == len(source))
    row = batch["prefix_input_ids"][0].tolist()
    assert row[: 2 * len(cut)] == [2 + piece for piece in range(2 * len(cut))]
    assert row[2 * len(cut) :] == [1] * cut_closed
    assert batch["labels"].tolist() == [[5, 5]]


def test_a_prefix_is_text_tokenised_anew():
    tokens = byte_tokenizer()
    collator = P2FCollator(tokens, prefix_eos=False, prefix_dist="fraction:.5")
    row = collator([("ab cd ef", "x")])["prefix_input_ids"][0]
    assert bytes(row.tolist()) == b"ab cd"


@pytest.mark.parametrize("closed", [True, False])
def test_language_tags_stay_where_they_are(closed):
    tagged = tokenizer()
    tagged.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w39 $A </s> w38", special_tokens=[("</s>", 2), ("w39", 39), ("w38", 38)]
    )
    ids = HFPairTokenizer(tagged).source_ids(["w4", "w5"], closed=closed)
    assert ids == ([39, 4, 5, 2, 38] if closed else [39, 4, 5, 38])


def test_the_task_stands_before_every_source():
    assert HFPairTokenizer(tokenizer(), prefix="w9 ").source_ids(["w4"], closed=True) == [9, 4, 2]


def test_rows_are_padded_and_masked():
    batch = P2FCollator(tokenizer())([("w4 w5 w6", "w7"), ("w8", "w9 w10 w11")])
    assert batch["input_ids"].tolist() == [[4, 5, 6, 2], [8, 2, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[7, 2, -100, -100], [9, 10, 11, 2]]
    assert batch["prefix_input_ids"].shape == batch["prefix_attention_mask"].shape
    assert {value.dtype for value in batch.values()} == {torch.int64}


def cuts(collator, examples):
    return collator(examples)["prefix_attention_mask"].sum(1).tolist()


def test_a_cut_depends_on_seed_epoch_and_index_alone():
    examples = examples_of([(" ".join(WORDS[:30]), "w4")] * 40)
    first = cuts(P2FCollator(tokenizer(), seed=1), examples)
    again = P2FCollator(tokenizer(), seed=1)
    again([*examples, *examples])  # what was drawn before is of no matter
    assert cuts(again, examples[::-1]) == first[::-1]
    again.epoch = 1
    assert cuts(again, examples) != first
    assert cuts(P2FCollator(tokenizer(), seed=2), examples) != first
    assert len(set(first)) > 10


def test_joined_batches_are_the_batch_of_all():
    examples = examples_of(pairs(6))
    collator = P2FCollator(tokenizer())
    expected, found = collator(examples), collator([examples[:2], examples[2:]])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_stacked_rows_are_the_whole_sources_then_the_cut_ones():
    examples = examples_of(pairs(5))
    apart = P2FCollator(tokenizer())(examples)
    batch = P2FCollator(tokenizer(), stacked=True)(examples)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for row in range(5):
        for name, at in (("", row), ("prefix_", row + 5)):
            kept = apart[f"{name}attention_mask"][row].bool()
            wanted = apart[f"{name}input_ids"][row][kept]
            assert torch.equal(batch["input_ids"][at][batch["attention_mask"][at].bool()], wanted)
    assert torch.equal(batch["labels"], torch.cat([apart["labels"]] * 2))


def test_characters_are_cut_where_words_are_not_parted():
    collator = P2FCollator(byte_tokenizer(), unit="char", prefix_dist="fraction:.5")
    row = collator([("日本語文", "x")])["prefix_input_ids"][0]
    assert bytes(i for i in row.tolist() if i < 256).decode() == "日本"


@pytest.mark.parametrize("dist", ["uniform", "multipath"])
def test_draws_have_their_distribution(dist):
    n, m, number = 4, 3, 20_000
    found = Counter(draw_prefix(dist, n, m, str(i)) for i in range(number))
    every = (
        range(1, n + 1)
        if dist == "uniform"
        else [min(n, k + t) for k, t in product(range(1, n + 1), range(m))]
    )
    expected = Counter(every)
    assert set(found) == set(expected)
    for j, count in expected.items():
        wanted = number * count / sum(expected.values())
        assert abs(found[j] - wanted) < 5 * wanted**0.5


@pytest.mark.parametrize(("part", "words", "j"), [(".5", 7, 4), ("0.1", 3, 1), ("1", 9, 9)])
def test_a_fraction_is_always_the_same_part(part, words, j):
    assert {draw_prefix(f"fraction:{part}", words, 5, str(i)) for i in range(20)} == {j}


@pytest.mark.parametrize("dist", ["", "Uniform", "fraction", "fraction:0", "fraction:1.5", "wait"])
def test_an_unknown_distribution_names_the_known_ones(dist):
    with pytest.raises(InvalidSetting, match="uniform, multipath and fraction"):
        P2FCollator(tokenizer(), prefix_dist=dist)


def test_other_bad_input_is_refused():
    with pytest.raises(InvalidSetting, match="neither word nor char"):
        P2FCollator(tokenizer(), unit="byte")
    for pair in (("", "w4"), ("w4", " \n")):
        with pytest.raises(InvalidSetting, match=r"pair 7 .*without words"):
            P2FCollator(tokenizer())([{"index": 7, "source": pair[0], "target": pair[1]}])
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(InvalidSetting, match="padding"):
        P2FCollator(bare)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    tokens=st.integers(1, 64),
    seed=st.integers(0, 9),
)
def test_batches_hold_each_pair_once_within_the_budget(lengths, tokens, seed):
    examples = [{"index": i} for i in range(len(lengths))]
    batches = token_batches(examples, lengths, tokens, seed)
    assert sorted(e["index"] for batch in batches for e in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[e["index"]] for e in batch) <= tokens
    assert batches == token_batches(examples, lengths, tokens, seed)
