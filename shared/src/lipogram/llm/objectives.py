"""Objectives of preference tuning and unlearning, from log-probabilities; float32, no model."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from lipogram.errors import InvalidSetting

IGNORED = -100
"""The label of a token that no loss looks at: padding, and mostly the prompt."""


def scored_rows(labels: Tensor) -> Tensor:
    """[b, t] bool: the rows of logits that predict a labelled token (row i predicts token i+1)."""
    rows = torch.zeros_like(labels, dtype=torch.bool)
    rows[:, :-1] = labels[:, 1:] != IGNORED
    return rows


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log p of each labelled token, [n]: all of the first row's, then the second's, ...

    Args:
        logits: [b, t, v], row i predicting token i+1.
        labels: [b, t] int64, token ids as in the input, `IGNORED` where nothing is scored. The
            first token of a row is never scored: nothing predicts it.
    """
    rows = scored_rows(labels)
    logps = log_softmax(precise(logits[rows]), dim=-1)
    targets = labels[:, 1:][rows[:, :-1]]
    return logps.gather(-1, targets[:, None]).squeeze(-1)


def sequence_logps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Σ log p over each row's labelled tokens, [b] float32, and their number, [b] int64.

    Arguments as in :func:`token_logps`. A row without labelled tokens has the sum 0.
    """
    rows = scored_rows(labels)
    logps = token_logps(logits, labels)
    owner = rows.nonzero()[:, 0]
    sums = logps.new_zeros(len(labels)).index_add(0, owner, logps)
    return sums, rows.sum(dim=1)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Direct preference optimisation: −mean log σ(β(Δ_chosen − Δ_rejected)), Δ = log π − log π_ref.

    Args:
        policy_chosen: [b] summed log-probabilities of the chosen answers, trained model.
        policy_rejected: [b] the same of the rejected answers.
        ref_chosen: [b] `policy_chosen` under the frozen reference.
        ref_rejected: [b] `policy_rejected` under the frozen reference.
        beta: > 0.

    Raises:
        InvalidSetting: `beta` is not above 0.

    Source: Rafailov et al., arXiv 2305.18290, equation 7.
    """
    _check_beta(beta)
    chosen = precise(policy_chosen) - precise(ref_chosen)
    rejected = precise(policy_rejected) - precise(ref_rejected)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def npo_loss(policy: Tensor, ref: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation: −(2/β)·mean log σ(−β(log π − log π_ref)).

    For β → 0 its gradient is that of mean log π, which gradient ascent on the loss follows.

    Args:
        policy: [b] summed log-probabilities of what is to be forgotten, trained model.
        ref: [b] the same under the frozen reference.
        beta: > 0.

    Raises:
        InvalidSetting: `beta` is not above 0.

    Source: Zhang et al., arXiv 2404.05868.
    """
    _check_beta(beta)
    return -(2 / beta) * logsigmoid(-beta * (precise(policy) - precise(ref))).mean()


def simnpo_loss(policy: Tensor, counts: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    """NPO without a reference, by mean token loss: −(2/β)·mean log σ(β(−log π / n − δ)).

    Args:
        policy: [b] summed log-probabilities of what is to be forgotten.
        counts: [b] numbers n of tokens summed over, each at least 1.
        beta: > 0.
        delta: margin δ in nats a token.

    Raises:
        InvalidSetting: `beta` is not above 0.

    Source: Fan et al., arXiv 2410.07163, whose margin γ is βδ.
    """
    _check_beta(beta)
    return -(2 / beta) * logsigmoid(beta * (-precise(policy) / counts - delta)).mean()


def kl_rows(p_logits: Tensor, q_logits: Tensor, mask: Tensor) -> Tensor:
    """KL(p ‖ q) in nats of each row that `mask` marks, [n], in order.

    Args:
        p_logits: [..., v].
        q_logits: [..., v].
        mask: [...] bool; what the other rows hold changes nothing.
    """
    p = log_softmax(precise(p_logits[mask]), dim=-1)
    q = log_softmax(precise(q_logits[mask]), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def precise(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise InvalidSetting(f"beta must be above 0, not {beta}")
