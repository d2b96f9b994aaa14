"""The classifier learns what can be learnt, and says plainly what it is no better than."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRecords
from rewardds.text_classifier import TextClassifier, held_out_score, majority_score

RED, BLUE = "the rose is red", "the sea is blue"
TEXTS, TAGS = [RED, BLUE, "red red wine", "blue blue sky"], [1, 0, 1, 0]


def drawn(n, seed):
    generator = np.random.default_rng(seed)
    tags = generator.integers(0, 2, n).tolist()
    words = [["calm", "tea", "walk", "bus"], ["exam", "late", "rent", "bus"]]
    return [" ".join(generator.choice(words[tag], 5)) for tag in tags], tags


@pytest.mark.parametrize("penalty", [0.02, 50.0])
def test_it_is_scikit_learns_tf_idf_and_logistic_regression(penalty):
    # Few of one class: a strong penalty names the other one more often.
    texts, tags = drawn(90, 0)
    kept = [i for i, tag in enumerate(tags) if tag or i % 4 == 0]
    train, test = ([texts[i] for i in kept], [tags[i] for i in kept]), drawn(60, 1)
    vectorizer = TfidfVectorizer()
    X = vectorizer.fit_transform(train[0])
    theirs = LogisticRegression(C=1 / penalty, max_iter=1000).fit(X, train[1])
    said = TextClassifier(penalty=penalty).fit(*train).predict(test[0])
    assert said == theirs.predict(vectorizer.transform(test[0])).tolist()
    assert (sum(said) == 60) == (penalty > 1)


def test_held_out_texts_teach_it_no_word():
    train = [RED, BLUE] * 5, [1, 0] * 5
    said = TextClassifier().fit(*train).predict([RED, BLUE, "unheard of"])
    assert said[:2] == [1, 0]
    assert held_out_score(train, ([RED, BLUE], [1, 0])).accuracy == 1.0


def test_the_score_is_counted_by_class_and_over_all():
    # One class alone is learnt from: it is named always.
    score = held_out_score((["a b"] * 3, [1] * 3), (["x", "y", "z", "w"], [1, 1, 1, 0]))
    assert (score.accuracy, score.balanced_accuracy) == (0.75, 0.5)
    assert score.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert (score.n_train, score.n_test, score.train_share) == (3, 4, 1.0)
    assert set(score.to_json()) >= {"accuracy", "n_train"}


def test_the_majority_is_that_of_the_labels_learnt_from():
    assert majority_score([1, 1, 0], [0, 0, 0, 1]).accuracy == 0.25
    assert majority_score([1, 0], [0, 0, 1]).accuracy == pytest.approx(2 / 3)  # a tie: the lowest
    assert majority_score([1, 0, 1], [1, 0]).train_share == pytest.approx(2 / 3)


def test_shuffled_labels_are_worth_nothing_and_true_ones_much():
    train, test = drawn(400, 0), drawn(400, 1)
    assert held_out_score(train, test).accuracy > 0.95
    random = [
        held_out_score((train[0], np.random.default_rng(i).permutation(train[1]).tolist()), test)
        for i in range(10)
    ]
    assert np.mean([score.accuracy for score in random]) == pytest.approx(0.5, abs=0.12)


def test_any_function_of_texts_does_for_features():
    seen = []

    def lengths(texts):
        seen.append(list(texts))
        return np.array([[len(text)] for text in texts], np.float32)

    classifier = TextClassifier(lengths, penalty=1e-3)
    assert classifier.fit(["a", "bb", "c" * 9, "d" * 8], [0, 0, 1, 1]).predict(["e" * 9, "f"]) == [
        1,
        0,
    ]
    assert [len(texts) for texts in seen] == [4, 2]


@pytest.mark.parametrize(
    ("texts", "tags", "said"),
    [([], [], "0 texts"), (["a"], [], "1 texts and 0"), (["?", "!"], [0, 1], "has a word")],
)
def test_what_cannot_be_learnt_leaves_it_as_it_was(texts, tags, said):
    classifier = TextClassifier().fit(TEXTS, TAGS)
    with pytest.raises(InvalidRecords, match=said):
        classifier.fit(texts, tags)
    assert classifier.predict([RED, BLUE]) == [1, 0]


def test_one_class_after_two_forgets_the_two_and_back():
    classifier = TextClassifier().fit(TEXTS, TAGS)
    assert classifier.fit([RED], [0]).predict([RED, BLUE]) == [0, 0]
    assert classifier.fit(TEXTS, TAGS).predict([RED, BLUE]) == [1, 0]


def test_settings_and_an_empty_test_are_refused():
    for penalty in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidSetting, match="penalty"):
            TextClassifier(penalty=penalty)
    with pytest.raises(InvalidSetting, match="bag"):
        TextClassifier("bag")
    with pytest.raises(InvalidSetting, match="fit"):
        TextClassifier().predict([RED])
    with pytest.raises(InvalidRecords, match="0 texts"):
        held_out_score((TEXTS, TAGS), ([], []))
    with pytest.raises(InvalidRecords, match="0 texts"):
        majority_score([], [1])
