"""What the method claims, on four generated worlds: about a minute and a half each."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from privacyrestore.mechanisms import Full, Subspace
from privacyrestore.utility_curve import utility_recovery_curve
from privacyrestore.world_study import WorldStudy, gap_recovered

SEEDS = range(4)
EPSILONS = (3.0, 10.0, 30.0, 100.0, 300.0)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def studies():
    torch.set_num_threads(1)
    return [WorldStudy.make(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def curves(studies):
    return [
        {
            kind.__name__: utility_recovery_curve(
                study.bank,
                [kind(epsilon) for epsilon in EPSILONS],
                study.restored,
                study.span_sets,
                seed=seed,
            )
            for kind in (Full, Subspace)
        }
        for seed, study in enumerate(studies)
    ]


def test_orderings_without_noise(studies):
    for study in studies:
        right = study.orderings()
        assert right["full"].mean() >= 0.95
        assert right["full"].mean() - right["removed"].mean() >= 0.25
        assert gap_recovered(right, "restored") >= 0.8
        assert gap_recovered(right, "another's") <= 0.15
        assert gap_recovered(right, "untrained") <= 0.15
    gaps = np.array([gap_recovered(study.orderings(), "restored") for study in studies])
    draw = np.random.default_rng(0)
    means = [draw.choice(gaps, len(gaps)).mean() for _ in range(2000)]
    assert np.quantile(means, 0.025) >= 0.8


def test_more_noise_never_helps(curves):
    for curve in curves:
        for points in curve.values():
            means = [point.utility for point in points]
            assert all(low <= high + 0.03 for low, high in pairwise(means))


def test_the_subspace_is_never_worse_and_far_better_at_epsilon_30(curves):
    for curve in curves:
        for ours, theirs in zip(curve["Subspace"], curve["Full"], strict=True):
            assert ours.utility >= theirs.utility - 0.03
            if ours.epsilon == 30:
                assert ours.utility >= theirs.utility + 0.30


def test_whoever_can_restore_can_decode(curves):
    for curve in curves:
        for point in curve["Subspace"]:
            if point.utility >= 0.9:
                assert point.recovery >= 0.7
