import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.llm.text_metrics import exact_match, rouge_l, token_f1

TEXTS = st.lists(
    st.sampled_from(["the", "cat", "Cat", "sat", "on", "été", "it's", "42", "-", "猫", "a_b"]),
    max_size=9,
).map(" ".join) | st.text(max_size=12)


@given(prediction=TEXTS, reference=TEXTS)
def test_rouge_l_is_that_of_rouge_score(prediction, reference):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install rouge-score")
    wanted = scorer.RougeScorer(["rougeL"], use_stemmer=False).score(reference, prediction)[
        "rougeL"
    ]
    found = rouge_l(prediction, reference)
    assert found.precision == pytest.approx(wanted.precision, abs=1e-12)
    assert found.recall == pytest.approx(wanted.recall, abs=1e-12)
    assert found.f1 == pytest.approx(wanted.fmeasure, abs=1e-12)


def test_rouge_l_by_hand():
    found = rouge_l("the cat sat on a mat", "the mat sat on the cat the")
    assert found.precision == 3 / 6  # the sat on
    assert found.recall == 3 / 7


def test_words_as_bags():
    found = token_f1("the the cat", "cat the dog")
    assert found.precision == found.recall == pytest.approx(2 / 3)
    assert token_f1("the cat", "a dog").f1 == 0
    assert token_f1("", "dog").f1 == token_f1("dog", "").f1 == 0


@given(prediction=TEXTS, reference=TEXTS)
def test_overlaps_are_shares_and_an_exact_match_overlaps_wholly(prediction, reference):
    for measure in (token_f1, rouge_l):
        found, swapped = measure(prediction, reference), measure(reference, prediction)
        assert 0 <= found.f1 <= 1
        assert found.precision == swapped.recall
    if exact_match(prediction, reference) and prediction.strip():
        assert token_f1(prediction, reference).f1 == 1
    assert exact_match(prediction, prediction)


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("Paris.", " paris", True),
        ("Paris, France", "paris france", True),
        ("e\u0301te\u0301", "ÉTÉ", True),
        ("猫", "犬", False),
        ("été", "t", False),
        ("!", "?", False),
        ("", "?", False),
        ("", " ", True),
        ("the cat", "cat", False),
    ],
)
def test_an_exact_match_is_of_words_of_any_script(prediction, reference, same):
    assert exact_match(prediction, reference) is same
