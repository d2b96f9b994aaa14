from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.text import (
    Encoded,
    context_length,
    encode,
    offset_mapping,
    pad,
    pad_id,
    position_ids,
    special_prefix,
    token_batches,
)
from lipogram.llm.tiny import BOS, EOS, PAD, byte_tokenizer, tiny_random

CORPUS = [
    "the cat sat on the mat",
    "that hat is the cat's",
    "a b  c   d",
    "été à la mer",
    "aaaa",
] * 9
WORDS = st.text(alphabet="abehst 'é猫\n", max_size=12)


def bpe(*, regex: bool, end: bool = False, trim: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of words, or without `regex` of any runs, blanks in their middle too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=340,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        ),
    )
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    if trim:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "bytes-bos": byte_tokenizer(bos=True),
    "bpe": bpe(regex=True),
    "bpe-runs": bpe(regex=False),
    "bpe-trimmed": bpe(regex=True, trim=True),
    "bpe-bos-eos": bpe(regex=False, end=True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=WORDS, answer=WORDS)
def test_the_ids_are_those_of_the_joint_text_and_the_boundary_is_as_late_as_it_can(
    name, prompt, answer
):
    tokenizer = TOKENIZERS[name]
    row = encode(tokenizer, prompt, answer)
    prefix = special_prefix(tokenizer)
    joint = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    assert row.prompt_ids + row.answer_ids == prefix + joint

    said = tokenizer.convert_ids_to_tokens(row.prompt_ids[len(prefix) :])
    n_bytes = len(prompt.encode())
    assert len("".join(said)) <= n_bytes  # a byte-level token has a letter for each byte
    if row.answer_ids:
        (straddling,) = tokenizer.convert_ids_to_tokens(row.answer_ids[:1])
        assert len("".join(said)) + len(straddling) > n_bytes
    whole = tokenizer.decode(row.prompt_ids + row.answer_ids, skip_special_tokens=True)
    assert whole == prompt + answer


def test_a_token_over_the_boundary_is_the_answers():
    tokenizer = TOKENIZERS["bpe"]
    the = tokenizer("the")["input_ids"]
    assert len(the) == 1
    assert len(tokenizer("th")["input_ids"] + tokenizer("e")["input_ids"]) > 1
    assert encode(tokenizer, "th", "e") == Encoded([], the)
    assert encode(tokenizer, "the ", "cat") == encode(tokenizer, "the", " cat")
    assert encode(tokenizer, "the", " cat").prompt_ids == the


def test_a_tokenizer_without_offsets_gives_the_same_ids():
    class WithoutOffsets:
        """The merging tokenizer as one written in Python would be."""

        is_fast = False

        def __call__(self, text, **options):
            assert "return_offsets_mapping" not in options
            return TOKENIZERS["bpe"](text, **options)

    row = encode(WithoutOffsets(), "the ca", "t sat")
    fast = encode(TOKENIZERS["bpe"], "the ca", "t sat")
    assert row == fast
    assert row.answer_ids[0] == TOKENIZERS["bpe"](" cat")["input_ids"][0]


def test_the_beginning_of_sequence_follows_the_tokenizer_and_is_never_doubled():
    plain, begun, closed = (TOKENIZERS[name] for name in ("bytes", "bytes-bos", "bpe-bos-eos"))
    assert special_prefix(plain) == []
    assert special_prefix(begun) == [BOS]
    assert special_prefix(closed) == [0]  # and no end between prompt and answer
    assert encode(plain, "a", "b") == Encoded([97], [98])
    assert encode(begun, "a", "b") == Encoded([BOS, 97], [98])
    assert encode(begun, "<s>a", "b") == Encoded([BOS, 97], [98])
    assert encode(begun, "<s>a", [98]) == Encoded([BOS, 97], [98])
    assert encode(begun, "a", "b", add_special_tokens=False) == Encoded([97], [98])
    row = encode(closed, "the", " cat")
    assert closed("the cat")["input_ids"] == [*row.prompt_ids, *row.answer_ids, 1]


def test_ids_are_taken_as_they_are():
    tokenizer = byte_tokenizer(bos=True)
    assert encode(tokenizer, [5, 6], [7]) == Encoded([5, 6], [7])
    assert encode(tokenizer, "a", (7, EOS)) == Encoded([BOS, 97], [7, EOS])
    assert encode(tokenizer, "a", []) == Encoded([BOS, 97], [])
    with pytest.raises(InvalidSetting, match="token ids"):
        encode(tokenizer, [5], "b")


ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=4)),
    min_size=1,
    max_size=4,
).map(lambda rows: [Encoded(prompt, [*answer, 9]) for prompt, answer in rows])


@given(rows=ROWS, side=st.sampled_from(["left", "right"]), filler=st.integers(0, 9))
def test_masks_say_where_the_rows_are_whatever_fills_them(rows, side, filler):
    batch = pad(rows, filler, side=side)
    t = max(map(len, rows))
    assert batch.input_ids.shape == (len(rows), t)
    first = 0
    for i, row in enumerate(rows):
        real = batch.attention_mask[i].bool()
        ids = [*row.prompt_ids, *row.answer_ids]
        assert batch.input_ids[i][real].tolist() == ids
        assert (batch.input_ids[i][~real] == filler).all()
        assert real.tolist() == sorted(real.tolist(), reverse=side == "right")
        assert batch.position_ids[i][real].tolist() == list(range(len(ids)))
        assert batch.input_ids[i][batch.answer_mask[i]].tolist() == row.answer_ids
        scored = batch.rows[i].nonzero()[:, 0]
        predicted = row.answer_ids if row.prompt_ids else row.answer_ids[1:]
        assert batch.input_ids[i][scored + 1].tolist() == predicted
        first = max([first, *(t - scored).tolist()])
    assert batch.n_logits == first
    assert batch.to("cpu").inputs().keys() == {"input_ids", "attention_mask", "position_ids"}


def test_positions_of_padding_are_zero():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_what_cannot_be_padded_is_named():
    with pytest.raises(InvalidProbes, match="no rows"):
        pad([], 0)
    with pytest.raises(InvalidProbes, match="row 1"):
        pad([Encoded([1], []), Encoded([], [])], 0)
    with pytest.raises(InvalidSetting, match="middle"):
        pad([Encoded([1], [])], 0, side="middle")


def test_padding_falls_back_to_the_end_of_sequence():
    tokenizer = byte_tokenizer()
    assert pad_id(tokenizer) == PAD
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == EOS
    tokenizer.eos_token = None
    with pytest.raises(InvalidSetting, match="end-of-sequence"):
        pad_id(tokenizer)


@given(lengths=st.lists(st.integers(1, 30)), max_tokens=st.integers(1, 90))
def test_batches_hold_every_row_once_under_the_budget(lengths, max_tokens):
    batches = token_batches(lengths, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= max_tokens
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)
    for batch, following in pairwise(batches):  # none could have been fuller
        assert lengths[batch[0]] * (len(batch) + 1) > max_tokens, following


def test_a_budget_is_positive():
    with pytest.raises(InvalidSetting, match="max_tokens"):
        token_batches([1], 0)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3", "opt"])
def test_the_context_is_what_the_model_was_built_for(model_type):
    model = tiny_random(model_type, layers=1).model
    assert context_length(model) == 512
    assert context_length(torch.nn.DataParallel(model)) == 512


def test_offsets_are_of_the_text_alone():
    tokenizer = byte_tokenizer(bos=True)
    assert offset_mapping(tokenizer, "aé") == [(0, 1), (1, 2), (1, 2)]
