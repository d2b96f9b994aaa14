"""ROUGE-1, -2 and -L with stemming, as the paper reports them (Lin, 2004; arXiv 2406.01394)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, MissingExtra
from privacyrestore.recovery_scores import Interval, bootstrap_mean

COMMAND = "pip install 'lipogram-privacyrestore[eval]'"
KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, eq=False)
class Rouge:
    """F1 of n texts with their references.

    Attributes:
        rouge1, rouge2: [n] float64 in [0, 1], of words and of pairs of words.
        rouge_l: [n] float64, of the longest common subsequence.
        rouge1_mean, rouge2_mean, rouge_l_mean: means with 95 % bootstrap intervals over texts.
    """

    rouge1: Tensor
    rouge2: Tensor
    rouge_l: Tensor
    rouge1_mean: Interval
    rouge2_mean: Interval
    rouge_l_mean: Interval


def rouge(texts: Sequence[str], references: Sequence[str], *, seed: int = 0) -> Rouge:
    """Compare each text with its reference by the library `rouge-score` and its Porter stemmer.

    Words are runs of ASCII letters and digits in lower case, those of more than three letters
    stemmed: texts in other scripts have none, and score 0, as any text without words does. The
    paper's reference is the unsteered model's answer to the full question.

    Args:
        texts: n.
        references: n.
        seed: of the bootstrap.

    Raises:
        InvalidSetting: one text where a list belongs, or lists of different lengths.
        InvalidProbes: no texts.
        MissingExtra: `rouge-score` is not installed.
    """
    if isinstance(texts, str) or isinstance(references, str):
        raise InvalidSetting("texts and references are lists of texts, not one text")
    if len(texts) != len(references):
        raise InvalidSetting(f"{len(texts)} texts and {len(references)} references")
    if not texts:
        raise InvalidProbes("there are no texts to compare")
    try:
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
        from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingExtra("rouge-score", COMMAND) from error
    scorer = RougeScorer(KINDS, tokenizer=DefaultTokenizer(use_stemmer=True))
    found = torch.tensor(
        [
            [scores[kind].fmeasure for kind in KINDS]
            for scores in map(scorer.score, references, texts)
        ],
        dtype=torch.float64,
    )
    one, two, longest = found.unbind(1)
    return Rouge(
        one,
        two,
        longest,
        bootstrap_mean(one, seed=seed),
        bootstrap_mean(two, seed=seed),
        bootstrap_mean(longest, seed=seed),
    )
