"""Prompt injection: the steered server model itself is asked which spans were taken out.

The attack of PrivacyRestore (arXiv 2406.01394, section 6): the server appends a question of its own
to the text that it got, lists every span type, and restores as for the client. Scored in two ways:
by how much likelier than without the vector the model finds each span type, and by what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm import answer_logprobs, generate
from lipogram.llm.text_metrics import rouge_l
from privacyrestore.recovery_scores import Interval, Recovery, bootstrap_mean, recovery
from privacyrestore.restoration import restored
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.span_attacks import folds_of
from privacyrestore.span_detector import SpanDetector
from privacyrestore.span_prior import indicators
from privacyrestore.span_recovery import likeliest
from privacyrestore.training_rows import PromptTemplate

ASK = (
    "{question}\n\nThese details may be missing above: {spans}.\n"
    "Which of them apply? Answer with a list of them."
)
"""What the server puts to the model; {question} is the text that it got."""
_ROWS = 32


@dataclass(frozen=True)
class PromptInjection:
    """What asking the steered model gave away.

    Attributes:
        by_likelihood: of the spans whose log-probability the vector raises most, as many as there
            are; its recall is the span-recovery rate.
        by_text: of the span types that the model writes.
        rouge_l: ROUGE-L F of what it writes against the list of true spans.
        rouge_l_plain: the same without the vector: what the cleaned text alone gives.
    """

    by_likelihood: Recovery
    by_text: Recovery
    rouge_l: Interval
    rouge_l_plain: Interval


def prompt_injection(
    model: Any,
    tokenizer: Any,
    bank: RestorationBank,
    meta: Tensor,
    texts: Sequence[str],
    span_sets: Sequence[Sequence[int]],
    *,
    ask: str = ASK,
    template: PromptTemplate | None = None,
    max_new_tokens: int = 64,
    prior_sets: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> PromptInjection:
    """Ask the model for the spans of each query, restored by what the server got.

    Args:
        model: the server's; the bank's.
        tokenizer: its tokenizer.
        bank: public.
        meta: [B, n], what the server restores with, row i for query i.
        texts: B cleaned texts.
        span_sets: what was removed from each, at least one span.
        ask: with {question} and {spans} in it.
        template: how it is put to the model; None for its chat template.
        max_new_tokens: of the free answers.
        prior_sets: for the level of chance and between spans of one vector, as for
            :func:`privacyrestore.auditing.audit`.
        seed: of halves and bootstrap.

    Raises:
        InvalidSetting: numbers that do not fit, or `ask` without its two places.
        InvalidProbes: fewer than two queries, one without spans, or a prompt that exceeds the
            model's context.
        BankMismatch: a bank of another model.
    """
    if not len(meta) == len(texts) == len(span_sets):
        raise InvalidSetting(f"{len(meta)} vectors, {len(texts)} texts, {len(span_sets)} span sets")
    if "{question}" not in ask or "{spans}" not in ask:
        raise InvalidSetting("the question to the model must hold {question} and {spans}")
    if len(texts) < 2 or not all(len(spans) for spans in span_sets):
        raise InvalidProbes("there must be two queries or more, each with spans")
    template = template or PromptTemplate()
    true = indicators(span_sets, len(bank.vocabulary))
    listed = ask.replace("{spans}", ", ".join(bank.vocabulary))
    prompts = [template.prompt(tokenizer, listed.replace("{question}", text)) for text in texts]
    special = template.add_special_tokens
    raised = torch.stack(
        [
            _raised(model, tokenizer, bank, row[None], prompt, special)
            for row, prompt in zip(meta.float(), prompts, strict=True)
        ]
    )
    guessed = torch.zeros_like(true)
    frequencies = torch.empty(true.shape, dtype=torch.float64)
    own = torch.arange(true.shape[1])  # the model names spans, whichever share a vector
    for fold in folds_of([tuple(s) for s in span_sets], true.shape[1], prior_sets, seed):
        sizes = true[fold.rows].sum(1)
        guessed[fold.rows] = likeliest(raised[fold.rows], own, fold.prior, sizes)
        frequencies[fold.rows] = fold.prior.frequencies
    written, plain = (
        _written(model, tokenizer, bank, rows, prompts, special, max_new_tokens)
        for rows in (meta.float(), torch.zeros_like(meta, dtype=torch.float32))
    )
    detector = SpanDetector(bank.vocabulary, bank.aliases)
    named = torch.zeros_like(true)
    for row, text in enumerate(written):
        named[row, [span.span_id for span in detector.find(text)]] = True
    answers = [", ".join(bank.vocabulary[i] for i in sorted(set(spans))) for spans in span_sets]
    overlaps = [
        torch.tensor([rouge_l(text, answer).f1 for text, answer in zip(said, answers, strict=True)])
        for said in (written, plain)
    ]
    return PromptInjection(
        recovery(guessed, true, frequencies, seed=seed),
        recovery(named, true, frequencies, seed=seed),
        *(bootstrap_mean(overlap, seed=seed) for overlap in overlaps),
    )


def _raised(
    model: Any, tokenizer: Any, bank: RestorationBank, row: Tensor, prompt: str, special: bool
) -> Tensor:
    """[M] float64: mean log p of each span type's tokens, restored less plain."""
    candidates = [f" {name}" for name in bank.vocabulary]
    scores = []
    for vector in (row, torch.zeros_like(row)):
        with restored(model, bank, vector):  # one row: it steers every row of any batch
            scores.append(
                answer_logprobs(
                    model,
                    tokenizer,
                    [prompt] * len(candidates),
                    candidates,
                    reduction="mean",
                    add_special_tokens=special,
                )
            )
    return torch.tensor(scores[0], dtype=torch.float64) - torch.tensor(scores[1]).double()


def _written(
    model: Any,
    tokenizer: Any,
    bank: RestorationBank,
    meta: Tensor,
    prompts: Sequence[str],
    special: bool,
    max_new_tokens: int,
) -> list[str]:
    texts = []
    for start in range(0, len(prompts), _ROWS):
        part = prompts[start : start + _ROWS]
        with restored(model, bank, meta[start : start + _ROWS]):
            found = generate(
                model,
                tokenizer,
                part,
                max_new_tokens=max_new_tokens,
                batch_size=len(part),  # all at once: rows and vectors stay in step
                add_special_tokens=special,
            )
        texts += [one.text for one in found]
    return texts
