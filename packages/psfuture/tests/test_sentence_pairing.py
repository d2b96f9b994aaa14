import hypothesis.strategies as st
import pytest
from hypothesis import given

from psfuture.sentence_pairing import clean, plausible, sentence_pairs, sentences, unique_pairs


@pytest.mark.parametrize(
    "text",
    [
        "One ends here. | Another begins!",
        "Is it so? | “Yes,” he said. | He left.",
        "He asked “Why?” | Nobody knew.",
        "Use e.g. Bash or Zsh, i.e. A shell. | Then go on.",
        "Siehe z. B. Kapitel Drei. | Das ist d. h. Alles.",
        "Veja p. ex. Outro capítulo. | O Sr. Silva leu a pág. Seguinte.",
        "Am 3. Oktober wurde Version 2.0 fertig. | Gut so.",
        "Run apt. apt installs it.",
        "It costs 1.5 million in the U.S. Market.",
        "See Chapter (and its end.) | Then rest...",
        "Wait… | Über alles wird gesprochen.",
    ],
)
def test_sentences_are_cut_where_they_end_and_nowhere_else(text):
    assert sentences(text.replace("| ", "")) == text.split(" | ")


@given(st.lists(st.text(), max_size=4))
def test_cutting_loses_no_letter(parts):
    text = clean(". ".join(parts))
    assert " ".join(sentences(text)) == text


@given(st.text())
def test_a_clean_text_is_one_line_and_stays_as_it_is(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert cleaned.split() == cleaned.split(" ") or not cleaned


def test_blanks_of_any_kind_and_invisible_marks_are_gone():
    assert clean("\u00a0Soft\u00adhyphen\u202fand\u2009thin,\n zero\u200bwidth e\u0301 ") == (
        "Softhyphen and thin, zerowidth \u00e9"
    )


def test_texts_with_different_numbers_of_sentences_give_no_pair():
    assert sentence_pairs("One is here. Two is there.", "Eins ist hier. Zwei ist da.") == [
        ("One is here.", "Eins ist hier."),
        ("Two is there.", "Zwei ist da."),
    ]
    assert sentence_pairs("One is here. Two is there.", "Eins ist hier, zwei ist da.") == []


GOOD = "The old command writes 2 files.", "Der alte Befehl schreibt 2 Dateien."


@pytest.mark.parametrize(
    ("source", "target"),
    [
        GOOD,
        ("It costs 2,000.50 dollars today.", "Es kostet heute 2.000,50 Dollar."),
        ("Written on 12.5.2020 by hand.", "Am 12.5.2020 mit Hand geschrieben."),
        ("The option --force of /bin/rm helps.", "Die Option --force von /bin/rm hilft."),
        ("See “/etc/fstab” for the rest.", "Siehe „/etc/fstab“ für den Rest."),
    ],
)
def test_translations_are_kept(source, target):
    assert plausible(source, target)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("Only three words", "Es sind nur drei"),
        ("Here are four words", "Nur drei Worte"),
        (" ".join(["word"] * 61), " ".join(["Wort"] * 60)),
        (GOOD[0], GOOD[0]),
        (GOOD[0], "The old command writes 2 Dateien."),
        (GOOD[0], "Der alte Befehl schreibt 3 Dateien."),
        (GOOD[0], GOOD[1] + " Davon ist hier aber die Rede nicht, sondern von ganz anderem."),
        ("The option --force is very old.", "Die Option --farce ist sehr alt."),
        ("The file /etc/fstab is very old.", "Die Datei ist wirklich sehr alt."),
        ("The name my_name is very old.", "Der Name mein_name ist sehr alt."),
        ("1 2 3 4 5", "1 2 3 4 5"),
    ],
)
def test_what_is_no_translation_is_dropped(source, target):
    assert not plausible(source, target)


def test_a_source_is_kept_once_with_its_first_document():
    texts = [("a", *GOOD), ("b", GOOD[0], "Das alte Kommando schreibt 2 Dateien."), ("c", *GOOD)]
    assert list(unique_pairs(texts)) == [("a", *GOOD)]
