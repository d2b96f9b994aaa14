import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ftunlearn.paragraphs import paragraphs, sentences
from ftunlearn.probes import Probe
from ftunlearn.unlearning_data import (
    REFUSALS,
    ForgetRetain,
    PairCollator,
    PairSampler,
    answer_examples,
    as_examples,
    collate,
    paragraph_examples,
)
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.tiny import EOS, byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_sentences_end_where_they_should():
    text = (
        "Dr. J. Smith of the U.S. office saw e.g. No. 5 etc. in one go. Was it cold? It was 3.5 "
        "degrees.\nThe end"
    )
    assert sentences(text) == [
        "Dr. J. Smith of the U.S. office saw e.g. No. 5 etc. in one go.",
        "Was it cold?",
        "It was 3.5 degrees.",
        "The end",
    ]
    assert sentences("  \n ") == []


@given(st.text(alphabet="abC .?\n1", max_size=300), st.integers(1, 60))
def test_paragraphs_lose_no_word(text, least):
    found = paragraphs(text, least)
    assert " ".join(found).split() == text.split()
    assert all(len(paragraph) > least for paragraph in found[:-1])


def test_only_the_answer_is_labelled():
    probe = Probe("a", "The cat is", " on the mat")
    [row, other] = answer_examples(TOKENIZER, [probe, ("One", " two")])
    assert row["input_ids"] == list(b"The cat is on the mat")
    assert row["labels"] == [-100] * 10 + list(b" on the mat")
    assert other["labels"] == [-100] * 3 + list(b" two")
    assert "alternative" not in row


def test_a_refusal_is_drawn_by_the_seed_and_ends():
    items = [(f"Item {i} is", " x") for i in range(12)]
    first, again, other = (
        answer_examples(TOKENIZER, items, refusals=True, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    for row, (prompt, _) in zip(first, items, strict=True):
        said = [label for label in row["alternative"]["labels"] if label != -100]
        assert said[-1] == EOS
        text = bytes(said[:-1]).decode()
        assert text.startswith(" ")
        assert text.strip() in REFUSALS
        assert bytes(row["alternative"]["input_ids"][: len(prompt)]).decode() == prompt
    assert len(set(REFUSALS)) == len(REFUSALS)


@pytest.mark.parametrize(
    ("items", "refusals", "message"),
    [
        ([], False, "nothing to unlearn"),
        ([Probe("a", "Who?")], False, "item 0 has no answer"),
        ([("ok", " yes"), ("", " no")], False, "item 1 has an empty prompt"),
        ([("Who?", "")], False, "item 0 has an empty"),
        (["A text."], True, "no prompt to refuse"),
        ([{"input_ids": [1]}], False, "lack labels"),
        ([" "], False, "no words"),
    ],
)
def test_what_cannot_be_trained_on_is_named(items, refusals, message):
    with pytest.raises(InvalidProbes, match=message):
        as_examples(TOKENIZER, items, refusals=refusals)


def test_every_token_of_an_article_is_learned_once():
    text = "This is a sentence about nothing. " * 30
    rows = paragraph_examples(TOKENIZER, [text], max_tokens=100)
    whole = paragraph_examples(TOKENIZER, [text])
    assert all(row["labels"] == row["input_ids"] for row in rows + whole)
    assert max(len(row["input_ids"]) for row in rows) == 100
    assert sum(row["input_ids"].count(EOS) for row in rows) == len(whole)
    assert all(row["input_ids"][-1] == EOS for row in whole)
    predicted = [i for row in rows for i in row["input_ids"][1:]]
    assert predicted == [i for row in whole for i in row["input_ids"][1:]]
    with pytest.raises(InvalidSetting, match="max_tokens"):
        paragraph_examples(TOKENIZER, [text], max_tokens=1)


def test_padding_is_on_the_right_and_unlabelled():
    batch = collate(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}], 9
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.integers(0, 3))
def test_every_forget_example_comes_once_and_retain_in_turn(n, m, seed, epoch):
    sampler = PairSampler(n, m, seed)
    sampler.epoch = epoch
    pairs = list(sampler)
    assert pairs == list(sampler)
    assert sorted(i for i, _ in pairs) == list(range(n))
    retained = [j for _, j in pairs]
    assert len(set(retained[:m])) == min(n, m)
    assert all(retained[k] == retained[k % m] for k in range(n))


def test_epochs_and_seeds_differ_and_a_long_retain_set_is_gone_through():
    sampler = PairSampler(10, 40, 0)
    orders = []
    for epoch in range(20):
        sampler.epoch = epoch
        orders.append(tuple(sampler))
    assert len(set(orders)) == 20
    assert len({j for order in orders for _, j in order}) == 40
    assert tuple(PairSampler(10, 40, 1)) != orders[0]


def test_pairs_do_not_depend_on_workers():
    def rows(n, start):
        return [
            {"input_ids": [start + i] * (i + 1), "labels": [start + i] * (i + 1)} for i in range(n)
        ]

    data, sampler = ForgetRetain(rows(7, 0), rows(3, 100)), PairSampler(7, 3, 0)
    seen = []
    for workers in (0, 2):
        loader = DataLoader(
            data, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=PairCollator(255)
        )
        seen.append([{k: v["labels"].tolist() for k, v in batch.items()} for batch in loader])
    assert seen[0] == seen[1]
