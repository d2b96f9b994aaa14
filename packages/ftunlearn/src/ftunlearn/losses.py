"""Unlearning losses, as pure functions of logits or log-probabilities.

Labels are token ids as in the input, -100 on padding and on what is not learned or unlearned (the
prompt); row i of the logits predicts token i+1. Means are over labelled tokens, or over sequences
where a loss is made of summed log-probabilities (:func:`lipogram.llm.objectives.sequence_logps`).
All computing is float32 (float64 where that is given); every result is a scalar.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from lipogram.llm.objectives import (
    dpo_loss,
    kl_rows,
    npo_loss,
    precise,
    scored_rows,
    simnpo_loss,
    token_logps,
)


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """−mean log p over the labelled tokens of the batch; 0 where there is none.

    Args:
        logits: [b, t, v].
        labels: [b, t].
    """
    logps = token_logps(logits, labels)
    return -logps.sum() / max(len(logps), 1)


def ga(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient ascent: minus :func:`nll` of what is to be forgotten. It has no lower bound."""
    return -nll(logits, labels)


def graddiff(
    forget_logits: Tensor,
    forget_labels: Tensor,
    retain_logits: Tensor,
    retain_labels: Tensor,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
) -> Tensor:
    """Gradient difference: γ·ga(forget) + α·nll(retain).

    Source: Liu et al., arXiv 2203.12817; α = 1.5 in arXiv 2406.11614.
    """
    return gamma * ga(forget_logits, forget_labels) + alpha * nll(retain_logits, retain_labels)


def dpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """Preference of an alternative over what is to be forgotten: (2/β) times the DPO loss.

    The factor makes it comparable with NPO. Equal models give (2/β)·log 2.

    Args:
        chosen: [b] summed log-probabilities of the alternatives.
        rejected: [b] the same of what is to be forgotten.
        ref_chosen: [b] `chosen` under the vanilla model.
        ref_rejected: [b] `rejected` under the vanilla model.
        beta: > 0.

    Raises:
        InvalidSetting: `beta` is not above 0.

    Source: Zhang et al., arXiv 2404.05868; as trained in arXiv 2406.11614.
    """
    loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
    return 2 / beta * loss


def npo(logps: Tensor, ref_logps: Tensor, *, beta: float = 0.1) -> Tensor:
    """Negative preference optimisation; see :func:`lipogram.llm.objectives.npo_loss`."""
    return npo_loss(logps, ref_logps, beta)


def simnpo(logps: Tensor, counts: Tensor, *, beta: float = 4.5, delta: float = 0.0) -> Tensor:
    """NPO without a reference; see :func:`lipogram.llm.objectives.simnpo_loss`."""
    return simnpo_loss(logps, counts, beta, delta)


def undial(logits: Tensor, ref_logits: Tensor, labels: Tensor, *, beta: float = 10.0) -> Tensor:
    """Cross-entropy to softmax(z_ref − β·onehot(label)), mean over the labelled tokens.

    Args:
        logits: [b, t, v] of the trained model.
        ref_logits: [b, t, v] of the vanilla model.
        labels: [b, t].
        beta: by how much the vanilla logit of the label is lowered.

    Source: Dong et al., arXiv 2402.10052.
    """
    rows = scored_rows(labels)
    targets = precise(ref_logits[rows]).clone()
    targets[torch.arange(len(targets)), labels[:, 1:][rows[:, :-1]]] -= beta
    logps = log_softmax(precise(logits[rows]), dim=-1)
    return -(softmax(targets, dim=-1) * logps).sum() / max(len(logps), 1)


def idk(refusal_logits: Tensor, refusal_labels: Tensor) -> Tensor:
    """Learn to refuse: :func:`nll` of a refusal behind the prompt that is to be forgotten."""
    return nll(refusal_logits, refusal_labels)


def kl(logits: Tensor, ref_logits: Tensor, labels: Tensor) -> Tensor:
    """KL(vanilla ‖ trained), mean over the labelled tokens; 0 where there is none.

    Args:
        logits: [b, t, v] of the trained model.
        ref_logits: [b, t, v] of the vanilla model.
        labels: [b, t].
    """
    rows = kl_rows(ref_logits, logits, scored_rows(labels))
    return rows.sum() / max(len(rows), 1)


def distance(hidden: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Mean ‖h − target‖² over the rows that predict a labelled token; 0 where there is none.

    Args:
        hidden: [b, t, d] residual stream behind some block.
        target: broadcasts against `hidden`.
        labels: [b, t].
    """
    rows = scored_rows(labels)
    errors = precise(hidden[rows]) - precise(target.expand_as(hidden)[rows])
    return errors.square().sum() / max(len(errors), 1)


def rmu(
    forget_hidden: Tensor,
    control: Tensor,
    forget_labels: Tensor,
    retain_hidden: Tensor,
    ref_retain_hidden: Tensor,
    retain_labels: Tensor,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
) -> Tensor:
    """Misdirection: γ·mean‖h(forget) − c·u‖² + α·mean‖h(retain) − h_ref(retain)‖².

    Args:
        forget_hidden: [b, t, d] behind block l of the trained model.
        control: [d], c·u (:func:`control_vector`).
        forget_labels: [b, t]; the rows that predict a labelled token count.
        retain_hidden: [b, t, d], as `forget_hidden`.
        ref_retain_hidden: [b, t, d] of the vanilla model.
        retain_labels: [b, t].
        gamma: weight γ.
        alpha: weight α.

    Source: Li et al., arXiv 2403.03218.
    """
    forget = distance(forget_hidden, control, forget_labels)
    return gamma * forget + alpha * distance(retain_hidden, ref_retain_hidden, retain_labels)


def control_vector(width: int, coefficient: float, generator: torch.Generator) -> Tensor:
    """c·u, [width] float32 on the CPU: u is uniform on the unit sphere, so it favours no sign."""
    direction = torch.randn(width, generator=generator)
    return coefficient * direction / direction.norm()
