"""What else unlearning changed: outputs, probabilities, plain language, weights."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from ftunlearn.bleu import sentence_bleu
from ftunlearn.probes import GROUPS, Probe, ProbeSet
from ftunlearn.token_statistics import TokenStatistics, token_statistics
from ftunlearn.verdict import interval_of_mean
from ftunlearn.weight_change import value_vector_change, weight_change
from lipogram.errors import InvalidProbes, PatchMismatch
from lipogram.llm.generation import generate
from lipogram.llm.text import Encoded, encode
from lipogram.llm.text_metrics import rouge_l


def side_effects(
    pair: Any, probes: ProbeSet, *, max_new_tokens: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Compare two models on probes of all groups, on plain text, and weight by weight.

    Per group, means over its probes with 95 % bootstrap intervals:
    "bleu", "rouge_l" and "same_output" compare the two models' greedy outputs with each other, not
    with an answer (:func:`ftunlearn.bleu.sentence_bleu`; F1; share of outputs that are equal): low
    on "forget" is forgetting, low on "unrelated" is damage (arXiv 2406.11614, §5).
    "probability_*" is exp of the mean log-probability of the answer's tokens, "accuracy_*" the
    share of probes whose whole answer is greedy, and "paraphrase_*" the same after paraphrased
    prompts. The answer of a probe that brings none is the vanilla model's greedy output.

    Args:
        pair: a :class:`ftunlearn.pair.ModelPair`.
        probes: any groups; those too long for the models stop the comparison.
        max_new_tokens: of an output.
        seed: of the bootstrap.

    Returns:
        {"behaviour": {group: {measure: {"value", "low", "high"}}}, "perplexity": {"vanilla",
        "unlearned"} of a bundled neutral text, "weight_change", "value_vectors": see
        :mod:`ftunlearn.weight_change`}; the last two are missing for an adapter whose change of the
        weights is no sum.

    Raises:
        InvalidProbes: no probes.
        NotFinite: logits that are NaN or infinite.
    """
    if not len(probes):
        raise InvalidProbes("no probes to compare the models on")
    prompts = [probe.prompt for probe in probes]
    tokenizer = pair.tokenizer
    with pair.as_vanilla() as model:
        before = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
    after = generate(pair.unlearned, tokenizer, prompts, max_new_tokens=max_new_tokens)
    answers = [
        output.ids if probe.answer is None else probe.answer
        for probe, output in zip(probes, before, strict=True)
    ]
    columns = _of_outputs([b.text for b in before], [a.text for a in after])
    columns |= _of_answers(pair, probes, answers)
    behaviour: dict[str, dict[str, dict[str, float]]] = {}
    for group in GROUPS:
        places = [i for i, probe in enumerate(probes) if probe.group == group]
        measures = {name: interval_of_mean(values[places], seed=seed)
                    for name, values in columns.items()}  # fmt: skip
        if places:
            behaviour[group] = {
                name: dict(vars(found)) for name, found in measures.items()
                if not np.isnan(found.value)
            }  # fmt: skip
    found: dict[str, Any] = {"behaviour": behaviour, "perplexity": neutral_perplexity(pair)}
    try:
        found["weight_change"] = weight_change(pair.vanilla, pair.unlearned)
        found["value_vectors"] = value_vector_change(pair.vanilla, pair.unlearned)
    except PatchMismatch:  # quantised, or an adapter of another kind: nothing to subtract
        found.pop("weight_change", None)
    return found


def neutral_perplexity(pair: Any) -> dict[str, float]:
    """Perplexity by token of a short bundled text about nothing in particular.

    Each paragraph stands alone, so that short contexts do.
    """
    text = files("ftunlearn").joinpath("neutral.txt").read_text(encoding="utf-8")
    rows = [encode(pair.tokenizer, "", part) for part in text.strip().split("\n\n")]
    found = {}
    for name, statistics in _both(pair, rows).items():
        logprobs = np.concatenate([one.logprobs for one in statistics])
        found[name] = float(np.exp(-logprobs.mean()))
    return found


def _of_outputs(before: Sequence[str], after: Sequence[str]) -> dict[str, np.ndarray]:
    pairs = list(zip(after, before, strict=True))
    return {
        "bleu": np.asarray([sentence_bleu(new, old) for new, old in pairs]),
        "rouge_l": np.asarray([rouge_l(new, old).f1 if old != new else 1.0 for new, old in pairs]),
        "same_output": np.asarray([float(new == old) for new, old in pairs]),
    }


def _of_answers(
    pair: Any, probes: Sequence[Probe], answers: Sequence[Any]
) -> dict[str, np.ndarray]:
    """(n,) by measure; NaN where a probe has no paraphrase or no answer."""
    texts = [
        (number, prompt, answers[number])
        for number, probe in enumerate(probes)
        for prompt in (probe.prompt, *probe.paraphrases)
        if len(answers[number])
    ]
    rows = [encode(pair.tokenizer, prompt, answer) for _, prompt, answer in texts]
    columns: dict[str, np.ndarray] = {}
    for model, statistics in _both(pair, rows).items():
        for name, is_paraphrase in (("", False), ("paraphrase_", True)):
            for measure in ("probability", "accuracy"):
                values: list[list[float]] = [[] for _ in probes]
                for (number, prompt, _), one in zip(texts, statistics, strict=True):
                    if (prompt != probes[number].prompt) == is_paraphrase:
                        greedy = float(one.greedy.all())
                        values[number].append(greedy if measure == "accuracy" else one.probability)
                columns[f"{name}{measure}_{model}"] = np.asarray(
                    [float(np.mean(found)) if found else np.nan for found in values]
                )
    return columns


def _both(pair: Any, rows: Sequence[Encoded]) -> dict[str, list[TokenStatistics]]:
    with pair.as_vanilla() as model:
        vanilla = token_statistics(model, pair.tokenizer, rows)
    return {
        "vanilla": vanilla,
        "unlearned": token_statistics(pair.unlearned, pair.tokenizer, rows),
    }
