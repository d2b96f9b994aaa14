"""fairseq's dictionaries, and how words become their symbols and symbols words."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lipogram.errors import CorruptState, ModelNotFound
from psfuture.fairseq_dictionary import FairseqDictionary
from psfuture.fairseq_segmentation import SentencePieces, SubwordNMT, joined

LETTERS = "abc"  # few, so that merges compete and their order decides
_RNG = random.Random(1)
TEXT = " ".join("".join(_RNG.choices(LETTERS, k=_RNG.randint(2, 7))) for _ in range(200))
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=9), max_size=4)

# Dictionaries


def dictionary(path: Path, content: str) -> FairseqDictionary:
    path.write_text(content, encoding="utf-8", newline="")
    return FairseqDictionary.load(path)


def test_symbols_are_numbered_after_the_special_ones(tmp_path: Path) -> None:
    held = dictionary(tmp_path / "dict.txt", "the 9\nc@@ 7\nat 7\n▁x 0\n")
    assert held.symbols == ("<s>", "<pad>", "</s>", "<unk>", "the", "c@@", "at", "▁x")
    assert len(held) == 8
    assert held.encode(["at", "dog", "</s>"]) == [6, 3, 2]
    assert held.decode([2, 6, 0, 5, 1, 3, 99]) == ["at", "c@@"]


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\x0b", "\x1c", "\xa0", "a b", "1", "\u3000"])
def test_a_symbol_can_be_any_other_separator(odd: str, tmp_path: Path) -> None:
    held = dictionary(tmp_path / "dict.txt", f"a 1\n{odd} 5\nb 1\n")
    assert held.symbols[4:] == ("a", odd, "b")


def test_lines_of_windows_and_no_last_line_feed(tmp_path: Path) -> None:
    held = dictionary(tmp_path / "dict.txt", "a 1\r\nb 2")
    assert held.symbols[4:] == ("a", "b")


def test_a_symbol_can_be_given_again_on_purpose(tmp_path: Path) -> None:
    held = dictionary(tmp_path / "dict.txt", "a 1\n<unk> 3 #fairseq:overwrite\nb 2\n")
    assert held.symbols[4:] == ("a", "<unk>", "b")
    assert held.encode(["<unk>", "b"]) == [5, 6]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a 1\nb\n", 2),
        ("a 1\n\nb 2\n", 2),
        ("a one\n", 1),
        ("a 1\nb 2\na 3\n", 3),
        ("<pad> 3\n", 1),
        (" 3\n", 1),
        ("<html>\n", 1),
    ],
)
def test_a_bad_line_is_named(content: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match=rf"dict\.txt, line {line}:"):
        dictionary(tmp_path / "dict.txt", content)


def test_a_dictionary_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere\.txt"):
        FairseqDictionary.load(tmp_path / "nowhere.txt")
    (tmp_path / "dict.txt").write_bytes(b"\xff\xfe 1\n")
    with pytest.raises(CorruptState, match=r"dict\.txt cannot be read"):
        FairseqDictionary.load(tmp_path / "dict.txt")


# Byte-pair codes


@pytest.fixture(scope="module")
def merges() -> list[tuple[str, str]]:
    """Byte pairs as the library tokenizers learns them."""
    learnt = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learnt.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=60, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    learnt.train_from_iterator([TEXT], trainer)
    return [(first, second) for first, second in json.loads(learnt.to_str())["model"]["merges"]]


@pytest.fixture(scope="module")
def oracle(merges: list[tuple[str, str]]) -> Tokenizer:
    """What applies them."""
    names = ["<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    names += [first + second for first, second in merges]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


@pytest.fixture(scope="module", params=["subword-nmt", "fastBPE"])
def cut(
    request: pytest.FixtureRequest,
    merges: list[tuple[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SubwordNMT:
    assert len(merges) > 20
    if request.param == "subword-nmt":
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    else:
        lines = [f"{a} {b} {900 - i}" for i, (a, b) in enumerate(merges)]
    path = tmp_path_factory.mktemp("codes") / "codes"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SubwordNMT(path)


@given(words=WORDS)
def test_words_are_cut_as_tokenizers_cuts_them(
    words: list[str], cut: SubwordNMT, oracle: Tokenizer
) -> None:
    wanted = [
        token.removesuffix("</w>") if token.endswith("</w>") else f"{token}@@"
        for token in oracle.encode(" ".join(words)).tokens
    ]
    assert cut.pieces(words) == wanted
    assert joined(wanted, spaces=False) == " ".join(words)


def test_the_first_version_had_an_end_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    path.write_text("#version: 0.1\nt h\nth e\ne </w>\nthe </w>\n")
    # e </w> was learnt after th e, so of "the" nothing is left to merge with the end but all of it.
    assert SubwordNMT(path).pieces(["the", "te", "then"]) == ["the", "t@@", "e", "the@@", "n"]
    assert SubwordNMT(path).pieces(["x", "xy"]) == ["x", "x@@", "y"]
    path.write_text("t h\nth e</w>\n")  # no header: the first version, whose last letter is bare
    assert SubwordNMT(path).pieces(["the"]) == ["th@@", "e"]
    path.write_text("#version: 0.2\nt h\nth e</w>\n")
    assert SubwordNMT(path).pieces(["the"]) == ["the"]


def test_text_of_pieces_that_stop_inside_a_word() -> None:
    assert joined(["the", "c@@", "a@@"], spaces=False) == "the ca"
    assert joined([], spaces=False) == ""


@pytest.mark.parametrize(
    ("content", "line"),
    [("#version: 0.2\na b\nabc\n", 3), ("a b c d\n", 1), ("a b x\n", 1), ("", 1)],
)
def test_bad_codes_are_named(content: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "codes").write_text(content)
    with pytest.raises(CorruptState, match=rf"codes, line {line}:"):
        SubwordNMT(tmp_path / "codes")


def test_codes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        SubwordNMT(tmp_path / "nowhere")
    (tmp_path / "codes").write_bytes(b"\xff\xfe b\n")
    with pytest.raises(CorruptState, match="codes cannot be read"):
        SubwordNMT(tmp_path / "codes")


# SentencePiece


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text").write_text("the cat sat on the mat\na dog and a cat\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "pieces"),
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    return folder / "pieces.model"


def test_sentence_pieces_and_back(pieces: Path) -> None:
    held = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    cut = SentencePieces(pieces)
    for words in (["the", "cat"], ["the cat", "sat"], ["mat 漢 é", "x"], []):
        text = " ".join(words)
        assert cut.pieces(words) == held.encode(text, out_type=str)
        assert joined(cut.pieces(words), spaces=True) == text


def test_a_character_is_held_back_until_its_last_byte(pieces: Path) -> None:
    cut = SentencePieces(pieces).pieces(["a", "漢字"])
    assert cut[-6:] == [f"<0x{byte:02X}>" for byte in "漢字".encode()]
    texts = [joined(cut[:n], spaces=True) for n in range(len(cut) - 6, len(cut) + 1)]
    assert [text.removeprefix("a").strip() for text in texts] == [
        "",
        "",
        "",
        "漢",
        "漢",
        "漢",
        "漢字",
    ]


def test_what_is_no_sentencepiece_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere\.model"):
        SentencePieces(tmp_path / "nowhere.model")
    (tmp_path / "bad.model").write_bytes(b"hello")
    with pytest.raises(CorruptState, match=r"bad\.model is no SentencePiece model"):
        SentencePieces(tmp_path / "bad.model")
