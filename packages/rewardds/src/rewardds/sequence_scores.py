"""Reward and perplexity of sequences, many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lipogram.errors import InvalidProbes, NotFinite
from lipogram.llm.forward import last_logits
from lipogram.llm.objectives import IGNORED
from rewardds.prefix_sharing import Endings, Group, over_groups
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

    def __call__(self, batch: Endings) -> Tensor:
        """(c,) float64."""
        t = batch.input_ids.shape[1]
        labels = torch.full((len(batch.sequences), t), IGNORED)
        for c, (one, start) in enumerate(zip(batch.sequences, batch.starts, strict=True)):
            ids, counts = torch.tensor(one.ids[start + 1 :]), torch.tensor(one.scored[start + 1 :])
            labels[c, : len(ids)] = ids.where(counts, IGNORED)
        first = int((labels != IGNORED).any(0).nonzero()[0])
        logits, _ = last_logits(self.lm, batch.inputs(), t - first, use_cache=False)
        labels = labels[:, first:].to(logits.device)
        losses = cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view_as(labels).double().sum(1) / (labels != IGNORED).sum(1)


@dataclass(frozen=True)
class _Reward:
    """The reward at a sequence's last token."""

    model: RewardModel

    @property
    def lm(self) -> Any:
        return self.model.lm

    def __call__(self, batch: Endings) -> Tensor:
        """(c,) float32."""
        found = self.model(**batch.inputs())
        ends = zip(batch.sequences, batch.starts, strict=True)
        last = torch.tensor([len(one.ids) - start - 1 for one, start in ends], device=found.device)
        return found[torch.arange(len(last), device=found.device), last]


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
