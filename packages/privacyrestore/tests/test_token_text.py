import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lipogram.llm.tiny import EOS, byte_tokenizer
from privacyrestore.token_text import TokenText

BYTES = byte_tokenizer()
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def streamed(tokenizer, tokens):
    text = TokenText(tokenizer)
    pieces = [text.push(token) for token in tokens]
    return [*pieces, text.flush()]


def whole(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def sentence_pieces():
    """Words with a mark for the space before them, and bytes for all else, as Llama 2 has them."""
    vocabulary = {"<unk>": 0, "▁": 1, "▁a": 2, "▁b": 3, "a": 4, "b": 5}
    vocabulary |= {f"<0x{byte:02X}>": 6 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def words():
    """Whole words with a space between any two."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "fever", "cough", "mild"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


PIECES, WORDS = sentence_pieces(), words()


@given(text=st.text(max_size=30))
@example(text="naïve 日本 👩‍⚕️ 🤒")
def test_no_piece_holds_half_a_character(text):
    pieces = streamed(BYTES, text.encode())
    assert "".join(pieces) == text
    if UNKNOWN not in text:
        assert not any(UNKNOWN in piece for piece in pieces)
        assert pieces[-1] == ""  # every character is shown with its last byte


@given(tokens=st.lists(st.integers(0, EOS), max_size=40))
@example(tokens=[0xF0, 0x9F, 0xA4, 0x92, 0xF0, 0x9F, 97])
@example(tokens=[0x80] * 12)
@settings(max_examples=300)
def test_pieces_of_any_tokens_are_the_tokenizer_s_text(tokens):
    shown = ""
    expected = whole(BYTES, tokens)
    for piece in streamed(BYTES, tokens):
        shown += piece
        assert expected.startswith(shown)
    assert shown == expected


@given(text=st.text("ab é🤒", max_size=12))
def test_spaces_and_bytes_of_sentence_pieces_come_out_as_they_are_decoded(text):
    ids = {"a": [4], "b": [5], " ": [1]}
    tokens = [t for c in text for t in ids.get(c) or [6 + byte for byte in c.encode()]]
    pieces = streamed(PIECES, tokens)
    assert "".join(pieces) == whole(PIECES, tokens)
    assert not any(UNKNOWN in piece for piece in pieces)


@given(tokens=st.lists(st.sampled_from([1, 2, 3, 4, 5, 262]), max_size=12))
def test_a_special_token_between_words_does_not_eat_a_space(tokens):
    assert "".join(streamed(PIECES, tokens)) == whole(PIECES, tokens)


@given(tokens=st.lists(st.integers(0, 3), max_size=8))
def test_words_keep_the_spaces_between_them(tokens):
    assert "".join(streamed(WORDS, tokens)) == whole(WORDS, tokens)


@pytest.mark.parametrize("tokens", [[0x80] * 50])
def test_bytes_that_make_no_character_are_not_held_back_for_ever(tokens):
    text = TokenText(BYTES)
    assert len("".join(text.push(token) for token in tokens)) >= 40
