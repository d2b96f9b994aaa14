"""Membership inference: can texts that were to be forgotten be told from texts never trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftunlearn.token_statistics import TokenStatistics, token_statistics
from ftunlearn.verdict import RESAMPLES
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.text import Encoded, context_length, encode

TESTS = ("loss", "min_k", "min_k++")


def membership(
    pair: Any,
    forget: Sequence[str],
    held_out: Sequence[str],
    *,
    k: float = 0.2,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """How well three tests tell the forget texts from the held-out ones, under both models.

    For a text of n tokens, "loss" is the mean log-probability; "min_k" the mean over the k·n tokens
    of lowest log-probability (arXiv 2310.16789); "min_k++" the same with log-probabilities that are
    standardised by the model's own distribution at each token (arXiv 2404.02936). The value is the
    area under the ROC curve: 1 where every forget text looks more familiar than every held-out one,
    0.5 where nothing tells them apart. Unlearning that went too far shows as values below 0.5.

    Args:
        pair: a :class:`ftunlearn.pair.ModelPair`.
        forget: texts that the vanilla model was trained on; cut at the models' context length.
        held_out: texts of the same kind that it was not trained on.
        k: share of the tokens, in (0, 1].
        seed: of the bootstrap over texts.

    Returns:
        {"vanilla" | "unlearned": {test: {"value", "low", "high"}}}, 95 % intervals.

    Raises:
        InvalidSetting: k outside (0, 1].
        InvalidProbes: no texts on one side, or a text without a token that can be scored.
        NotFinite: logits that are NaN or infinite.
    """
    if not 0 < k <= 1:
        raise InvalidSetting(f"k must be in (0, 1], got {k}")
    if not forget or not held_out:
        raise InvalidProbes("membership inference needs forget texts and held-out texts")
    longest = context_length(pair.unlearned) or 1 << 20
    rows = [_cut(encode(pair.tokenizer, "", text), longest) for text in (*forget, *held_out)]
    found = {}
    for name in ("vanilla", "unlearned"):
        if name == "vanilla":
            with pair.as_vanilla() as model:
                statistics = token_statistics(model, pair.tokenizer, rows)
        else:
            statistics = token_statistics(pair.unlearned, pair.tokenizer, rows)
        scores = np.asarray([membership_scores(one, k) for one in statistics])
        found[name] = {
            test: _interval(scores[: len(forget), i], scores[len(forget) :, i], seed)
            for i, test in enumerate(TESTS)
        }
    return found


def membership_scores(statistics: TokenStatistics, k: float) -> tuple[float, float, float]:
    """Scores of one text by the three tests; the more familiar, the higher.

    Raises:
        InvalidProbes: no token was scored.
    """
    n = len(statistics.logprobs)
    if not n:
        raise InvalidProbes("a text of one token cannot be scored: nothing comes before it")
    lowest = max(1, int(k * n))
    return (
        float(statistics.logprobs.mean()),
        float(np.sort(statistics.logprobs)[:lowest].mean()),
        float(np.sort(statistics.standardised)[:lowest].mean()),
    )


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(a > b) + P(a = b)/2 for a from `positive` and b from `negative`."""
    ordered = np.sort(np.asarray(negative, dtype=np.float64))
    values = np.asarray(positive, dtype=np.float64)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return float((below + up_to).mean() / (2 * len(ordered)))


def _interval(
    positive: NDArray[np.float64], negative: NDArray[np.float64], seed: int
) -> dict[str, float]:
    generator = np.random.default_rng([seed, len(positive), len(negative)])
    drawn = [
        auc(generator.choice(positive, len(positive)), generator.choice(negative, len(negative)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": auc(positive, negative), "low": float(low), "high": float(high)}


def _cut(row: Encoded, longest: int) -> Encoded:
    return Encoded(row.prompt_ids, row.answer_ids[: longest - len(row.prompt_ids)])
