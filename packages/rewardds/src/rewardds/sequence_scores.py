"""Reward and perplexity of sequences, many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, NotFinite
from lipogram.llm.forward import last_logits
from rewardds.losses import activation_dtype
from rewardds.prefix_sharing import Branches, Group, over_groups
from rewardds.reward_model import RewardModel

BATCH = 32


def perplexities(
    lm: Any, groups: Sequence[Group], *, padding: int, batch_size: int = BATCH
) -> list[list[float]]:
    """The exp of the mean −log p of each sequence's scored tokens under a causal language model.

    Args:
        lm: the model.
        groups: of each question, the sequences of its candidates.
        padding: id that fills.
        batch_size: sequences at a time.

    Returns:
        By question and candidate.

    Raises:
        NotFinite: a perplexity that is NaN or infinite.
        InvalidProbes: a sequence without a scored token that another precedes, or one longer than
            the model's context.
        InvalidSetting, OverBudget: see :func:`rewardds.prefix_sharing.over_groups`.
    """
    for g, group in enumerate(groups):
        for s, one in enumerate(group):
            if not any(one.scored[1:]):
                raise InvalidProbes(f"candidate {s} of question {g} has no token to be scored")
    found = over_groups(_Likelihood(lm), groups, padding=padding, batch_size=batch_size)
    return _finite([[_exp(value) for value in row] for row in found], "perplexity")


def rewards(
    model: RewardModel, groups: Sequence[Group], *, padding: int, batch_size: int = BATCH
) -> list[list[float]]:
    """The reward of each sequence, read at its last token.

    Args, returns and raises as :func:`perplexities`.
    """
    found = over_groups(_Reward(model), groups, padding=padding, batch_size=batch_size)
    return _finite(found, "reward")


@dataclass(frozen=True)
class _Likelihood:
    """Mean −log p of a sequence's scored tokens, in nats."""

    lm: Any

    def __call__(self, batch: Branches) -> Tensor:
        """(c,) float64."""
        row, column, following, owner = [], [], [], []
        for c, (one, columns) in enumerate(zip(batch.sequences, batch.positions, strict=True)):
            for i in range(1, len(columns)):
                if one.scored[i]:
                    row.append(batch.row[c])
                    column.append(columns[i - 1])
                    following.append(one.ids[i])
                    owner.append(c)
        t, first = batch.input_ids.shape[1], min(column)
        logits, _ = last_logits(
            self.lm, batch.inputs(activation_dtype(self.lm)), t - first, use_cache=False
        )
        device = logits.device
        picked = logits[torch.tensor(row), torch.tensor(column) - first].float()
        tokens = torch.tensor(following, device=device)
        losses = -picked.log_softmax(-1).gather(1, tokens[:, None])[:, 0].double()
        owners = torch.tensor(owner, device=device)
        sums = losses.new_zeros(len(batch.row)).index_add(0, owners, losses)
        return sums / owners.bincount(minlength=len(batch.row))


@dataclass(frozen=True)
class _Reward:
    """The reward at a sequence's last token."""

    model: RewardModel

    @property
    def lm(self) -> Any:
        return self.model.lm

    def __call__(self, batch: Branches) -> Tensor:
        """(c,) float32."""
        found = self.model(**batch.inputs(activation_dtype(self.lm)))
        last = [columns[-1] for columns in batch.positions]
        return found[torch.tensor(batch.row), torch.tensor(last)]


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _finite(found: list[list[float]], what: str) -> list[list[float]]:
    for g, row in enumerate(found):
        for s, value in enumerate(row):
            if not math.isfinite(value):
                raise NotFinite(
                    f"the {what} of candidate {s} of question {g} is {value}: the model diverged"
                )
    return found
