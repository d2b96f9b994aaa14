"""What a frozen base says of the records, read once: all that a reward's head is trained on.

A linear head has so few weights that noise hardly moves it, where an adapter of a small private set
drowns in it (Tramèr and Boneh, 2021, arXiv 2011.11660). Its inputs do not change while it is
trained, so the base reads every record once, however many noisy steps there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rewardds.losses import activation_dtype
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, collate
from rewardds.rows import Sequence as TokenSequence


class CachedReward(nn.Module):
    """A reward's head over a table of hidden states, one a sequence; a "token" is a row's number.

    Args:
        table: (n, d) hidden states at the last tokens of n sequences.
        head: Linear(d, 1), which is trained in place.

    Attributes:
        table: frozen.
        head: the head.
    """

    def __init__(self, table: Tensor, head: nn.Linear):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table, freeze=True)
        self.head = head

    def forward(self, input_ids: Tensor, **_: Tensor) -> Tensor:
        """(b, t) rewards of sequences (b, t) by number."""
        rewards: Tensor = self.head(self.table(input_ids))
        return rewards.squeeze(-1)


def cached_reward(
    model: RewardModel,
    rows: Sequence[Row],
    *,
    pad_id: int,
    physical_batch: int,
    autocast: bool = False,
) -> tuple[CachedReward, list[Row]]:
    """The head alone, and rows that name its inputs in place of holding tokens.

    A batch is padded to its longest row, and kernels round differently for other lengths: with a
    physical batch of 1 a row's inputs are its own function to the last bit.

    Args:
        model: whose head is to be trained; the rest stays as it is.
        rows: with pairs.
        pad_id: what fills a batch.
        physical_batch: rows that are read at once.
        autocast: read in bfloat16 where PyTorch's autocast does.

    Returns:
        The model to train, and its rows in the order of `rows`. Their ids stand for all that the
        rows hold, so that a training that goes on notices other rows.
    """
    model.lm.requires_grad_(False)
    weight = model.head.weight
    device = weight.device
    firsts = [0]
    for row in rows:
        firsts.append(firsts[-1] + len(row.sequences))
    table = torch.zeros(firsts[-1], weight.shape[1], dtype=weight.dtype, device=device)
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    for start in range(0, len(order), physical_batch):
        places = order[start : start + physical_batch]
        batch = collate([rows[place] for place in places], pad_id=pad_id, bucket=1).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            states = model.states(batch, activation_dtype(model.lm))
        for place, found in zip(places, states, strict=True):
            first, after = firsts[place], firsts[place + 1]
            table[first:after] = found[: after - first]
    return CachedReward(table, model.head), list(_numbered(rows, firsts))


def _numbered(rows: Sequence[Row], firsts: Sequence[int]) -> Iterator[Row]:
    for row, first in zip(rows, firsts, strict=False):
        held = hashlib.sha256(repr((row.id, [one.ids for one in row.sequences])).encode())
        numbers = [TokenSequence([first + i], [False]) for i in range(len(row.sequences))]
        yield Row(held.hexdigest(), numbers, row.pairs)
