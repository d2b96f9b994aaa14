"""How like two texts are."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+")
_ROUGE_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and their harmonic mean, each in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """2PR / (P + R); 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def exact_match(prediction: str, reference: str) -> bool:
    """Whether two texts have the same words: case, punctuation and spacing do not count.

    Words are runs of letters and digits of any script; in a text without any, what blanks part.
    """
    return _words(prediction) == _words(reference)


def token_f1(prediction: str, reference: str) -> Overlap:
    """Overlap of the words of :func:`exact_match`, as bags.

    As for SQuAD (arXiv 1606.05250, section 6.1), but articles are kept. Two empty texts have none.
    """
    ours, theirs = _words(prediction), _words(reference)
    return _overlap(sum((Counter(ours) & Counter(theirs)).values()), ours, theirs)


def rouge_l(prediction: str, reference: str) -> Overlap:
    """ROUGE-L: the longest common subsequence of words over each text's length (Lin, 2004).

    Words are runs of ASCII letters and digits, in lower case and unstemmed, as in `rouge-score`.
    """
    ours, theirs = (_ROUGE_WORD.findall(text.lower()) for text in (prediction, reference))
    best = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for j, other in enumerate(theirs, 1):
            diagonal, best[j] = (
                best[j],
                diagonal + 1 if word == other else max(best[j], best[j - 1]),
            )
    return _overlap(best[-1], ours, theirs)


def _overlap(common: int, ours: list[str], theirs: list[str]) -> Overlap:
    return Overlap(common / len(ours) if ours else 0.0, common / len(theirs) if theirs else 0.0)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(folded) or folded.split()
