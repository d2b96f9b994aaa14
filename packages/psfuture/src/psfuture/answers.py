"""From logits to answers: the token a model would write, and how an invented future moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipogram.errors import NotFinite
from psfuture.divergences import divergence
from psfuture.policies import Comparison
from psfuture.stream import Answer


@dataclass(frozen=True)
class Asked:
    """One place that the model was asked at.

    Attributes:
        words: source units of the sentence, for messages.
        reads: how many of them were read.
        target: target tokens before the one that is asked for.
        rows: of the logits; the first is the prefix's, the others are the invented futures'.
    """

    words: Sequence[str]
    reads: int
    target: tuple[int, ...]
    rows: range


def answers(
    asked: Sequence[Asked], logits: Tensor, comparison: Comparison | None
) -> tuple[list[Answer], list[Answer]]:
    """What the model says at each place.

    Args:
        asked: the places.
        logits: (B, V), float32.
        comparison: how futures are compared; None where none were asked.

    Returns:
        Answers of the prefix alone, and those that the policy is to see: with the divergence, and
        the token that it writes from (PsFuture, section 3.2).

    Raises:
        NotFinite: logits that are NaN, or of which the largest is infinite.
    """
    first = [place.rows[0] for place in asked]
    top, token = logits[first].topk(2)
    good = torch.isfinite(top).all(-1) & ~torch.isnan(logits[first]).any(-1)
    pairs = [(i, row) for i, place in enumerate(asked) for row in place.rows[1:]]
    if pairs:
        future = logits[[row for _, row in pairs]]
        of = torch.tensor([i for i, _ in pairs], device=logits.device)
        good[of[~torch.isfinite(future.amax(-1))]] = False
    if not bool(good.all()):
        place = asked[int((~good).nonzero()[0])]
        raise NotFinite(
            f"the model's logits are not finite after {place.reads} units of "
            f"{' '.join(place.words[:5])!r}… and {len(place.target)} target tokens"
        )
    gaps = (top[:, 0] - top[:, 1]).tolist()
    alone = [Answer(t, None, g) for t, g in zip(token[:, 0].tolist(), gaps, strict=True)]
    if not pairs or comparison is None:
        return alone, alone
    p, q = logits[first].softmax(-1), future.softmax(-1)
    each = divergence(comparison.divergence)(p[of], q)
    counts = torch.bincount(of, minlength=len(asked))
    if comparison.reduce == "max":
        whole = each.new_zeros(len(asked)).scatter_reduce(0, of, each, "amax", include_self=False)
    else:
        whole = each.new_zeros(len(asked)).index_add(0, of, each) / counts.clamp_min(1)
    if comparison.write_from != "partial":
        pseudo = torch.zeros_like(p).index_add(0, of, q) / counts.clamp_min(1)[:, None]
        mixed = pseudo if comparison.write_from == "pseudo" else p * pseudo
        best, token = mixed.log().topk(2)
        gaps = (best[:, 0] - best[:, 1]).tolist()
    found = zip(alone, whole.tolist(), token[:, 0].tolist(), gaps, counts.tolist(), strict=True)
    return alone, [Answer(t, d, g) if count else a for a, d, t, g, count in found]


def attended_units(
    plain: Sequence[Answer], attention: Tensor, ends: Sequence[Sequence[int]]
) -> list[Answer]:
    """The answers with the unit, counted from 1, that each attends to most (AlignAtt, section 3).

    Args:
        plain: answers.
        attention: (B, S) over source tokens.
        ends: source tokens up to the end of each unit; what follows the last is no unit's.
    """
    found = []
    for answer, row, cuts in zip(plain, attention.float().cpu(), ends, strict=True):
        place = int(row[: max(cuts[-1], 1)].argmax())
        found.append(replace(answer, attended=sum(cut <= place for cut in cuts) + 1))
    return found
