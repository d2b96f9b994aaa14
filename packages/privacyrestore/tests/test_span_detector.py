"""Where spans are found, in which spellings, and where they cannot be."""

# ruff: noqa: RUF001, which is about letters that look alike

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from privacyrestore.span_detector import Entity, Span, SpanDetector
from privacyrestore.text_folding import fold

from .linear_time import grows_linearly
from .span_corpus import FORMS, SpanCorpus

VOCABULARY = (
    "mild cough",
    "finding-07",
    "allergy",
    "HIV",
    "stabbing",
    "咳嗽",
    "שיעול",
    "سعال",
    "kašalj",
    "кашель",
    "기침",
    "ไอ",
    "chest pain",
    "pain in the arm",
)
ID = {name: i for i, name in enumerate(VOCABULARY)}


@pytest.fixture(scope="module")
def detector():
    return SpanDetector(VOCABULARY, {"mild cough": ("light tickle", "MC-9")})


def found(detector, text):
    """The places of a text and what they name."""
    return [(text[span.start : span.end], VOCABULARY[span.span_id]) for span in detector.find(text)]


HOSTILE = [
    # The text, and in it the letters that are named, with the span they name.
    ("the span alone", "HIV", "HIV", "HIV"),
    ("upper case", "a MILD COUGH today", "MILD COUGH", "mild cough"),
    ("lower case", "has hiv.", "hiv", "HIV"),
    ("plural", "two mild coughs", "mild coughs", "mild cough"),
    ("plural in -ies", "many allergies", "allergies", "allergy"),
    ("past", "was stabbed", "stabbed", "stabbing"),
    ("base", "to stab", "stab", "stabbing"),
    ("-ing", "a mild coughing", "mild coughing", "mild cough"),
    ("possessive", "the allergy's cause", "allergy's", "allergy"),
    ("typographic possessive", "HIV’s cause", "HIV’s", "HIV"),
    ("possessive of a plural", "allergies' cause", "allergies", "allergy"),
    ("alias", "a light tickle", "light tickle", "mild cough"),
    ("alias with a sign", "code mc 9 now", "mc 9", "mild cough"),
    ("newline", "a mild\ncough", "mild\ncough", "mild cough"),
    ("line of Windows, indented", "a mild\r\n    cough", "mild\r\n    cough", "mild cough"),
    ("several blanks", "a mild \t  cough", "mild \t  cough", "mild cough"),
    ("blank that does not break", "mild\u00a0cough", "mild\u00a0cough", "mild cough"),
    ("hyphen for blank", "mild-cough", "mild-cough", "mild cough"),
    ("dash for hyphen", "finding–07", "finding–07", "finding-07"),
    ("blank for hyphen", "finding 07", "finding 07", "finding-07"),
    ("run together", "finding07", "finding07", "finding-07"),
    ("underscores", "x _mild_cough_ y", "mild_cough", "mild cough"),
    ("emphasis", "a **mild** cough", "mild** cough", "mild cough"),
    ("parted at a line's end", "an aller-\n  gy.", "aller-\n  gy", "allergy"),
    ("zero-width blank", "a mi\u200bld cough", "mi\u200bld cough", "mild cough"),
    ("zero-width joiner", "a mild co\u200dugh", "mild co\u200dugh", "mild cough"),
    ("word joiner", "a mild\u2060 cough", "mild\u2060 cough", "mild cough"),
    ("soft hyphen", "an al\u00adler\u00adgy", "al\u00adler\u00adgy", "allergy"),
    ("homoglyphs", "a mild сough", "mild сough", "mild cough"),
    ("homoglyph capitals", "ΗΙV", "ΗΙV", "HIV"),
    ("accents", "a mïld cóugh", "mïld cóugh", "mild cough"),
    ("no accents where the span has them", "kasalj", "kasalj", "kašalj"),
    ("accent on the last letter", "HIV\u0301 now", "HIV\u0301", "HIV"),
    ("combining accents", "kas\u030calj", "kas\u030calj", "kašalj"),
    ("full width", "ＨＩＶ！", "ＨＩＶ", "HIV"),
    ("numeric reference", "m&#105;ld cough", "m&#105;ld cough", "mild cough"),
    ("hexadecimal reference", "&#x48;IV", "&#x48;IV", "HIV"),
    ("named reference", "mild&nbsp;cough", "mild&nbsp;cough", "mild cough"),
    ("escaped twice", "m&amp;#105;ld cough", "m&amp;#105;ld cough", "mild cough"),
    ("tag within", "a mild <b>cough</b>", "mild <b>cough", "mild cough"),
    ("tag within a word", "an al<i>ler</i>gy", "al<i>ler</i>gy", "allergy"),
    ("in brackets", "(allergy)", "allergy", "allergy"),
    ("in quotes", "«allergy»", "allergy", "allergy"),
    ("Han within a sentence", "病人咳嗽了", "咳嗽", "咳嗽"),
    ("Han over a line's end", "病人咳\n嗽了", "咳\n嗽", "咳嗽"),
    ("Thai within a word", "เขาไอมาก", "ไอ", "ไอ"),
    ("Korean with a particle", "환자는 기침이 있다", "기침", "기침"),
    ("Hebrew", "יש לו שיעול חזק", "שיעול", "שיעול"),
    ("Hebrew with points", "יש שִׁיעוּל", "שִׁיעוּל", "שיעול"),
    ("Arabic", "لديه سعال شديد", "سعال", "سعال"),
    ("Arabic, stretched and pointed", "لديه سُعـال", "سُعـال", "سعال"),
    ("marks of direction", "\u202bسعال\u202c", "سعال", "سعال"),
    ("Cyrillic, capitals", "У него КАШЕЛЬ.", "КАШЕЛЬ", "кашель"),
    ("emoji before", "🤒🤒 HIV", "HIV", "HIV"),
]


@pytest.mark.parametrize(
    ("text", "letters", "span"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile_spellings_are_found_where_they_stand(detector, text, letters, span):
    assert found(detector, text) == [(letters, span)]


UNSEEN = {
    "no span": "nothing of note",
    "empty": "",
    "part of a word": "the hive, unallergyc",
    "a paraphrase": "cannot stop clearing the throat",
    "a misspelling": "a mild couhg",
    "digits for letters": "a m1ld c0ugh",
    "blanks between letters": "m i l d c o u g h",
    "signs between letters": "H.I.V",
    "words between": "a mild, dry cough",
    "another order": "a cough, mild",
    "base64": "bWlsZCBjb3VnaA==",
    "percent signs": "mild%20cough",
    "escapes of JSON": "mild\\u0020cough",
    "reversed": "hguoc dlim",
    "half of it": "mild",
}


@pytest.mark.parametrize("text", UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen_is_not_found(detector, text):
    """Known limits, which the module's documentation lists."""
    assert detector.find(text) == []


def test_the_longest_match_counts_and_one_within_another_does_not():
    detector = SpanDetector(("pain", "chest pain", "chest pain at night"))
    assert detector.find("chest pain at night") == [Span(0, 19, 2)]
    assert detector.find("chest pain at noon, pain") == [Span(0, 10, 1), Span(20, 24, 0)]


def test_a_longer_match_that_fails_falls_back_on_the_shorter():
    detector = SpanDetector(("a b", "a b c d", "c x"))
    assert detector.find("a b c x") == [Span(0, 3, 0), Span(4, 7, 2)]


def test_overlapping_spans_are_both_there(detector):
    text = "chest pain in the arm"
    assert found(detector, text) == [
        ("chest pain", "chest pain"),
        ("pain in the arm", "pain in the arm"),
    ]


def test_repeated_spans_are_found_each_time(detector):
    assert detector.find("HIV, HIV") == [Span(0, 3, ID["HIV"]), Span(5, 8, ID["HIV"])]


def test_the_own_spelling_wins_over_an_inflected_one():
    detector = SpanDetector(("stab", "stabbing"))
    assert [span.span_id for span in detector.find("stab stabbing stabbed")] == [0, 1, 0]


def test_of_two_spans_that_fold_to_one_the_one_as_written_counts_else_the_first():
    detector = SpanDetector(("b!", "B!"))
    assert [span.span_id for span in detector.find("B! b! B́!")] == [1, 0, 0]


def test_without_english_only_the_spelling_and_its_possessive_count():
    detector = SpanDetector(("stabbing",), language="de")
    assert [span.start for span in detector.find("stabbing Stabbing stabbed stabbing's")] == [
        0,
        9,
        26,
    ]


CORPUS = SpanCorpus(seed=3, spans=30)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_generated_spans_in_every_form_are_found(form):
    detector = SpanDetector(CORPUS.vocabulary, CORPUS.aliases)
    for _ in range(20):
        template = CORPUS.template()
        question = CORPUS.fill(template, forms=[form] * template.count("{}"))
        names = [detector.vocabulary[span.span_id] for span in detector.find(question.text)]
        assert tuple(names) == question.canonical


ALPHABET = st.sampled_from(["a", "b", "ab", "é", "咳", "A", "-", " ", "\n", "\u200b", "&#97;", "."])


@settings(max_examples=100)
@given(
    st.lists(st.text("ab咳", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
    st.lists(ALPHABET, max_size=30).map("".join),
)
def test_found_places_fold_to_their_span(vocabulary, text):
    detector = SpanDetector(vocabulary, language="none")
    last = -1
    for span in detector.find(text):
        assert 0 <= span.start < span.end <= len(text)
        assert span.start >= last
        last = span.start
        said = fold(text[span.start : span.end].replace("-\n", "")).replace(" ", "")
        own = fold(vocabulary[span.span_id]).replace(" ", "")
        assert said == own


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=3).map(" ".join),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    st.lists(st.text("abc", min_size=1, max_size=2), max_size=15).map(" ".join),
)
def test_the_same_as_a_search_of_every_stretch_of_words(vocabulary, text):
    """An independent oracle: all stretches of words, compared with all spellings."""
    words, starts, at = text.split(), [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    spelt = set()
    for name in vocabulary:
        parts = name.split()
        lost = [
            [*parts[:k], parts[k] + parts[k + 1], *parts[k + 2 :]] for k in range(len(parts) - 1)
        ]
        for spelling in (name, "".join(parts), *map(" ".join, lost)):
            spelt.add(spelling)
    places = [
        (starts[i], starts[j] + len(words[j]))
        for i in range(len(words))
        for j in range(i, len(words))
        if " ".join(words[i : j + 1]) in spelt
    ]
    outermost = [
        place
        for place in places
        if not any(
            other != place and other[0] <= place[0] and place[1] <= other[1] for other in places
        )
    ]
    spans = SpanDetector(vocabulary, language="none").find(text)
    assert [(span.start, span.end) for span in spans] == outermost


LONG = {
    "words": "word " * 10 + "mild cough, ",
    "the first word of a span": "mild ",
    "spans": "mild cough ",
    "references": "&amp;",
    "half a reference": "&amp;#",
    "accents": "e\u0301",
    "Han": "病人咳嗽",
    "words parted by lines": "ab-\n",
    "half a tag": "<a",
    "tags": "<b>a</b>",
    "blanks": " ",
    "not seen": "\u200b",
    "signs": "'",
}


@pytest.mark.parametrize("piece", LONG.values(), ids=LONG.keys())
def test_time_grows_linearly_with_the_text(piece):
    detector = SpanDetector([*VOCABULARY, *(f"alpha{i} beta{i}" for i in range(140))])

    assert grows_linearly(detector.find, lambda n: (piece * (n // len(piece) + 1))[:n])


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((("a", "a"),), {}, "twice"),
        ((("",),), {}, "no letter"),
        (((" -_",),), {}, "no letter"),
        ((("\u200b",),), {}, "no letter"),
        ((("a",), {"b": ("c",)}), {}, "not in the vocabulary"),
        ((("a",), {"a": ("",)}), {}, "no letter"),
        (("abc",), {}, "lists"),
        ((("a",), {"a": "bc"}), {}, "lists"),
        ((("a",),), {"backend": "magic"}, "backend 'magic'"),
        ((("a",),), {"backend": "hf-ner"}, "needs a recogniser"),
        ((("a",),), {"labels": {"X": "a"}}, "takes no recogniser"),
        (
            (("a",),),
            {"backend": "hf-ner", "recogniser": object(), "labels": {"X": "b"}},
            "labels stand for",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, settings, message):
    with pytest.raises(InvalidSetting, match=message):
        SpanDetector(*arguments, **settings)


class Fixed:
    """Says the same of every text."""

    def __init__(self, *entities):
        self.said = list(entities)

    def entities(self, text):
        return self.said


def beside(*entities, labels=None):
    return SpanDetector(
        ("mild cough", "fever"), backend="hf-ner", recogniser=Fixed(*entities), labels=labels
    )


def test_a_label_stands_for_its_span_whatever_the_words():
    detector = beside(Entity(4, 11, "TEMP"), labels={"TEMP": "fever"})
    assert detector.find("the hot skin, mild cough") == [Span(4, 11, 1), Span(14, 24, 0)]


def test_an_entity_of_another_label_counts_as_far_as_the_dictionary_knows_it():
    detector = beside(Entity(0, 17, "DISEASE"), Entity(18, 22, "DISEASE"))
    assert detector.find("severe mild cough skin") == [Span(0, 17, 0)]


def test_an_empty_entity_is_nothing():
    assert beside(Entity(2, 2, "TEMP"), labels={"TEMP": "fever"}).find("text") == []


@pytest.mark.parametrize("place", [(-1, 2), (0, 5), (3, 2)])
def test_an_entity_outside_the_text_is_refused(place):
    with pytest.raises(InvalidSetting, match="outside the text"):
        beside(Entity(*place, "TEMP"), labels={"TEMP": "fever"}).find("text")
