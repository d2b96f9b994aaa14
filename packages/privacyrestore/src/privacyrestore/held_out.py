"""What held-out rows say about a bank while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from lipogram.llm import generate
from lipogram.llm.forward import evaluating
from lipogram.llm.text import pad_id
from lipogram.llm.text_metrics import rouge_l
from privacyrestore.restoration import Restoration
from privacyrestore.restored_rows import learnt_answers, packed, row_losses, signals
from privacyrestore.shared_prompt import answer_logps
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import TrainingRow


def check_held_out(rows: Sequence[TrainingRow], config: TrainConfig) -> None:
    """Refuse rows that the metric cannot be computed of.

    Raises:
        InvalidSetting: naming the row and what it lacks.
    """
    for number, row in enumerate(rows):
        if config.metric == "rouge-l" and row.preferred is None:
            raise InvalidSetting(
                f"held-out row {number} lacks `preferred`, the model's answer to the full "
                'question, which "rouge-l" compares with'
            )
        if config.metric == "mc1" and (len(row.options) < 2 or row.answer not in row.options):
            raise InvalidSetting(
                f"held-out row {number} needs two options or more with its answer among them for "
                '"mc1"'
            )


def measure(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    restoration: Restoration,
    vectors: Tensor,
    shares: Tensor,
    config: TrainConfig,
) -> float:
    """The sum over rows of `config.metric`; no gradient.

    Args:
        model: with `restoration` attached.
        tokenizer: of the model.
        rows: checked by :func:`check_held_out`.
        restoration: is set to each batch's signals.
        vectors: [G, K, D].
        shares: [rows, G].
        config: names the metric.
    """
    metric = {"loss": _losses, "rouge-l": _rouge, "mc1": _correct}[config.metric]
    total = 0.0
    with evaluating(model):
        for some in _batches(rows, config):
            restoration.set(signals(vectors, shares[some]))
            total += float(metric(model, tokenizer, [rows[i] for i in some], config).sum())
    restoration.set(None)
    return total


def _batches(rows: Sequence[TrainingRow], config: TrainConfig) -> list[list[int]]:
    """Row numbers, `batch_size` at a time; those of a batch have equally many options."""
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(len(row.options) if config.metric == "mc1" else 0, []).append(number)
    size = config.batch_size
    return [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


def _losses(model: Any, tokenizer: Any, rows: list[TrainingRow], config: TrainConfig) -> Tensor:
    held = [
        packed(model, tokenizer, row, learnt_answers(row, config), config, number)
        for number, row in enumerate(rows)
    ]
    return row_losses(model, held, pad_id(tokenizer), config)


def _correct(model: Any, tokenizer: Any, rows: list[TrainingRow], config: TrainConfig) -> Tensor:
    held = [
        packed(model, tokenizer, row, row.options, config, number)
        for number, row in enumerate(rows)
    ]
    sums, _ = answer_logps(model, held, pad_id(tokenizer))
    gold = torch.tensor([row.options.index(str(row.answer)) for row in rows], device=sums.device)
    best = sums.gather(1, gold[:, None])
    others = sums.scatter(1, gold[:, None], -torch.inf)
    return (best[:, 0] > others.max(1).values).float()


def _rouge(model: Any, tokenizer: Any, rows: list[TrainingRow], config: TrainConfig) -> Tensor:
    said = generate(
        model,
        tokenizer,
        [config.template.prompt(tokenizer, row.question_removed) for row in rows],
        max_new_tokens=config.max_new_tokens,
        batch_size=len(rows),  # one batch, in the order of the signals
        add_special_tokens=config.template.add_special_tokens,
    )
    wanted = [
        row.preferred
        if isinstance(row.preferred, str)
        else tokenizer.decode(row.preferred, skip_special_tokens=True)
        for row in rows
    ]
    return torch.tensor(
        [rouge_l(ours.text, full).f1 for ours, full in zip(said, wanted, strict=True)]
    )
