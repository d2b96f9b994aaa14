"""Membership attacks: counted by hand, and losses that are those of training."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.tiny import tiny_random
from rewardds.losses import CausalLMLoss, PairwiseRewardLoss
from rewardds.membership_test import (
    attack_membership,
    attack_scores,
    auc_interval,
    row_losses,
)
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, Sequence, collate


def test_areas_and_rates_are_those_that_counting_gives():
    generator = np.random.default_rng(0)
    for _ in range(20):
        coins = generator.random(90) < 0.4
        scores = np.round(generator.normal(size=90) + coins, 1)  # with ties
        found = attack_membership(scores, coins, rates=(0, 0.02, 0.25, 0.5))
        assert found.auc == pytest.approx(roc_auc_score(coins, scores), abs=1e-12)
        members, others = scores[coins], scores[~coins]
        assert (found.members, found.others) == (len(members), len(others))
        for rate, share in found.true_positives.items():
            cuts = [t for t in [-9.0, *scores] if (others > t).mean() <= rate]
            assert share == max((members > t).mean() for t in cuts)
        ranks = [1 + (others >= score).sum() for score in members]
        bits = math.log2(len(others) + 1) - np.mean(np.log2(ranks))
        assert found.exposure == pytest.approx(bits, abs=1e-12)


def test_chance_is_half_and_its_exposure_is_the_mean_over_ranks():
    generator = np.random.default_rng(1)
    coins = np.arange(100) < 50
    found = [attack_membership(generator.normal(size=100), coins) for _ in range(300)]
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.01)
    by_chance = np.mean([math.log2(51 / rank) for rank in range(1, 52)])
    assert found[0].exposure_by_chance == pytest.approx(by_chance, abs=1e-9)
    assert np.mean([one.exposure for one in found]) == pytest.approx(by_chance, abs=0.04)
    perfect = attack_membership(coins, coins)
    assert perfect.auc == 1
    assert perfect.exposure == pytest.approx(math.log2(51))
    assert set(perfect.true_positives.values()) == {1}


@pytest.mark.parametrize("shift", [0.0, 0.8, 2.2])
def test_intervals_of_the_area_cover_it(shift):
    truth = 0.5 * (1 + math.erf(shift / 2))
    generator, held = np.random.default_rng(2), 0
    coins = np.arange(80) < 40
    for _ in range(400):
        found = attack_membership(generator.normal(size=80) + shift * coins, coins)
        assert 0 <= found.low <= found.auc <= found.high <= 1
        held += found.low <= truth <= found.high
    assert held / 400 >= 0.92


def test_intervals_at_the_ends_are_one_sided_and_mirror():
    low, high = auc_interval(1.0, 50, 50)
    assert high == 1
    assert 0.9 < low < 1
    assert auc_interval(0.0, 50, 50) == pytest.approx((0, 1 - low), abs=1e-9)
    assert auc_interval(0.7, 30, 60) == pytest.approx(
        tuple(1 - end for end in auc_interval(0.3, 30, 60)[::-1]), abs=1e-9
    )
    wide, narrow = auc_interval(0.7, 20, 20), auc_interval(0.7, 2000, 2000)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 5


def test_a_reference_takes_away_what_makes_texts_easy():
    generator = np.random.default_rng(3)
    coins = np.arange(200) < 100
    easy = generator.normal(size=200)
    losses = 3 * easy - 0.5 * coins + 0.2 * generator.normal(size=200)
    areas = {
        name: attack_membership(score, coins).auc
        for name, score in attack_scores(losses, 3 * easy).items()
    }
    assert areas["reference"] > 0.9 > 0.65 > areas["loss"]
    assert areas["calibrated"] > 0.9
    bad = 20 * generator.normal(size=200)  # a reference that knows nothing of the texts
    areas = {
        name: attack_membership(score, coins).auc
        for name, score in attack_scores(losses - 3 * easy, bad).items()
    }
    assert areas["calibrated"] > 0.9 > 0.65 > areas["reference"]


def test_calibrated_is_what_a_straight_line_leaves():
    generator = np.random.default_rng(4)
    own, reference = generator.normal(size=30), generator.normal(size=30)
    scores = attack_scores(own, reference)
    slope, offset = np.polyfit(reference, own, 1)
    residual = -(own - slope * reference - offset)
    assert np.ptp(scores["calibrated"] - residual) < 1e-9
    assert np.array_equal(scores["loss"], -own)
    assert np.array_equal(scores["reference"], reference - own)
    flat = attack_scores(own, np.ones(30))
    assert np.array_equal(flat["calibrated"], -own)
    assert list(attack_scores(own)) == ["loss"]


def rows_of(lengths, generator):
    made = []
    for number, lengths_of in enumerate(lengths):
        sequences = [
            Sequence(generator.integers(0, 256, k).tolist(), [False] + [True] * (k - 1))
            for k in lengths_of
        ]
        made.append(Row(f"r{number}", sequences, [(0, 1)]))
    return made


@pytest.mark.parametrize("proxy", ["generator", "reward"])
def test_losses_are_those_of_each_row_alone(proxy):
    model = tiny_random("llama", layers=2, width=32, attention_dropout=0.5).model
    loss = CausalLMLoss()
    if proxy == "reward":
        model, loss = RewardModel(model), PairwiseRewardLoss()
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    lengths = [(5, 9), (3, 4), (20, 17), (2, 2), (8, 30)]
    rows = rows_of(lengths, np.random.default_rng(0))
    model.train()
    found = row_losses(model, rows, loss, batch_size=2)
    assert model.training
    model.eval()
    with torch.no_grad():
        alone = [float(loss(model, collate([row], pad_id=7))) for row in rows]
    np.testing.assert_allclose(found, alone, rtol=2e-5)
    assert len(set(np.round(found, 4))) == len(rows)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: attack_membership([1, 2], [True, True]), "2 members and 0 others"),
        (lambda: attack_membership([1, 2], [True, False], rates=[1.0]), "1.0"),
        (lambda: attack_membership([1, 2, 3], [True, False]), r"\(3,\).*\(2,\)"),
        (lambda: attack_scores([1.0, 2.0], [1.0]), r"\(2,\).*\(1,\)"),
        (lambda: attack_scores([]), r"\(0,\)"),
        (lambda: row_losses(None, [], CausalLMLoss()), "no rows"),
        (lambda: row_losses(None, [1], CausalLMLoss(), batch_size=0), "batch_size is 0"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(InvalidSetting, match=named):
        call()


def test_losses_that_are_not_finite_are_named():
    for bad, name in itertools.product((math.nan, math.inf), ("losses", "reference losses")):
        pair = ([1.0, bad], [1.0, 2.0]) if name == "losses" else ([1.0, 2.0], [1.0, bad])
        with pytest.raises(NotFinite, match=f"1 {name}.*row 1"):
            attack_scores(*pair)
