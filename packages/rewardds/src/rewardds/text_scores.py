"""How like an answer is to a reference: ROUGE and sentence BLEU, as the paper reports them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from lipogram.llm.text_metrics import Overlap, rouge_l
from rewardds.porter_stemmer import stem

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Rouge:
    """Overlaps with a reference (Lin, 2004); scores of a set are the means of `f1`.

    Attributes:
        rouge1: of words.
        rouge2: of pairs of neighbouring words.
        rougeL: of the longest common subsequence of words.
    """

    rouge1: Overlap
    rouge2: Overlap
    rougeL: Overlap  # noqa: N815


def rouge(prediction: str, reference: str, *, stemmed: bool = True) -> Rouge:
    """ROUGE-1, -2 and -L of a text against a reference, as `rouge-score` counts.

    Words are runs of ASCII letters and digits in lower case; words in other scripts do not count.

    Args:
        prediction: the text.
        reference: what it is compared with.
        stemmed: whether words of four letters and more are stemmed (Porter).
    """
    ours, theirs = (_words(text, stemmed) for text in (prediction, reference))
    return Rouge(
        _shared(ours, theirs, 1),
        _shared(ours, theirs, 2),
        rouge_l(" ".join(ours), " ".join(theirs)),
    )


def sentence_bleu(prediction: str, reference: str) -> float:
    """BLEU of up to four words in a row of one text, in [0, 1] (Papineni et al., 2002).

    The k-th order without a match counts as 2^-k matches (smoothing 3 of Chen and Cherry, 2014).
    Orders that a text is too short for are left out. Words are those of `mteval-v13a`, so scores
    differ a little from the authors', who split words by NLTK's rules.
    """
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(smooth_method="exp", effective_order=True)
    return float(bleu.sentence_score(prediction, [reference]).score) / 100


def _words(text: str, stemmed: bool) -> list[str]:
    found = _WORD.findall(text.lower())
    return [stem(word) if stemmed and len(word) > 3 else word for word in found]


def _shared(ours: list[str], theirs: list[str], n: int) -> Overlap:
    mine, other = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (ours, theirs)
    )
    common = (mine & other).total()
    return Overlap(common / mine.total() if mine else 0.0, common / other.total() if other else 0.0)
