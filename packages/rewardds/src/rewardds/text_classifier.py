"""A classifier of texts: what synthetic data are worth, measured on real held-out texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRecords

Features = Literal["tf-idf"] | Callable[[Sequence[str]], np.ndarray]
"""How texts become vectors: their words' weights, or any function such as `SentenceEmbeddings`."""


class TextClassifier:
    """Logistic regression on TF-IDF weights of words, or on embeddings.

    Args:
        features: "tf-idf" (scikit-learn's defaults: words of two letters and more, in lower case)
            or a function that gives (n, d) vectors of n texts.
        penalty: strength of the L2 penalty, 1/C of scikit-learn.

    Raises:
        InvalidSetting: other features, or a penalty that is not above 0.
    """

    def __init__(self, features: Features = "tf-idf", *, penalty: float = 1.0):
        if features != "tf-idf" and not callable(features):
            raise InvalidSetting(
                f"features is {features!r}: it must be 'tf-idf' or a function of texts"
            )
        if not 0 < penalty < float("inf"):
            raise InvalidSetting(f"penalty is {penalty}: it must be above 0 and finite")
        self.features, self.penalty = features, penalty
        self._vectors: Callable[[Sequence[str]], Any] | None = None
        self._model: Any = None
        self._only: int | None = None

    def fit(self, texts: Sequence[str], labels: Sequence[int]) -> TextClassifier:
        """Learn, and return itself. Of one class alone, it learns to say that one always.

        Raises:
            InvalidRecords: no texts, another number of labels, or texts without any word; it is
                as it was.
        """
        from sklearn.linear_model import LogisticRegression

        _check(texts, labels)
        if len(set(labels)) == 1:
            self._vectors, self._model, self._only = None, None, labels[0]
            return self
        vectors = _tf_idf(texts) if self.features == "tf-idf" else self.features
        model = LogisticRegression(C=1 / self.penalty, max_iter=1000).fit(vectors(texts), labels)
        self._vectors, self._model, self._only = vectors, model, None
        return self

    def predict(self, texts: Sequence[str]) -> list[int]:
        """Labels of texts.

        Raises:
            InvalidSetting: it has not learnt.
        """
        if self._only is not None:
            return [self._only] * len(texts)
        if self._vectors is None:
            raise InvalidSetting("the classifier has not learnt: call fit first")
        return [int(label) for label in self._model.predict(self._vectors(texts))]


@dataclass(frozen=True)
class ClassifierScore:
    """How well a classifier does on held-out texts.

    Attributes:
        accuracy: share of texts whose label it names.
        standard_error: of the accuracy, over the choice of held-out texts.
        balanced_accuracy: mean over the classes of the held-out texts of the share it finds.
        n_train: texts it learnt from.
        n_test: held-out texts.
        train_share: of the commonest class among the texts it learnt from; 1 where there is one.
    """

    accuracy: float
    standard_error: float
    balanced_accuracy: float
    n_train: int
    n_test: int
    train_share: float

    def to_json(self) -> dict[str, float]:
        """Plain numbers, for a report. Those of private held-out texts are private too."""
        return asdict(self)


def held_out_score(
    train: tuple[Sequence[str], Sequence[int]],
    test: tuple[Sequence[str], Sequence[int]],
    *,
    features: Features = "tf-idf",
    penalty: float = 1.0,
) -> ClassifierScore:
    """Train a classifier on some texts and score it on others.

    Args:
        train: texts and labels to learn from, say synthetic.
        test: real ones, held out.
        features: see :class:`TextClassifier`.
        penalty: likewise.

    Raises:
        InvalidSetting, InvalidRecords: as :class:`TextClassifier`, or no held-out texts.
    """
    _check(*test)
    said = TextClassifier(features, penalty=penalty).fit(*train).predict(test[0])
    return _score(said, train[1], test[1])


def majority_score(train_labels: Sequence[int], test_labels: Sequence[int]) -> ClassifierScore:
    """Of always naming the commonest label of those to learn from; of several, the lowest.

    Raises:
        InvalidRecords: no labels on one side.
    """
    _check(train_labels, train_labels)
    _check(test_labels, test_labels)
    counts = Counter(train_labels)
    commonest = min(counts, key=lambda label: (-counts[label], label))
    return _score([commonest] * len(test_labels), train_labels, test_labels)


def _score(
    said: Sequence[int], train_labels: Sequence[int], labels: Sequence[int]
) -> ClassifierScore:
    right = np.array([mine == theirs for mine, theirs in zip(said, labels, strict=True)])
    of = np.array(labels)
    accuracy, n = float(right.mean()), len(labels)
    return ClassifierScore(
        accuracy,
        float(np.sqrt(accuracy * (1 - accuracy) / n)),
        float(np.mean([right[of == label].mean() for label in set(labels)])),
        len(train_labels),
        n,
        max(Counter(train_labels).values()) / len(train_labels),
    )


def _tf_idf(texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer()
    try:
        vectorizer.fit(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise InvalidRecords(f"none of {len(texts)} texts has a word to learn from") from None
    return vectorizer.transform


def _check(texts: Sequence[Any], labels: Sequence[int]) -> None:
    if not texts or len(texts) != len(labels):
        raise InvalidRecords(
            f"{len(texts)} texts and {len(labels)} labels: there must be as many, and some"
        )
