"""A trial on made-up rows: is the sum of gradients what single rows give one by one?

No list of layers tells whether a model or a loss couples records: an average over a batch, experts
that compete for tokens, a layer of the user's own. So before the first record is read, rows of
random tokens go through both ways, uncut: cut gradients all have one norm, and would hide that a
row scales another's.
"""

from __future__ import annotations

import torch
from torch import nn

from rewardds.clipped_gradients import ClippedGradients
from rewardds.errors import InadmissibleModel
from rewardds.rows import Row, Sequence

UNCUT = 1e30
TOLERANCE = 1e-3
HALF_TOLERANCE = 5e-2  # where something is rounded to bfloat16
_LENGTHS = (5, 3, 9)


def check_independence(gradients: ClippedGradients, *, paired: bool) -> None:
    """Compare the sum over made-up rows with ordinary gradients of each row by itself.

    Dropout is off meanwhile; the model, its random state and the sums (which are set to zero) do
    not depend on it.

    Args:
        gradients: fresh, of a model in training mode.
        paired: whether the rows to come hold pairs.

    Raises:
        InadmissibleLoss: the loss is not one value a row.
        InadmissibleModel: the two differ, or a row's gradient is not finite.
    """
    rows = _made(gradients.model, paired)
    modes = [(module, module.training) for module in gradients.model.modules()]
    for module, _ in modes:
        module.training = any(p.requires_grad for p in module.parameters(recurse=False))
    clip, gradients.clip = gradients.clip, UNCUT
    try:
        gradients.reset()
        tally = gradients.add(rows)
        single = [torch.zeros_like(each) for each in gradients.sums]
        for row in rows:
            for total, part in zip(single, gradients.plain(row), strict=True):
                total += part
    finally:
        gradients.clip = clip
        for module, mode in modes:
            module.training = mode
    if tally.dropped:
        raise InadmissibleModel("gradients of random tokens are NaN or infinite in this model")
    apart = _norm([a - b for a, b in zip(gradients.sums, single, strict=True)])
    size = _norm(single)
    gradients.reset()
    half = gradients.autocast or any(p.element_size() < 4 for p in gradients.model.parameters())
    if apart > (HALF_TOLERANCE if half else TOLERANCE) * size:
        raise InadmissibleModel(
            f"the gradients of {len(rows)} rows of random tokens have a sum of norm {size:.3g} one "
            f"by one, and one that is {apart:.3g} away from it together: a layer or the loss lets "
            "a row act on another's gradient, or runs in a way that Opacus cannot see"
        )


def _made(model: nn.Module, paired: bool) -> list[Row]:
    tokens = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 2)
    made = torch.Generator().manual_seed(0)
    rows = []
    for length in _LENGTHS:
        sequences = [
            Sequence(torch.randint(tokens, (n,), generator=made).tolist(), [True] * n)
            for n in ((length, length + 2) if paired else (length,))
        ]
        rows.append(Row("random tokens", sequences, [(0, 1)] if paired else []))
    return rows


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.stack([each.double().square().sum() for each in tensors]).sum().sqrt())
