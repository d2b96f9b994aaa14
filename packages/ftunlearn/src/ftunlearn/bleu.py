"""BLEU of one sentence."""

import math
from collections import Counter


def sentence_bleu(candidate: str, reference: str, *, max_n: int = 4) -> float:
    """BLEU of white-space tokens with uniform weights, smoothed.

    exp(min(0, 1 − |r|/|c|))·(Π_n p_n)^(1/N), with p_n the clipped n-gram precision. A p_n of zero
    counts as 1/(2^k·its denominator) for the k-th one (method 3 of Chen and Cherry 2014, as in the
    evaluation of arXiv 2406.11614). N is `max_n`, or the candidate's length where that is shorter:
    a text has 1 with itself at any length. Without a common word it is 0.

    Args:
        candidate: text c.
        reference: text r.
        max_n: longest n-gram.

    Returns:
        In [0, 1]; 1 for two empty texts.
    """
    c, r = candidate.split(), reference.split()
    if not c or not r:
        return float(c == r)
    log_sum, zeros = 0.0, 0
    longest = min(max_n, len(c))
    for n in range(1, longest + 1):
        grams, known = (Counter(zip(*(w[i:] for i in range(n)), strict=False)) for w in (c, r))
        matches, total = (grams & known).total(), grams.total()
        if not matches and n == 1:
            return 0.0
        if not matches:
            zeros += 1
        log_sum += math.log((matches or 2.0**-zeros) / total)
    return math.exp(min(0.0, 1 - len(r) / len(c)) + log_sum / longest)
