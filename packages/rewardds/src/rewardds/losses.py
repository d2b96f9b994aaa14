"""Losses of single records: a vector with one value a row, each of that row's tokens alone.

A model's own `labels=` loss averages over the tokens of the whole batch: there, leaving one record
out changes the gradients of the others, and no clipping bounds a record's influence.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lipogram.llm.objectives import precise, scored_rows, token_logps
from rewardds.errors import InvalidRecords
from rewardds.rows import PackedBatch


class RecordLoss(Protocol):
    """What a trainer with a clipped gradient a record can train on."""

    def __call__(self, model: Any, batch: PackedBatch) -> Tensor:
        """(b,) float32 or wider: the loss of each row."""
        ...

    def of(self, output: Tensor, batch: PackedBatch) -> Tensor:
        """The same from what the model gave."""
        ...


class CausalLMLoss:
    """Mean over a row's sequences of the mean of −log p of the sequence's scored tokens, in nats.

    Sequences without a scored token are left out; a row without any has the loss 0 and a gradient
    of zero, and stays in the batch.
    """

    def __call__(self, model: Any, batch: PackedBatch) -> Tensor:
        """(b,) float32 or wider.

        Args:
            model: gives an output with `logits` (b, t, v).
            batch: on the model's device.
        """
        output = model(**batch.inputs(activation_dtype(model)), use_cache=False)
        return self.of(output.logits, batch)

    def of(self, output: Tensor, batch: PackedBatch) -> Tensor:
        """(b,) float32 or wider, from logits (b, t, v).

        Raises:
            InvalidRecords: rows whose sequences share their beginning: they have no labels.
        """
        if not torch.equal(batch.trunk, batch.block):
            raise InvalidRecords(
                "sequences that share their beginning are read by a reward: they have no labels "
                "for a language model's loss"
            )
        rows, s = scored_rows(batch.labels), batch.last.shape[1]
        row, position = rows.nonzero(as_tuple=True)
        owner = row * s + batch.block[row, position]
        losses = -token_logps(output, batch.labels)
        counts = torch.zeros(len(batch) * s, device=output.device)
        counts = counts.index_add(0, owner, torch.ones_like(losses, dtype=counts.dtype))
        sums = losses.new_zeros(len(batch) * s).index_add(0, owner, losses)
        means = (sums / counts.clamp(min=1)).reshape(len(batch), s)
        return means.sum(1) / (counts > 0).reshape(len(batch), s).sum(1).clamp(min=1)


class PairwiseRewardLoss:
    """Mean over a row's pairs of −log σ(R(chosen) − R(rejected)) (Bradley and Terry 1952).

    R of a sequence is the reward at its last token. A row without pairs has the loss 0.
    """

    def __call__(self, model: Any, batch: PackedBatch) -> Tensor:
        """(b,) float32 or wider.

        Args:
            model: gives rewards (b, t), such as :class:`rewardds.reward_model.RewardModel`.
            batch: on the model's device.
        """
        return self.of(model(**batch.inputs(activation_dtype(model))), batch)

    def of(self, output: Tensor, batch: PackedBatch) -> Tensor:
        """(b,) float32 or wider, from rewards (b, t)."""
        rewards = precise(output).gather(1, batch.last)
        row, chosen, rejected = batch.pairs.unbind(1)
        losses = -logsigmoid(rewards[row, chosen] - rewards[row, rejected])
        counts = torch.zeros(len(batch), device=output.device)
        counts = counts.index_add(0, row, torch.ones_like(losses, dtype=counts.dtype))
        sums = losses.new_zeros(len(batch)).index_add(0, row, losses)
        return sums / counts.clamp(min=1)


def activation_dtype(model: Any) -> torch.dtype:
    """That of the largest weight: of the frozen bulk, not of adapters kept in float32 beside it."""
    weights = [p for p in model.parameters() if p.is_floating_point() and p.ndim > 1]
    return max(weights, key=lambda weight: weight.numel()).dtype
