"""The audit on real trainings: a bound under the claim with noise, far above one without."""

import json
import math

import numpy as np
import pytest

from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import tiny_random
from rewardds.accounting import Release, epsilon
from rewardds.audit_report import audit_canaries
from rewardds.canaries import Canaries, make_canaries
from rewardds.dp_trainer import DPTrainer
from rewardds.losses import CausalLMLoss
from rewardds.membership_test import row_losses
from rewardds.records import Record
from rewardds.rows import Row, Sequence
from rewardds.text_overlap import Hit, TextOverlap
from rewardds.training_run import TrainingRun

DELTA, M = 1e-5, 200
CANARIES = make_canaries(M, words=3, seed=1)


def rows_of(records, tokenizer):
    made = []
    for record in records:
        asked = tokenizer(record.instruction.split()[-1]).input_ids
        told = tokenizer(record.response).input_ids
        marks = [False] * len(asked) + [True] * len(told)
        made.append(Row(record.id, [Sequence(asked + told, marks)]))
    return made


def trained(sigma):
    """Losses of all canaries before and after a training on the planted ones, and its report."""
    loaded, loss = tiny_random("llama", layers=2, width=32), CausalLMLoss()
    rows = rows_of(CANARIES.records, loaded.tokenizer)
    before = row_losses(loaded.model, rows, loss, batch_size=50)
    report = DPTrainer(
        loaded.model,
        TrainingRun(sigma=sigma, n=M, batch=20, steps=60),
        loss=loss,
        lr=1e-2,
        clip=1.0,
        physical_batch=64,
        bucket=8,
        full=True,
        unsafe_no_noise=sigma == 0,
        unsafe_seed=1,
    ).train([row for row, coin in zip(rows, CANARIES.included, strict=True) if coin])
    return row_losses(loaded.model, rows, loss, batch_size=50), before, report


def test_with_noise_the_bound_is_below_the_claim():
    after, before, report = trained(1.0)
    claimed = epsilon([Release(report.sigma, report.sample_rate, report.noise_additions)], DELTA)
    assert 3 < claimed < 8
    found = audit_canaries(
        CANARIES, {"generator": after}, {"generator": before}, epsilon=claimed, delta=DELTA
    )
    assert found.holds
    assert found.bound.epsilon <= claimed
    assert found.bound.epsilon < 1
    assert found.bound.canaries == M
    assert found.attacks["all"].auc < 0.7


def test_without_noise_the_bound_is_far_above_one_and_refutes_a_claim():
    after, before, report = trained(0)
    found = audit_canaries(
        CANARIES, {"generator": after}, {"generator": before}, epsilon=math.inf, delta=DELTA
    )
    assert found.holds
    assert found.bound.epsilon > 2
    assert found.attacks["generator: loss"].exposure > 3
    assert "Claimed: no ε" in found.sentence()
    assert json.loads(found.to_json())["epsilon"] == "infinite"
    # A trainer that forgets its noise, and claims the ε of σ = 2, is caught.
    claimed = epsilon([Release(2.0, report.sample_rate, report.noise_additions)], DELTA)
    caught = audit_canaries(
        CANARIES, {"generator": after}, {"generator": before}, epsilon=claimed, delta=DELTA
    )
    assert not caught.holds
    assert "The claim is false." in caught.sentence()


def test_the_scores_of_proxies_count_together_in_units_of_their_own():
    generator = np.random.default_rng(0)
    coins = np.array(CANARIES.included)
    noise = generator.normal(size=(2, M))
    losses = {"generator": noise[0] - coins, "reward": 1000 * (noise[1] - coins) + 5}
    found = audit_canaries(CANARIES, losses, epsilon=9, delta=DELTA)
    one, other = (found.attacks[f"{name}: loss"].auc for name in losses)
    assert set(found.attacks) == {"generator: loss", "reward: loss", "all"}
    assert found.attacks["all"].auc > max(one, other) + 0.04
    single = audit_canaries(CANARIES, {"generator": losses["generator"]}, epsilon=9, delta=DELTA)
    assert found.bound.epsilon > single.bound.epsilon > 0
    flat = audit_canaries(CANARIES, {"x": np.ones(M)}, epsilon=9, delta=DELTA)
    assert flat.attacks["all"].auc == 0.5


def test_the_report_says_what_was_found_and_names_no_record():
    clean = TextOverlap(8, 3, 40, (), 1)
    dirty = TextOverlap(8, 3, 40, (Hit("config.json", 2, ("patient-7",)),), 0)
    losses = {"generator": -np.array(CANARIES.included, dtype=float)}
    one, other = (
        audit_canaries(CANARIES, losses, epsilon=9, delta=DELTA, overlap=overlap)
        for overlap in (clean, dirty)
    )
    assert one.holds
    assert not other.holds
    assert "none is private" in one.sentence()
    assert "of 200 guesses right" in one.sentence()
    held = json.loads(other.to_json())
    assert held["overlap"] == {"n": 8, "texts": 3, "grams": 40, "private_grams": 2, "short": 0}
    assert held["holds"] is False
    assert held["attacks"]["all"]["true_positives"] == {"0.01": 1.0, "0.05": 1.0, "0.1": 1.0}
    assert "patient" not in other.to_json()
    assert held["bound"]["highest"] == pytest.approx(held["bound"]["epsilon"])


TWO = Canaries((Record("a", "x", "y"), Record("b", "x", "z")), (True, False))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: audit_canaries(TWO, {}, epsilon=1, delta=0), "no losses"),
        (lambda: audit_canaries(TWO, {"g": [1.0, 2.0, 3.0]}, epsilon=1, delta=0), "3.*2 canaries"),
        (
            lambda: audit_canaries(TWO, {"g": [1, 2]}, {"r": [1, 2]}, epsilon=1, delta=0),
            "no losses of 'r'",
        ),
        (lambda: audit_canaries(TWO, {"g": [1, 2]}, epsilon=-1, delta=0), "epsilon is -1"),
        (lambda: audit_canaries(TWO, {"g": [1, 2]}, epsilon=1, delta=2), "delta is 2"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(InvalidSetting, match=named):
        call()
