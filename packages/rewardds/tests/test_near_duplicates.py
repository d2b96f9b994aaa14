"""Near duplicates are those of the exact Jaccard similarity, found without comparing all pairs."""

import random

import pytest

from lipogram.errors import InvalidSetting
from rewardds.near_duplicates import HASHES, MISSED, NearDuplicates, band_rows
from rewardds.words import words


def shingles(text, size=5):
    """The oracle's own: sets of strings."""
    folded = " ".join(words(text))
    return {folded[i : i + size] for i in range(max(1, len(folded) - size + 1))}


def corpus(seed, n=100):
    """Sentences, and copies of them with some words changed."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijkl", k=draw.randint(2, 9))) for _ in range(300)]
    texts = []
    for _ in range(n):
        if texts and draw.random() < 0.5:
            told = draw.choice(texts).split()
            for _ in range(draw.randint(0, 3)):
                told[draw.randrange(len(told))] = draw.choice(vocabulary)
        else:
            told = draw.choices(vocabulary, k=draw.randint(3, 25))
        texts.append(" ".join(told))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_what_stays_and_what_goes_is_what_all_pairs_say(threshold):
    for seed in range(2):
        texts = corpus(seed)
        cut = [shingles(text) for text in texts]
        near = NearDuplicates(threshold)
        kept: list[int] = []
        gone = 0
        for i, text in enumerate(texts):
            found = near.add(str(i), text)
            similar = {j: len(cut[i] & cut[j]) / len(cut[i] | cut[j]) for j in kept}
            best = max(similar.values(), default=0.0)
            if best >= threshold:
                gone += 1
                assert found is not None
                assert similar[int(found)] == best
            else:
                assert found is None
                kept.append(i)
        assert 5 < gone < 95  # both happen


def test_folding_makes_texts_the_same():
    near = NearDuplicates(1.0)
    assert near.add("a", "Is the Loan — repaid?") is None
    assert near.add("b", "is the\u200b loan   repaid") == "a"
    assert near.add("c", "\uff29\uff33 the loan repaid!!") == "a"
    assert near.add("d", "Is the loan repaid now?") is None


def test_of_several_the_nearest_is_told():
    for seed in range(4):
        draw = random.Random(seed)
        vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(40)]
        long, short = " ".join(vocabulary[:24]), " ".join(vocabulary[24:])
        for order in ({"near": long, "far": short}, {"far": short, "near": long}):
            near = NearDuplicates(0.25)
            assert [near.add(key, text) for key, text in order.items()] == [None, None]
            assert near.add("asked", f"{long} {short}") == "near"


def test_texts_without_words_are_one():
    near = NearDuplicates()
    assert near.add("a", "") is None
    assert near.add("b", "?!") == "a"
    assert near.add("c", "word") is None


def test_a_pair_at_the_threshold_is_proposed_all_but_surely():
    for threshold in (0.1, 0.5, 0.8, 0.9, 0.99):
        rows = band_rows(threshold)
        assert (1 - threshold**rows) ** (HASHES // rows) <= MISSED
    assert band_rows(0.8) == 5
    assert band_rows(1.0) == HASHES


@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"threshold": 1.1}, {"shingle": 0}])
def test_a_setting_out_of_range_is_refused(settings):
    with pytest.raises(InvalidSetting):
        NearDuplicates(**settings)


def test_a_key_names_one_text_and_a_refusal_changes_nothing():
    near = NearDuplicates()
    near.add("a", "one text about loans")
    with pytest.raises(InvalidSetting, match="'a' was kept before"):
        near.add("a", "another text about flowers")
    assert near.add("b", "another text about flowers") is None


def test_words_of_scripts_without_spaces_are_characters():
    assert words("Dose: 5mg/kg, naïve STRASSE straße") == [
        *["dose", "5mg", "kg", "naïve", "strasse", "strasse"]
    ]
    assert words("吃药 now") == ["吃", "药", "now"]
    assert words("a\u00adb\u200dc ﬁne") == ["abc", "fine"]
