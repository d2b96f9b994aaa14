"""Attribute inference: does a message betray whether a certain span, or one of several, is in it?

The attacker simulates releases of sets it knows to occur, fits a linear probe on them (ridge
discriminant analysis, in closed form) and applies it to the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting
from privacyrestore.recovery_scores import Interval, resampled
from privacyrestore.server_view import ServerView
from privacyrestore.span_prior import SpanPrior

RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Shares of the features' mean variance; the one that does best on a fifth of the rows is taken."""


@dataclass(frozen=True)
class AttributeInference:
    """How well probes tell whether attributes are there; chance is one half for both.

    Attributes:
        attributes: the spans of each, any of which makes it present.
        auc: area under the ROC curve, the mean over attributes.
        balanced_accuracy: at the midpoint of the simulated classes, the mean over attributes.
        aucs: of each attribute.
    """

    attributes: tuple[tuple[int, ...], ...]
    auc: Interval
    balanced_accuracy: Interval
    aucs: tuple[float, ...]


def frequent_attributes(prior: SpanPrior, most: int = 8) -> tuple[tuple[int, ...], ...]:
    """The spans that are most frequent, each an attribute, but none that is nearly always there."""
    order = prior.frequencies.argsort(descending=True, stable=True).tolist()
    return tuple((span,) for span in order if float(prior.frequencies[span]) < 0.9)[:most]


def presence(sets: Tensor, attributes: Sequence[Sequence[int]]) -> Tensor:
    """[B, A] bool from sets [B, M] bool.

    Raises:
        InvalidSetting: no attribute, an empty one, or one of an unknown span.
    """
    n = sets.shape[1]
    if not attributes or not all(attributes):
        raise InvalidSetting("there must be attributes, each of at least one span")
    if any(not 0 <= span < n for spans in attributes for span in spans):
        raise InvalidSetting(f"an attribute has a span id outside 0 to {n - 1}")
    return torch.stack([sets[:, list(spans)].any(1) for spans in attributes], 1)


def probe_scores(train: ServerView, labels: Tensor, test: ServerView) -> Tensor:
    """[B, A] float64: above 0 where an attribute looks present; NaN for one always or never there.

    Args:
        train: releases that the attacker simulated, r of them, in random order; the last fifth
            chooses the ridge.
        labels: [r, A] bool.
        test: the B messages to judge.
    """
    edge = len(train) - len(train) // 5
    early, late = train.coordinates[:edge], train.coordinates[edge:]
    scores = torch.full((len(test), labels.shape[1]), torch.nan, dtype=torch.float64)
    for attribute, label in enumerate(labels.T):
        if not all(bool(part.any() & ~part.all()) for part in (label[:edge], label[edge:])):
            continue
        held = _discriminants(early, label[:edge], late)
        best = max(range(len(RIDGES)), key=lambda i: _auc(held[i], label[edge:]))
        found = _discriminants(train.coordinates, label, test.coordinates, RIDGES[best])
        scores[:, attribute] = found[0]
    return scores


def attribute_inference(
    scores: Tensor,
    present: Tensor,
    attributes: Sequence[Sequence[int]],
    *,
    repeats: int = 1,
    seed: int = 0,
) -> AttributeInference:
    """Areas and accuracies of probes, with intervals over queries.

    Args:
        scores: [repeats·B, A], as :func:`probe_scores`.
        present: [B, A] bool, the truth.
        attributes: A of them; those without a score, or without both cases, are left out.
        repeats: simulations of each query, resampled together.
        seed: of the bootstrap.

    Raises:
        InvalidProbes: none is left.
    """
    mixed = present.any(0) & ~present.all(0) & scores.isfinite().all(0)
    left = mixed.nonzero()[:, 0].tolist()
    if not left:
        raise InvalidProbes("no attribute is there in some queries and not in others")
    draws = resampled(len(present), seed)
    draws = np.concatenate([np.ones((1, len(present))), draws])
    areas, accuracies = [], []
    for i in left:
        truth = present[:, i].numpy()
        told = scores[:, i].view(repeats, -1).numpy()
        yes, no = draws[:, truth], draws[:, ~truth]
        wins = np.zeros((int(truth.sum()), int((~truth).sum())))
        for one in told:
            gap = one[truth][:, None] - one[~truth]
            wins += ((gap > 0) + (gap == 0) / 2) / repeats
        weight = yes.sum(1) * no.sum(1)
        with np.errstate(invalid="ignore"):  # a draw without both cases says nothing
            areas.append(((yes @ wins) * no).sum(1) / weight)
            right = (told > 0).mean(0)
            accuracies.append(
                (yes @ right[truth] / yes.sum(1) + no @ (1 - right[~truth]) / no.sum(1)) / 2
            )
    return AttributeInference(
        tuple(tuple(attributes[i]) for i in left),
        _mean_interval(areas),
        _mean_interval(accuracies),
        tuple(float(area[0]) for area in areas),
    )


def _mean_interval(values: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Interval:
    """Over attributes; the first of each is of all queries, the others of draws of them."""
    held = np.stack(values)
    mean = np.nanmean(held[:, 1:][:, ~np.isnan(held[:, 1:]).all(0)], axis=0)
    low, high = np.quantile(mean, [0.025, 0.975])
    return Interval(float(held[:, 0].mean()), float(low), float(high))


def _discriminants(rows: Tensor, label: Tensor, test: Tensor, *ridges: float) -> Tensor:
    """[ridges, t]: (x − (μ₁ + μ₀)/2)ᵀ (Σ + λI)⁻¹ (μ₁ − μ₀)."""
    yes, no = rows[label].mean(0), rows[~label].mean(0)
    centred = rows - torch.where(label[:, None], yes, no)
    values, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
    scale = values.mean().clamp_min(1e-12)
    gap = (yes - no) @ axes
    seen = (test - (yes + no) / 2) @ axes
    weights = [gap / (values.clamp_min(0) + ridge * scale) for ridge in ridges or RIDGES]
    return torch.stack(weights) @ seen.T


def _auc(scores: Tensor, label: Tensor) -> float:
    gap = scores[label][:, None] - scores[~label]
    return float(((gap > 0).double() + (gap == 0).double() / 2).mean())
