"""ROUGE and BLEU are the published ones, digit for digit."""

import random
import re
from pathlib import Path

import pytest

from rewardds.porter_stemmer import stem
from rewardds.text_scores import rouge, sentence_bleu

nltk_bleu = pytest.importorskip("nltk.translate.bleu_score")
nltk_stem = pytest.importorskip("nltk.stem.porter")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

WORDS = (
    "the quick brown foxes jumped over lazily dogs running happily nations national 12 a bb "
    "relational skies dying ties tied agreed hopping falling filing generalizations formalities"
).split()
SUFFIXES = (
    "ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness "
    "fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance "
    "ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll y ied "
    "ies eed ed ing s ss sses at bl iz"
).split()


def texts(seed, shortest=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(shortest, 14))) for _ in range(2)]


def test_stems_are_those_of_nltk_on_made_up_words_of_every_ending():
    draw = random.Random(0)
    words = {
        "".join(draw.choices("abcdelnstxy1", k=draw.randint(0, 5)))
        + draw.choice(SUFFIXES)
        + draw.choice(["", *SUFFIXES])
        for _ in range(10000)
    }
    by_hand = "sky skies dying lying tying news innings outing cannings howe proceed exceed succeed"
    words |= {*by_hand.split(), "", "a", "is", "dies", "died", "yyyy"}
    theirs = nltk_stem.PorterStemmer()
    assert [word for word in sorted(words) if stem(word) != theirs.stem(word)] == []


def test_stems_are_those_of_nltk_on_words_of_prose():
    prose = " ".join(path.read_text("utf-8") for path in Path(__file__).parents[3].glob("*.md"))
    words = set(re.findall("[a-z]+", prose.lower()))
    assert len(words) > 300
    theirs = nltk_stem.PorterStemmer()
    assert {word: stem(word) for word in words} == {word: theirs.stem(word) for word in words}


@pytest.mark.parametrize("stemmed", [True, False])
def test_rouge_is_that_of_rouge_score(stemmed):
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=stemmed)
    pairs = [texts(seed) for seed in range(150)]
    pairs += [["", ""], ["", "a"], ["Größe, naïve?", "grosse NAÏVE größe"], ["x-ray_2!", "X ray 2"]]
    pairs += [["its bus ran", "it bu ran"]]  # three letters are not stemmed
    for ours, reference in pairs:
        theirs, mine = scorer.score(reference, ours), rouge(ours, reference, stemmed=stemmed)
        for name in names:
            overlap = getattr(mine, name)
            assert (overlap.precision, overlap.recall) == theirs[name][:2]
            assert overlap.f1 == pytest.approx(theirs[name].fmeasure, abs=1e-15)


def test_bleu_is_that_of_nltks_third_smoothing():
    smoothing = nltk_bleu.SmoothingFunction().method3
    for seed in range(200):
        ours, reference = texts(seed, 4)
        theirs = nltk_bleu.sentence_bleu(
            [reference.split()], ours.split(), smoothing_function=smoothing
        )
        assert sentence_bleu(ours, reference) == pytest.approx(theirs, abs=1e-12)


def test_short_and_empty_texts_have_a_bleu():
    assert sentence_bleu("so it is", "so it is") == pytest.approx(1)
    assert sentence_bleu("", "so it is") == sentence_bleu("no", "so it is") == 0
    assert 0 < sentence_bleu("so it", "so it is") < 1
