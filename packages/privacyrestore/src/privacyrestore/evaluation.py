"""What a bank gives back: multiple choice with spans, without, and restored, beside the audit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes
from lipogram.llm.forward import evaluating
from lipogram.llm.text import pad_id
from privacyrestore.audit_report import AuditReport
from privacyrestore.auditing import audit
from privacyrestore.mechanisms import Mechanism
from privacyrestore.multiple_choice import MultipleChoice, mc_of
from privacyrestore.restoration import Restoration
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.restored_rows import packed
from privacyrestore.shared_prompt import answer_logps
from privacyrestore.span_detector import SpanDetector
from privacyrestore.span_removal import remove_spans
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import PromptTemplate, TrainingRow

if TYPE_CHECKING:
    from privacyrestore.pri_datasets import PrivateQuestion


@dataclass(frozen=True)
class Evaluation:
    """Multiple choice by what the model was given.

    Attributes:
        given: "full question", "spans removed", "restored, no noise", "restored by another's", and
            "restored, MECHANISM ε" for each mechanism.
        audits: of the mechanisms, by those names.
    """

    given: dict[str, MultipleChoice]
    audits: dict[str, AuditReport]

    def rows(self) -> list[list[str]]:
        """Of a table: name, MC1, MC2, spans recovered by the strongest attack, local ε."""
        found = []
        for name, scores in self.given.items():
            report = self.audits.get(name)
            cells = ["", ""]
            if report is not None:
                local = report.guarantee.local_epsilon
                cells = [str(report.recovery), "none" if math.isinf(local) else f"{local:.4g}"]
            found.append([name, str(scores.mc1_mean), str(scores.mc2_mean), *cells])
        return found

    def as_json(self) -> dict[str, Any]:
        """As names and values that JSON has."""
        return {
            "given": {
                name: {"mc1": vars(scores.mc1_mean), "mc2": vars(scores.mc2_mean)}
                for name, scores in self.given.items()
            },
            "audits": {name: report.as_json() for name, report in self.audits.items()},
        }


def evaluate(
    model: Any,
    tokenizer: Any,
    bank: RestorationBank,
    questions: Sequence[PrivateQuestion],
    mechanisms: Sequence[Mechanism],
    *,
    template: PromptTemplate | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Score the options of questions in every way of asking, and audit every mechanism.

    Args:
        model: a causal language model.
        tokenizer: of it.
        bank: made for it.
        questions: with their options. q⁻ is what a client would send of them: labelled ones often
            hold spans still.
        mechanisms: of a client.
        template: how a question is put; None for the chat template.
        batch_size: questions a forward pass.
        seed: of the simulated noise.
        progress: told what is being scored.

    Raises:
        InvalidProbes: fewer than two questions with spans; and as :func:`option_scores`.
    """
    sets = [tuple(question.span_ids) for question in questions]
    if sum(map(bool, sets)) < 2:
        raise InvalidProbes("an evaluation needs two questions or more with spans")
    options = [[f" {option}." for option in question.options] for question in questions]
    gold = [question.answer_index for question in questions]
    signals = torch.stack([bank.signal(spans) for spans in sets])

    def scored(name: str, texts: Sequence[str], meta: Tensor | None = None) -> None:
        progress(name)
        scores = option_scores(
            model, tokenizer, bank, texts, options, meta, template=template, batch_size=batch_size
        )
        given[name] = mc_of(scores, gold)

    given: dict[str, MultipleChoice] = {}
    detector = SpanDetector(bank.vocabulary, bank.aliases)
    removed = [remove_spans(question.question, detector).text for question in questions]
    scored("full question", [question.question for question in questions])
    scored("spans removed", removed)
    scored("restored, no noise", removed, signals)
    scored("restored by another's", removed, signals.roll(1, 0))
    audits = {}
    for mechanism in mechanisms:
        guarantee = mechanism.guarantee(bank)
        number = guarantee.metric_epsilon or guarantee.local_epsilon
        name = f"restored, {mechanism.name} {number:g}"
        meta = torch.stack(
            [
                mechanism.restore(bank, mechanism.release(bank, z, randomness=seed * 10**6 + i))
                for i, z in enumerate(signals)
            ]
        )
        scored(name, removed, meta)
        audits[name] = audit(bank, mechanism, sets, seed=seed)
    return Evaluation(given, audits)


def option_scores(
    model: Any,
    tokenizer: Any,
    bank: RestorationBank,
    questions: Sequence[str],
    options: Sequence[Sequence[str]],
    meta: Tensor | None = None,
    *,
    template: PromptTemplate | None = None,
    batch_size: int = 8,
) -> list[Tensor]:
    """Σ log p of each option's tokens after its question, each question restored by its vector.

    Args:
        model: a causal language model.
        tokenizer: of it.
        bank: made for it.
        questions: n texts, as they reach the model.
        options: of each question, two or more, with their leading blanks.
        meta: [n, n_bank], [n, ρ] or [n, K, D]; None for the plain model.
        template: how a question is put; None for the chat template.
        batch_size: questions of as many options in a forward pass.

    Returns:
        n tensors (options,) float64.

    Raises:
        InvalidProbes: a question or an option without tokens, or one that exceeds the context.
        BankMismatch, PatchMismatch: as :class:`~privacyrestore.restoration.Restoration`.
    """
    config = TrainConfig(template=template or PromptTemplate())
    found: list[Tensor] = [torch.empty(0)] * len(questions)
    restoration = Restoration(model, bank)
    with evaluating(model), restoration.attach():
        for some in _alike(options, batch_size):
            rows = [
                packed(
                    model,
                    tokenizer,
                    TrainingRow(questions[i], (), options[i][0]),
                    options[i],
                    config,
                    i,
                )
                for i in some
            ]
            restoration.set(None if meta is None else meta[some].float())
            sums, _ = answer_logps(model, rows, pad_id(tokenizer))
            for place, i in enumerate(some):
                found[i] = sums[place].double().cpu()
    return found


def _alike(options: Sequence[Sequence[str]], size: int) -> list[list[int]]:
    """Question numbers in batches whose questions have equally many options."""
    groups: dict[int, list[int]] = {}
    for number, choices in enumerate(options):
        groups.setdefault(len(choices), []).append(number)
    return [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]
