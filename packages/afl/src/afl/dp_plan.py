"""What privacy would cost, tried on rows at hand before anything is sent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from afl.adassp import noise_norm
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.noisy_stats import release
from afl.privacy_unit import sensitivity_of
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.sources import Features
from lipogram.errors import IllConditioned
from lipogram.gaussian_mechanism import noise_std
from lipogram.report import Table

RHO = 0.05


def plan(
    features: Features,
    *,
    epsilons: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0),
    widths: Sequence[int] = (32, 64, 128, 256),
    delta: float = 1e-5,
    seed: int = 0,
) -> Table:
    """Test accuracy for each width and ε, if one holder of all training rows released them.

    Rows are projected to a width by a random map of one seed and scaled to norm 1. The noise on the
    second moment lowers an eigenvalue by ``2σ(√d + √ln(1/ρ))`` at most, with ρ = 0.05 (see
    :mod:`afl.adassp`), and γ is set to that, which needs no look at the rows.

    Args:
        features: rows to try it on; they must not be the private ones if the plan is published.
        epsilons: ε to try.
        widths: features after the projection; those above the rows' own width are left out.
        delta: δ.
        seed: of projection and noise.

    Returns:
        One row a width: noise at ε = 1 over the mean eigenvalue, accuracy without noise, accuracy
        at each ε.
    """
    rows = []
    own = features.train.shape[1]
    for width in [w for w in widths if w <= own]:
        buffer = RandomBuffer(own, width, init="orthogonal", activation="identity", seed=seed)
        train, test = (_unit(buffer, part) for part in (features.train, features.test))
        stats = ClientStats.compute(train, features.train_labels, clip=1.0)
        classes = sorted(stats.classes)
        exact = _accuracy(stats, 1e-6 * len(train), test, features.test_labels)
        accuracies = []
        for epsilon in epsilons:
            noisy = release(stats, epsilon=epsilon, delta=delta, classes=classes, seed=seed)
            gamma = noise_norm(noise_std(epsilon, delta, sensitivity_of(1.0)), width, RHO)
            accuracies.append(_accuracy(noisy, gamma, test, features.test_labels))
        noise = noise_norm(noise_std(1.0, delta, sensitivity_of(1.0)), width, RHO)
        rows.append([width, noise / (len(train) / width), exact, *accuracies])
    return Table(
        columns=["features", "noise/signal, ε=1", "no noise", *(f"ε={e:g}" for e in epsilons)],
        rows=rows,
        caption=f"Test accuracy, {len(features.train)} rows, δ = {delta:g}, rows of norm 1.",
    )


def _unit(buffer: RandomBuffer, rows: Any) -> Any:
    mapped = buffer(torch.from_numpy(np.asarray(rows, dtype=np.float64)))
    return torch.nn.functional.normalize(mapped, dim=1)


def _accuracy(stats: ClientStats, gamma: float, test: Any, labels: Any) -> float:
    federation = Federation(minimum_rows=1)
    federation.add("all", stats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditioned)
        return federation.solve(gamma).accuracy(test, labels)
