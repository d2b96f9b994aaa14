"""Training rows as a batch: each with its own signal, its tokens and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lipogram.errors import InvalidProbes
from lipogram.llm.text import context_length
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.shared_prompt import answer_logps
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_objective import orpo_lm_loss
from privacyrestore.training_rows import SharedPrompt, TrainingRow, encode_answers


def span_shares(rows: Sequence[TrainingRow], bank: RestorationBank) -> Tensor:
    """The weight of each vector of the bank in each row, [rows, G] float32."""
    shares = torch.zeros(len(rows), len(bank.vectors))
    for number, row in enumerate(rows):
        weights = row.weights or (1.0,) * len(row.span_ids)
        for span, weight in zip(row.span_ids, weights, strict=True):
            shares[number, bank.groups[span]] += weight
    return shares


def signals(vectors: Tensor, shares: Tensor) -> Tensor:
    """ẑ of each row, [b, n]: Σ w_j r_j over its norm over all n coordinates; 0 for no spans.

    Args:
        vectors: [G, K, D], a gradient flows to them.
        shares: [b, G], see :func:`span_shares`.
    """
    return normalize(shares @ vectors.flatten(1), dim=1)


def packed(
    model: Any,
    tokenizer: Any,
    row: TrainingRow,
    answers: Sequence[str | Sequence[int]],
    config: TrainConfig,
    number: int,
) -> SharedPrompt:
    """A row's prompt and answers as tokens.

    Raises:
        InvalidProbes: by row number, where one has no tokens or exceeds the model's context.
    """
    prompt = config.template.prompt(tokenizer, row.question_removed)
    special = config.template.add_special_tokens
    try:
        found = encode_answers(tokenizer, prompt, answers, add_special_tokens=special)
    except InvalidProbes as error:
        raise InvalidProbes(f"row {number}: {error}") from None
    longest = context_length(model)
    if longest is not None and len(found) > longest:
        raise InvalidProbes(
            f"row {number} has {len(found)} tokens with its longest answer; the model's context is "
            f"{longest}"
        )
    return found


def learnt_answers(row: TrainingRow, config: TrainConfig) -> list[str | Sequence[int]]:
    """The answers that the objective looks at: y⁺, y⁻ and a, or a alone."""
    if config.objective == "gold":
        return [row.answer]
    assert row.preferred is not None  # check_row has seen to it
    assert row.rejected is not None
    return [row.preferred, row.rejected, row.answer]


def row_losses(
    model: Any, rows: Sequence[SharedPrompt], padding: int, config: TrainConfig
) -> Tensor:
    """The objective of each row of :func:`learnt_answers`, [b] float32.

    The model is restored by the caller, with the rows' signals.
    """
    sums, counts = answer_logps(model, rows, padding)
    means = sums / counts
    if config.objective == "gold":
        return -means[:, 0]
    return orpo_lm_loss(means[:, 0], means[:, 1], means[:, 2], config.alpha)
