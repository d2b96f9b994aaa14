"""What detection compares: the folding, and that every folded letter knows its place."""

# ruff: noqa: RUF001, which is about letters that look alike

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacyrestore.text_folding import fold, tokens, views

ALIKE = {
    "as written": "mild cough",
    "upper case": "MILD Cough",
    "accents, composed": "mïld coúgh",
    "accents, decomposed": unicodedata.normalize("NFD", "mïld coúgh"),
    "many accents": "m\u0301\u0302\u0303ild cough",
    "full width": "ｍｉｌｄ　ｃｏｕｇｈ",
    "mathematical letters": "𝐦𝐢𝐥𝐝 𝒄𝒐𝒖𝒈𝒉",
    "circled letters": "ⓜⓘⓛⓓ cough",
    "zero-width blank": "mi\u200bld cou\u200bgh",
    "zero-width joiner": "mi\u200dld cough",
    "zero-width non-joiner": "mi\u200cld cough",
    "word joiner and mark of byte order": "mi\u2060ld\ufeff cough",
    "soft hyphen": "mi\u00adld cou\u00adgh",
    "marks of direction": "\u202emild\u202c \u2066cough\u2069",
    "variation selector": "mi\ufe0fld cough",
    "Hangul filler": "mi\u115fld cough",
    "private use": "mi\ue000ld cough",
    "Cyrillic look-alikes": "mild соugh",
    "Greek look-alikes": "mild cοugh",
    "several blanks": "mild   \t cough",
    "newline": "mild\ncough",
    "line of Windows": "mild\r\n    cough",
    "form feed and vertical tab": "mild\f\vcough",
    "next line, line and paragraph separators": "mild\x85\u2028\u2029cough",
    "blank that does not break": "mild\u00a0cough",
    "thin and ideographic blanks": "mild\u2009\u3000cough",
    "hyphen": "mild-cough",
    "dashes": "mild – — ‑ cough",
    "underscore": "mild_cough",
    "emphasis": "**mild** _cough_",
    "numeric reference": "m&#105;ld cough",
    "numeric reference without semicolon": "m&#105 ld cough".replace(" ld", "ld"),
    "hexadecimal references": "m&#x69;ld&#X20;cough",
    "named references": "mild&nbsp;cough",
    "named accents": "m&iuml;ld co&uacute;gh",
    "escaped twice": "m&amp;#105;ld cough",
    "escaped three times": "m&amp;amp;#105;ld cough",
    "escaped by numbers": "m&#38;#105;ld cough",
    "reference to what is not seen": "mi&shy;ld&zwnj; cough",
}


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE.keys())
def test_hostile_spellings_fold_to_the_plain_one(text):
    assert fold(text) == "mild cough"


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE.keys())
def test_tokens_name_letters_of_the_text_as_given(text):
    for token in tokens(text):
        assert fold(text[token.start : token.end]) == token.text


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("", ""),
        (" \n\t\u200b", ""),
        ("-_- ~ *", ""),
        ("straße", "strasse"),
        ("ﬁsh", "fish"),
        ("x²", "x2"),
        ("٣ fingers", "3 fingers"),
        ("a+b", "a + b"),
        ("finding-07", "finding 07"),
        ("שָׁלוֹם", "שלום"),
        ("سُعَال", "سعال"),
        ("咳嗽", "咳 嗽"),
        ("轻cough", "轻 cough"),
        ("nurse's", "nurses"),
        ("nurse’s", "nurses"),
        ("&unknownreference;", "& unknownreference ;"),
        ("AT&T", "at & t"),
        ("&#0;", "�"),
        ("&#x110000;", "�"),
    ],
)
def test_folded_words(text, folded):
    assert fold(text) == folded


@given(st.text(st.characters(), max_size=60))
def test_any_text_folds_and_every_token_lies_in_it(text):
    last = 0
    for token in tokens(text):
        assert token.text
        assert 0 <= token.start < token.end <= len(text)
        assert token.start >= last or token.end >= last  # one reference may stand for two words
        last = token.start


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_what_is_foreign_elsewhere_does_not_change_ascii(text):
    """The way for ASCII alone and that for all texts agree."""
    assert [t.text for t in tokens(text)] == [t.text for t in tokens(f"{text}\n\u200b\u00ad")]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a dizz-\nness", "a dizzness"),
        ("a dizz- \r\n   ness", "a dizzness"),
        ("a di<b>zz</b>ness", "a dizzness"),
    ],
)
def test_a_view_makes_parted_words_whole_and_knows_their_places(text, whole):
    (first, same), (second, places) = views(text)
    assert (first, list(same)) == (text, list(range(len(text))))
    assert second == whole
    assert "".join(text[place] for place in places) == whole


@pytest.mark.parametrize("text", ["", "plain", "2-\n3", "a < b", "well-known", "a -\n b"])
def test_a_text_without_parted_words_is_its_only_view(text):
    assert [(view, list(places)) for view, places in views(text)] == [
        (text, list(range(len(text))))
    ]
