"""ROUGE by counting, after the stemmer; the subsequence against the workspace's own."""

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidProbes, InvalidSetting, MissingExtra
from lipogram.llm.text_metrics import rouge_l
from privacyrestore.rouge import rouge

# Words of at most three letters are not stemmed, so plain counting must agree.
texts = st.lists(st.sampled_from(["flu", "cat", "a", "07", "the", "is"]), max_size=9).map(" ".join)


def f1(text, reference, n):
    ours, theirs = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False))
        for words in (text.split(), reference.split())
    )
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 0.0


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_short_words_are_counted_as_they_are(pairs):
    ours, theirs = zip(*pairs, strict=True)
    found = rouge(ours, theirs)
    for i, (text, reference) in enumerate(pairs):
        assert float(found.rouge1[i]) == pytest.approx(f1(text, reference, 1))
        assert float(found.rouge2[i]) == pytest.approx(f1(text, reference, 2))
        assert float(found.rouge_l[i]) == pytest.approx(rouge_l(text, reference).f1)
    mean = found.rouge_l_mean
    assert mean.value == pytest.approx(float(found.rouge_l.mean()))
    assert mean.low - 1e-9 <= mean.value <= mean.high + 1e-9


def test_inflections_are_one_word():
    found = rouge(["Coughing, dizziness!", "diagnosed"], ["coughs dizziness", "cold"])
    assert found.rouge1.tolist() == found.rouge_l.tolist() == [1.0, 0.0]
    assert found.rouge2.tolist() == [1.0, 0.0]


def test_what_has_no_words_scores_nothing():
    assert rouge(["", "咳嗽", "flu"], ["", "咳嗽", ""]).rouge1.tolist() == [0.0] * 3


def test_the_order_of_a_pair_does_not_matter_to_f1():
    one, other = ["the flu is the flu"], ["flu the is"]
    forth, back = rouge(one, other), rouge(other, one)
    assert forth.rouge1.tolist() == back.rouge1.tolist()
    assert forth.rouge_l.tolist() == back.rouge_l.tolist()


def test_lists_that_do_not_fit():
    with pytest.raises(InvalidSetting, match="2 texts and 1 references"):
        rouge(["a", "b"], ["a"])
    with pytest.raises(InvalidSetting, match="lists of texts"):
        rouge("a", "a")
    with pytest.raises(InvalidProbes, match="no texts"):
        rouge([], [])


def test_without_the_library_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtra, match=r"lipogram-privacyrestore\[eval\]"):
        rouge(["a"], ["a"])
