"""The measures of TOFU (arXiv 2401.06121, §2.2) and two of memorisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftunlearn.kolmogorov_smirnov import ks_two_sample
from ftunlearn.probes import Probe
from ftunlearn.token_statistics import TokenStatistics, token_statistics
from lipogram.errors import InvalidProbes
from lipogram.llm.generation import generate
from lipogram.llm.text import encode
from lipogram.llm.text_metrics import rouge_l

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TofuScores:
    """One model on n probes, each (n,) float64.

    Attributes:
        ids: of the probes.
        probability: exp of the mean log-probability of the answer's tokens.
        relative_probability: the same divided by its sum with those of the perturbed answers; NaN
            where a probe has none.
        rouge_l: recall of the greedy continuation against the answer.
        truth_ratio: :func:`truth_ratio`; NaN where a probe has no perturbed answers.
        extraction_strength: :func:`extraction_strength`.
        exact_memorization: share of the answer's tokens that are greedy, teacher-forced.
    """

    ids: tuple[str, ...]
    probability: Values
    relative_probability: Values
    rouge_l: Values
    truth_ratio: Values
    extraction_strength: Values
    exact_memorization: Values


def tofu_scores(
    model: Any, tokenizer: Any, probes: Sequence[Probe], *, max_new_tokens: int = 200
) -> TofuScores:
    """Measure one model.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        probes: with answers; those with `perturbed_answers` get a truth ratio, against
            `paraphrased_answer` or else the answer itself.
        max_new_tokens: of the continuation that ROUGE-L looks at.

    Raises:
        InvalidProbes: no probes, or one without an answer.
        NotFinite: logits that are NaN or infinite.
    """
    asked: list[tuple[Probe, str]] = []
    for probe in probes:
        if probe.answer is None:
            raise InvalidProbes(f"probe {probe.id!r} has no answer to measure against")
        asked.append((probe, probe.answer))
    if not asked:
        raise InvalidProbes("no probes to measure")
    said = generate(model, tokenizer, [p.prompt for p in probes], max_new_tokens=max_new_tokens)
    texts = [
        (probe.prompt, text)
        for probe, answer in asked
        for text in (answer, probe.paraphrased_answer or answer, *probe.perturbed_answers)
    ]
    rows = [encode(tokenizer, prompt, text) for prompt, text in texts]
    statistics = iter(token_statistics(model, tokenizer, rows))
    columns: list[tuple[float, ...]] = []
    for (probe, answer), words in zip(asked, said, strict=True):
        own, other = next(statistics), next(statistics)
        wrong = [next(statistics) for _ in probe.perturbed_answers]
        columns.append(
            (
                own.probability,
                own.probability / (own.probability + sum(one.probability for one in wrong))
                if wrong
                else float("nan"),
                rouge_l(words.text, answer).recall,
                truth_ratio(other, wrong) if wrong else float("nan"),
                extraction_strength(own.greedy),
                float(own.greedy.mean()),
            )
        )
    return TofuScores(tuple(p.id for p in probes), *np.asarray(columns, dtype=np.float64).T)


def truth_ratio(paraphrased: TokenStatistics, perturbed: Sequence[TokenStatistics]) -> float:
    """How much likelier wrong answers are than the right one in other words.

    exp(mean_k s_k)/exp(s_0), with s the mean log-probability by token of the wrong answers and of
    the paraphrased one. As in the code published with TOFU the wrong answers are averaged in the
    exponent; the paper's equation 1 writes the mean of the probabilities.
    """
    wrong = float(np.mean([one.logprobs.mean() for one in perturbed]))
    return float(np.exp(wrong - paraphrased.logprobs.mean()))


def truth_ratio_forget(ratios: ArrayLike) -> float:
    """Mean of min(r, 1/r): 1 where the model holds neither answer for truer. NaN is left out."""
    r = np.asarray(ratios, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return float(np.nanmean(np.minimum(r, 1 / r)))


def truth_ratio_retain(ratios: ArrayLike) -> float:
    """Mean of max(0, 1 − r): 1 where the right answer is far likelier. NaN is left out."""
    return float(np.nanmean(np.maximum(0.0, 1 - np.asarray(ratios, dtype=np.float64))))


def model_utility(retain: TofuScores, real_authors: TofuScores, world_facts: TofuScores) -> float:
    """Harmonic mean of probability, ROUGE-L recall and truth ratio on three sets: nine numbers.

    The probability is the answer's own on the retain set, and relative to the perturbed answers on
    the other two.

    Raises:
        InvalidProbes: a set without perturbed answers.
    """
    parts = []
    for scores in (retain, real_authors, world_facts):
        if np.isnan(scores.truth_ratio).all():
            raise InvalidProbes("a set has no perturbed answers, so no truth ratio")
        known = scores.probability if scores is retain else scores.relative_probability
        parts += [
            float(np.nanmean(known)),
            float(scores.rouge_l.mean()),
            truth_ratio_retain(scores.truth_ratio),
        ]
    return harmonic_mean(parts)


def harmonic_mean(values: ArrayLike) -> float:
    """n/Σ 1/x; 0 as soon as one value is."""
    x = np.asarray(values, dtype=np.float64)
    return 0.0 if (x <= 0).any() else float(len(x) / (1 / x).sum())


def forget_quality(unlearned: ArrayLike, retain_model: ArrayLike) -> float:
    """The p value that the truth ratios on the forget set are those of a model that never saw it.

    Args:
        unlearned: truth ratios of the unlearned model.
        retain_model: of a model trained without the forget set.

    Returns:
        Two-sample Kolmogorov-Smirnov p value: high is good.
    """
    return ks_two_sample(unlearned, retain_model)[1]


def extraction_strength(greedy: ArrayLike) -> float:
    """1 − k/n, with k the shortest beginning of an answer after which the model says all the rest.

    Args:
        greedy: (n,) bool, whether each token of the answer is the most probable one after the
            prompt and the tokens before it (arXiv 2102.05296's measure, as used for unlearning).
    """
    hits = np.asarray(greedy, dtype=bool)
    misses = np.flatnonzero(~hits)
    return 1.0 - (int(misses[-1]) + 1) / len(hits) if len(misses) else 1.0
