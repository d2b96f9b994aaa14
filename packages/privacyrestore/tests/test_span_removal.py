"""Texts without their spans: nothing of them remains, and the grammar around the gaps is mended."""

# ruff: noqa: RUF001, which is about letters that look alike

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacyrestore.errors import SpanRemains
from privacyrestore.span_detector import Entity, Span, SpanDetector
from privacyrestore.span_removal import MOST_ROUNDS, remove_spans

from .linear_time import grows_linearly
from .span_corpus import FORMS, SpanCorpus

VOCABULARY = ("mild cough", "blue rash", "sore toe", "fever", "咳嗽", "שיעול", "سعال")


@pytest.fixture(scope="module")
def detector():
    return SpanDetector(VOCABULARY)


MENDED = [
    ("empty", "", ""),
    ("only a span", "fever", ""),
    ("only a span and a stop", "Fever.", "."),
    ("only spans", "mild cough, blue rash and fever", ""),
    ("head of a list", "He has fever, chills and sweat.", "He has chills and sweat."),
    ("middle", "He has chills, fever, hives and sweat.", "He has chills, hives and sweat."),
    ("before and", "He has chills, fever and sweat.", "He has chills and sweat."),
    ("before the comma and and", "He has chills, fever, and sweat.", "He has chills and sweat."),
    ("end", "He has chills, sweat and fever.", "He has chills and sweat."),
    ("end after a comma", "He has chills, sweat, and fever.", "He has chills and sweat."),
    ("end of a list of two", "He has chills and fever.", "He has chills."),
    ("head of a list of two", "He has fever and chills.", "He has chills."),
    ("the last two", "Has hives, chills, fever and sore toe.", "Has hives and chills."),
    ("or", "Is it chills or fever?", "Is it chills?"),
    ("nor", "Neither chills nor fever.", "Neither chills."),
    ("ampersand", "chills & fever", "chills"),
    ("slashes", "chills/fever/sweat", "chills/sweat"),
    ("semicolons", "chills; fever; sweat", "chills; sweat"),
    ("plus", "chills + fever", "chills"),
    ("brackets", "Chills (fever) again.", "Chills again."),
    ("list in brackets", "Chills (fever, sore toe) again.", "Chills again."),
    ("part of brackets", "Chills (fever, hives) again.", "Chills (hives) again."),
    ("preposition", "He came with fever.", "He came."),
    ("preposition and article", "He came with a fever.", "He came."),
    ("prepositions of two words", "He is absent because of fever.", "He is absent."),
    ("article", "He has a mild cough today.", "He has today."),
    ("own", "His fever is back.", "is back."),
    ("possessive", "The fever's cause?", "cause?"),
    ("comma after", "With fever, he left.", "With he left."),
    ("a line of its own", "chills\nfever\nsweat", "chills\n\nsweat"),
    ("over a line's end", "a blue\nrash here", "here"),
    ("Han", "病人咳嗽了", "病人了"),
    ("Hebrew", "יש לו שיעול חזק", "יש לו חזק"),
    ("Arabic", "لديه سعال شديد", "لديه شديد"),
    ("escaped", "He has f&#101;ver &amp; chills.", "He has &amp; chills."),
    ("private use", "chi\ue000lls and fev\ue000er", "chills"),
    ("words that begin as links", "He has fever, android in hand.", "He has android in hand."),
    ("words that end as links", "By hand fever came.", "By hand came."),
]


@pytest.mark.parametrize(
    ("text", "left"), [row[1:] for row in MENDED], ids=[row[0] for row in MENDED]
)
def test_grammar_is_mended(detector, text, left):
    removal = remove_spans(text, detector)
    assert removal.text == left
    assert bool(removal.spans) == (text != "")


WITHOUT = [
    "",
    "Nothing here ,, and . ( ) with",
    "  blanks \t kept \r\n ",
    "chi\ue000lls \u200b&amp;  é",
    "יש לו חזק , ו",
]


@pytest.mark.parametrize("text", WITHOUT)
def test_a_text_without_spans_comes_back_to_the_letter(detector, text):
    assert remove_spans(text, detector).text == text
    assert remove_spans(text, detector).spans == ()


PIECES = st.sampled_from(
    [
        *("mild cough", "MILD", "cough", "blue", "Rash", "fever", "fev", "er", "feverish", "咳嗽"),
        *("and", "or", "&", ",", ";", ".", "(", ")", "[", "]", "-", "-\n", "\n", "with", "of", "a"),
        *("the", "chills", "sweat", "\u200b", "\ue000", "&#102;ever", "&amp;", "<b>", "</b>", "'s"),
        *("f\u00e9ver", "ｆever", "_", "   ", ""),
    ]
)
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", " ", ", "])), max_size=25).map(
    lambda parts: "".join(piece + glue for piece, glue in parts)
)


@settings(max_examples=150)
@given(TEXTS)
def test_nothing_remains_and_removing_again_changes_nothing(detector, text):
    removal = remove_spans(text, detector)
    assert detector.find(removal.text) == []
    assert remove_spans(removal.text, detector).text == removal.text
    if not detector.find(text):
        assert removal.text == text
    assert {span.span_id for span in detector.find(text)} <= {s.span_id for s in removal.spans}
    assert all(0 <= span.start < span.end <= len(text) for span in removal.spans)


@settings(max_examples=150)
@given(TEXTS)
def test_removal_only_takes_away(detector, text):
    """Each sign of what is left is one of the text; only links change places."""
    left = remove_spans(text, detector).text
    signs = Counter(re.sub(r"\s", "", left))
    assert signs <= Counter(re.sub(r"\s", "", text))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_of_generated_spans_in_hostile_spellings_nothing_remains(seed):
    corpus = SpanCorpus(seed=seed, spans=8)
    detector = SpanDetector(corpus.vocabulary, corpus.aliases)
    for question in corpus.questions(len(FORMS)):
        removal = remove_spans(question.text, detector)
        named = [detector.vocabulary[span.span_id] for span in removal.spans]
        assert tuple(named) == question.canonical
        assert not any(marker in removal.text.casefold() for marker in corpus.markers)


def test_what_is_left_does_not_depend_on_which_spans_were_there():
    corpus = SpanCorpus(seed=5, spans=20)
    detector = SpanDetector(corpus.vocabulary, corpus.aliases)
    for _ in range(100):
        template = corpus.template()
        left = {remove_spans(corpus.fill(template).text, detector).text for _ in range(3)}
        assert len(left) == 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a mild fever cough", ""),
        ("mild, fever, cough now", "mild, cough now"),
        ("mild (fever) cough now", "now"),
        ("mild mild cough cough", ""),
        ("咳咳嗽嗽了", "了"),
    ],
)
def test_halves_that_removal_brings_together_go_too(detector, text, left):
    assert remove_spans(text, detector).text == left


def test_spans_are_places_of_the_text_and_what_shows_later_stands_for_all_of_it(detector):
    text = "mild fever cough"
    assert remove_spans(text, detector).spans == (Span(5, 10, 3), Span(0, 16, 0))


def test_overlapping_spans_go_as_one_and_both_are_told():
    detector = SpanDetector(("chest pain", "pain in the arm"))
    removal = remove_spans("He has chest pain in the arm today.", detector)
    assert removal.text == "He has today."
    assert [span.span_id for span in removal.spans] == [0, 1]


def nested(depth):
    return "mild " * depth + "cough " * depth


def test_a_text_that_always_yields_another_span_is_refused_without_its_words(detector):
    assert remove_spans(nested(MOST_ROUNDS - 1), detector).text == ""
    with pytest.raises(SpanRemains) as caught:
        remove_spans(nested(MOST_ROUNDS + 1), detector)
    said = str(caught.value)
    assert "cough" not in said
    assert "mild" not in said
    assert "nothing was sent" in said


class Everywhere:
    """Takes every text for an entity."""

    def entities(self, text):
        return [Entity(0, len(text), "ALL")]


def test_what_a_recogniser_names_is_taken_out_too():
    detector = SpanDetector(
        ("fever",), backend="hf-ner", recogniser=Everywhere(), labels={"ALL": "fever"}
    )
    assert remove_spans("whatever it is", detector).text == ""


LONG = {
    "blanks after": lambda n: "fever" + " " * n,
    "blanks before": lambda n: " " * n + "fever",
    "blanks within a list": lambda n: "a, b" + " " * n + "and fever x",
    "blanks elsewhere": lambda n: "fever x" + " " * n + "y",
    "lines": lambda n: "fever" + "\n" * n + "x",
    "commas": lambda n: "fever" + ",  " * (n // 3) + "x",
    "brackets": lambda n: "(" * (n // 2) + "fever" + ")" * (n // 2),
    "prepositions": lambda n: "with " * (n // 5) + "fever.",
    "articles": lambda n: "a " * (n // 2) + "fever.",
    "links": lambda n: "and, " * (n // 5) + "fever",
    "items": lambda n: ", a b c d" * (n // 9) + " and fever",
    "one long item": lambda n: "x, " + "a " * (n // 2) + "and fever",
    "spans": lambda n: "fever, " * (n // 7),
    "spans and words": lambda n: "fever with x and " * (n // 17),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_time_grows_linearly_with_the_text(detector, text):
    assert grows_linearly(lambda whole: remove_spans(whole, detector), text)
