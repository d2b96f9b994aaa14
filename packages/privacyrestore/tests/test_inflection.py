"""Forms of words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacyrestore.inflection import forms


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cough", "coughs coughing coughed"),
        ("rash", "rashes"),
        ("box", "boxes"),
        ("allergy", "allergies"),
        ("day", "days"),
        ("potato", "potatoes potatos"),
        ("leaf", "leaves leafs"),
        ("knife", "knives"),
        ("diagnosis", "diagnoses"),
        ("diagnoses", "diagnosis"),
        ("headaches", "headache"),
        ("rashes", "rash"),
        ("allergies", "allergy"),
        ("stabbing", "stab stabs stabbed stabbings"),
        ("stab", "stabbing stabbed"),
        ("bruise", "bruises bruising bruised"),
        ("bruising", "bruise bruised bruises"),
        ("worried", "worry worries worrying"),
        ("worry", "worried worries worrying"),
        ("sneezing", "sneeze sneezed sneezes"),
        ("limped", "limp limps limping"),
        ("swelling", "swell swells swelled swellings"),
        ("HIV".lower(), "hivs"),
    ],
)
def test_regular_forms_are_known(word, said):
    assert set(said.split()) <= forms(word)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("glass", "glas"),
        ("virus", "viru"),
        ("diagnosis", "diagnosi"),
        ("string", "str"),
        ("thing", "th"),
        ("foot", "feet"),
        ("fall", "fell"),
    ],
)
def test_other_words_and_irregular_forms_are_not(word, other):
    assert other not in forms(word)


@pytest.mark.parametrize("word", ["", "a", "07", "咳", "שלום", "t4", "x" * 10_000])
def test_any_word_is_a_form_of_itself(word):
    assert word in forms(word)


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12))
def test_a_word_has_few_forms_and_all_are_words(word):
    found = forms(word)
    assert {word, f"{word}s"} <= found
    assert len(found) < 60
    assert all(form.isalpha() for form in found)
