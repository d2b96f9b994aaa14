import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn.bleu import sentence_bleu

words = st.lists(st.sampled_from("a b c d e".split()), min_size=1, max_size=12)


def test_a_case_worked_by_hand():
    # 1-grams 3 of 5, 2-grams 1 of 4 ("the cat"), 3- and 4-grams none: 1/(2·3) and 1/(4·2)
    precisions = 3 / 5 * 1 / 4 * 1 / 6 * 1 / 8
    wanted = math.exp(1 - 6 / 5) * precisions**0.25
    found = sentence_bleu("the cat the the dog", "on the mat lay the cat")
    assert found == pytest.approx(wanted)


@given(words)
def test_a_text_has_1_with_itself(tokens):
    text = " ".join(tokens)
    assert sentence_bleu(text, text) == pytest.approx(1)
    assert sentence_bleu(text, "x y z") == 0
    assert sentence_bleu("", text) == sentence_bleu(text, "") == 0


@given(st.lists(st.sampled_from("abcde"), min_size=4, max_size=12), words)
def test_from_four_words_on_it_is_the_one_of_nltk(candidate, reference):
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="pip install nltk")
    smooth = bleu.SmoothingFunction().method3
    wanted = bleu.sentence_bleu([reference], candidate, smoothing_function=smooth)
    assert sentence_bleu(" ".join(candidate), " ".join(reference)) == pytest.approx(wanted)


def test_two_empty_texts_are_equal():
    assert sentence_bleu("", " ") == 1
