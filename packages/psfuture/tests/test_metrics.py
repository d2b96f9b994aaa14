"""Latency and quality of test sets: units, means, what is left out, and what is refused."""

import dataclasses
import math
import sys

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting, MissingExtra, NothingMeasurable
from psfuture.latency import MEASURES
from psfuture.metrics import corpus_latency, latency, quality, score
from psfuture.trace import Trace

FIRST = Trace(
    ("the", "cat", "sat"),
    ("o", "gato", "sentou"),
    (1, 3, 3),
    (5, 6, 7, 8),
    (1, 2, 3, 3),
    "RWRWRWW",
    "o gato sentou-se",
    (100.0, 900.0, 50.0),
)
SECOND = Trace(("hi",), ("olá",), (1,), (9,), (1,), "RW", "olá", (10.0,))
EMPTY = Trace((), (), (), reference="", compute_ms=())


@st.composite
def traces(draw):
    source = tuple(draw(st.lists(st.just("s"), min_size=1, max_size=8)))
    reads = sorted(draw(st.lists(st.integers(1, len(source)), min_size=1, max_size=8)))
    compute = draw(st.lists(st.floats(0, 2000), min_size=len(source), max_size=len(source)))
    reference = draw(st.none() | st.just("a b c"))
    words = tuple("wort" for _ in reads)
    tokens = tuple(range(len(reads)))
    return Trace(source, words, tuple(reads), tokens, tuple(reads), "", reference, tuple(compute))


@given(traces(), st.sampled_from(["word", "char"]), st.floats(1, 2000))
def test_computation_only_adds_latency(trace, unit, pace):
    plain = latency(trace, unit=unit)
    aware = latency(trace, unit=unit, computation_aware=True, unit_ms=pace)
    for name in MEASURES:
        assert not aware[name] < plain[name] - 1e-9
        assert math.isnan(aware[name]) == math.isnan(plain[name])


@given(traces())
def test_no_computation_adds_none(trace):
    free = dataclasses.replace(trace, compute_ms=(0.0,) * len(trace.source))
    aware = latency(free, computation_aware=True)
    assert aware == pytest.approx(latency(trace), nan_ok=True)


@given(traces())
def test_words_of_one_letter_are_the_same_in_both_units(trace):
    short = dataclasses.replace(trace, words=tuple("w" for _ in trace.words), reference=None)
    assert latency(short, unit="char") == pytest.approx(latency(short), nan_ok=True)


def test_tokens_are_measured_by_their_own_delays():
    by_token = latency(FIRST, unit="token", tokenize=list)
    as_words = Trace(FIRST.source, ("w",) * 4, FIRST.token_delays, reference=" " * 15)
    assert by_token == latency(as_words)


def test_a_corpus_is_the_plain_mean_of_what_has_output():
    found = corpus_latency([FIRST, EMPTY, SECOND])
    assert (found.sentences, found.empty) == (2, 1)
    first, second = latency(FIRST), latency(SECOND)
    for name in set(MEASURES) - {"YAAL"}:
        assert found.values[name] == pytest.approx((first[name] + second[name]) / 2)
    assert math.isnan(second["YAAL"])
    assert found.values["YAAL"] == first["YAAL"]


def test_quality_is_sacrebleus():
    outputs, references = ["o gato sentou", "olá"], ["o gato sentou-se", "olá"]
    found = quality([FIRST, SECOND])
    assert found["BLEU"] == sacrebleu.corpus_bleu(outputs, [references]).score
    assert found["chrF"] == sacrebleu.corpus_chrf(outputs, [references]).score
    assert "tok:13a" in found["BLEU_signature"]
    assert "version:" in found["chrF_signature"]


def test_characters_are_joined_without_blanks():
    trace = Trace(("a",), ("你", "好"), (1, 1), reference="你好")
    found = quality([trace] * 3, unit="char", tokenizer="zh")
    assert "tok:zh" in found["BLEU_signature"]
    assert found["chrF"] == pytest.approx(100)


def test_score_holds_everything():
    found = score([FIRST, EMPTY, SECOND])
    assert found["AL_CA"] > found["AL"]
    assert {"BLEU", "chrF", "BLEU_signature", "sentences", "empty"} < set(found)
    assert found["empty"] == 1
    assert set(MEASURES) < set(found)
    unmeasured = dataclasses.replace(FIRST, compute_ms=(), reference=None)
    assert set(score([unmeasured])) == {*MEASURES, "sentences", "empty"}


def test_nothing_to_measure_is_said():
    with pytest.raises(NothingMeasurable, match="no output"):
        latency(EMPTY)
    with pytest.raises(NothingMeasurable, match="none of 2"):
        corpus_latency([EMPTY, EMPTY])
    with pytest.raises(NothingMeasurable):
        score([EMPTY])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "byte"}, "byte.*word, char, token"),
        ({"unit": "token"}, "tokenize"),
        ({"unit": "token", "tokenize": lambda text: []}, "no units"),
        ({"computation_aware": True, "unit_ms": 0}, "unit_ms"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        latency(FIRST, **settings)


def test_an_empty_reference_has_no_characters_to_divide_by():
    with pytest.raises(InvalidSetting, match="no units"):
        latency(FIRST.with_reference("\n"), unit="char")
    assert latency(FIRST.with_reference(""))["AP"] > 1


def test_quality_needs_references_and_a_tokenizer_that_is_here():
    with pytest.raises(InvalidSetting, match="sentence 2 of 2"):
        quality([FIRST, FIRST.with_reference(None)])
    with pytest.raises(InvalidSetting, match="no sentences"):
        quality([])
    with pytest.raises(InvalidSetting, match="flores200"):
        quality([FIRST], tokenizer="flores200")


def test_japanese_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)
    sys.modules.pop("sacrebleu.tokenizers.tokenizer_ja_mecab", None)
    with pytest.raises(MissingExtra, match=r"sacrebleu\[ja\]"):
        quality([FIRST], tokenizer="ja-mecab")
