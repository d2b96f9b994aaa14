"""What a federation is compared with: linear heads trained by rounds of gradients.

FedAvg (McMahan et al., AISTATS 2017) averages the heads that clients train from the common one,
weighted by their rows; FedProx (Li et al., MLSys 2020) keeps each near the common one by
``μ/2 ‖W − W_t‖²``. Both train multinomial logistic regression on the same frozen features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Settings of FedAvg and FedProx.

    Attributes:
        rounds: communication rounds.
        epochs: passes over its rows that a client makes a round.
        batch_size: rows to a step.
        lr: step size; the default suits :func:`standardised` features.
        mu: FedProx's μ; 0 is FedAvg.
        participation: share of the clients that take part in a round.
        seed: of the choice of clients and the order of rows.

    Raises:
        InvalidSetting: a setting outside its values.
    """

    rounds: int = 20
    epochs: int = 5
    batch_size: int = 32
    lr: float = 8.0
    mu: float = 0.0
    participation: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "batch_size"):
            whole(name, getattr(self, name))
        positive("lr", self.lr)
        if not 0 <= self.mu < float("inf"):
            raise InvalidSetting(f"mu is {self.mu!r}, it must be 0 or more")
        if not 0 < self.participation <= 1:
            raise InvalidSetting(f"participation is {self.participation!r}, it must be in (0, 1]")


def train_by_rounds(
    X: Rows,
    y: Labels,
    parts: Sequence[NDArray[np.int64]],
    n_classes: int,
    settings: FedAvg,
    *,
    after_round: Callable[[Rows], None] = lambda weight: None,
) -> Rows:
    """The common head (d + 1, k) after all rounds; its last row is the intercept.

    Args:
        X: (n, d) features of all clients.
        y: (n,) positions of the classes.
        parts: rows of each client; clients without rows take no part.
        n_classes: k.
        settings: how to train.
        after_round: called with the common head after each round.
    """
    rng = np.random.default_rng(settings.seed)
    ones = np.ones((len(X), 1), dtype=np.float32)
    rows = np.hstack([X.astype(np.float32), ones])
    targets = np.eye(n_classes, dtype=np.float32)[y]
    weight = np.zeros((rows.shape[1], n_classes), dtype=np.float32)
    clients = [part for part in parts if len(part)]
    asked = max(1, round(settings.participation * len(clients)))
    for _ in range(settings.rounds):
        chosen = rng.permutation(len(clients))[:asked]
        total = np.zeros_like(weight)
        for number in chosen:
            part = clients[number]
            total += len(part) * _local(rows, targets, part, weight, settings, rng)
        weight = total / sum(len(clients[number]) for number in chosen)
        after_round(weight.astype(np.float64))
    return weight.astype(np.float64)


def accuracy(weight: Rows, X: Rows, y: Labels) -> float:
    """Share of rows (n, d) whose class has the largest score."""
    return float(((X @ weight[:-1] + weight[-1]).argmax(1) == y).mean())


def standardised(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Features with the training rows' mean and spread taken out, over √d.

    Gradient descent needs it and closed forms do not; here it is taken from all rows at once, which
    a federation could not do for free.
    """
    centre, spread = train.mean(0), train.std(0) + 1e-6
    scale = spread * np.sqrt(train.shape[1])
    return (train - centre) / scale, (test - centre) / scale


def _local(
    rows: NDArray[np.float32],
    targets: NDArray[np.float32],
    part: NDArray[np.int64],
    common: NDArray[np.float32],
    settings: FedAvg,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    weight = common.copy()
    for _ in range(settings.epochs):
        order = rng.permutation(part)
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            x = rows[batch]
            scores = x @ weight
            scores -= scores.max(1, keepdims=True)
            share = np.exp(scores)
            share /= share.sum(1, keepdims=True)
            step = x.T @ (share - targets[batch]) / np.float32(len(batch))
            if settings.mu:
                step += np.float32(settings.mu) * (weight - common)
            weight -= np.float32(settings.lr) * step
    return weight
