"""What a task is learned by: cross-entropy of its own classes, and the old network's scores kept.

DPCR (He et al., ICML 2025) trains its backbone as LwF (Li & Hoiem, TPAMI 2018) in this form:
logits alone are distilled, without exemplars and without a factor τ².
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distillation_loss(scores: Tensor, old_scores: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Mean over samples of ``−Σ_j p_old,j log p_new,j``, each p a softmax of scores over τ.

    Args:
        scores: (n, k) of the network in training, old classes only.
        old_scores: (n, k) of the network before the task.
        temperature: τ.
    """
    target = (old_scores / temperature).softmax(dim=1)
    return -(target * (scores / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def incremental_loss(
    scores: Tensor,
    slots: Tensor,
    old_scores: Tensor | None = None,
    *,
    lam: float = 10.0,
    temperature: float = 2.0,
) -> Tensor:
    """Cross-entropy over the new classes, plus λ times :func:`distillation_loss` over the old ones.

    Args:
        scores: (n, k) of all classes so far, the old ones first.
        slots: (n,) int64 columns of the samples' classes, all of them new ones.
        old_scores: (n, k_old) of the network before the task; None in the first task.
        lam: λ.
        temperature: τ.
    """
    known = 0 if old_scores is None else old_scores.shape[1]
    loss = functional.cross_entropy(scores[:, known:], slots - known)
    if old_scores is None:
        return loss
    kept = distillation_loss(scores[:, :known], old_scores, temperature=temperature)
    return loss + lam * kept
