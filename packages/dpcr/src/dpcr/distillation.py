"""What a task is learned by: cross-entropy of its own classes, and the old network's scores kept.

DPCR (He et al., ICML 2025) trains its backbone as LwF (Li & Hoiem, TPAMI 2018) in this form:
logits alone are distilled, without exemplars and without a factor τ².
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distillation_losses(scores: Tensor, old_scores: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Each sample's ``−Σ_j p_old,j log p_new,j``, (n,), each p a softmax of scores over τ.

    Args:
        scores: (n, k) of the network in training, old classes only.
        old_scores: (n, k) of the network before the task.
        temperature: τ.
    """
    target = (old_scores / temperature).softmax(dim=1)
    return -(target * (scores / temperature).log_softmax(dim=1)).sum(dim=1)


def incremental_losses(
    scores: Tensor,
    slots: Tensor,
    old_scores: Tensor | None = None,
    *,
    lam: float = 10.0,
    temperature: float = 2.0,
) -> Tensor:
    """Each sample's cross-entropy over the new classes plus λ times its distillation loss, (n,).

    A sample of an old class, which is met again, has no place among the new ones: it is distilled
    only.

    Args:
        scores: (n, k) of all classes so far, the old ones first.
        slots: (n,) int64 columns of the samples' classes.
        old_scores: (n, k_old) of the network before the task; None in the first task.
        lam: λ.
        temperature: τ.
    """
    if old_scores is None:
        return functional.cross_entropy(scores, slots, reduction="none")
    known = old_scores.shape[1]
    kept = distillation_losses(scores[:, :known], old_scores, temperature=temperature)
    if known == scores.shape[1]:
        return lam * kept
    target = (slots - known).where(slots >= known, -100)
    new = functional.cross_entropy(scores[:, known:], target, reduction="none", ignore_index=-100)
    return new + lam * kept
