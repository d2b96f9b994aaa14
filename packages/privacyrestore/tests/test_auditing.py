"""Whole audits: a bank that hides nothing, noise that hides all, and what the report says."""

import json

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting
from privacyrestore.auditing import ATTACKS, audit
from privacyrestore.mechanisms import Exact, Gaussian, Subspace
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.span_attacks import RECOVERY_ATTACKS

from .banks import loose_identity, random_bank

SITES = [(0, 0), (1, 2)]
M = 20


def orthogonal():
    vectors = torch.eye(M, 64).view(M, 2, 32)
    words = [f"finding-{i:02}" for i in range(M)]
    return RestorationBank.build(vectors, SITES, words, loose_identity())


def drawn_sets(n, seed=0, sizes=(2, 5)):
    draw = np.random.default_rng(seed)
    return [
        tuple(int(i) for i in draw.choice(M, int(draw.integers(*sizes)), replace=False))
        for _ in range(n)
    ]


def test_an_orthogonal_bank_without_noise_hides_nothing():
    report = audit(orthogonal(), Exact(unsafe=True), drawn_sets(120))
    assert set(report.recoveries) == set(RECOVERY_ATTACKS)
    for name, found in report.recoveries.items():
        assert found.recall.value == found.exact.value == found.recall.low == 1.0, name
    assert report.attribute.auc.value == 1.0
    assert report.recovery.value == 1.0


def test_noise_without_end_leaves_chance():
    sets, known = drawn_sets(600, sizes=(3, 4)), [(i,) for i in range(M)]
    report = audit(orthogonal(), Subspace(1e-3), sets, attacks=RECOVERY_ATTACKS, prior_sets=known)
    chance = 3 / M
    for name, found in report.recoveries.items():
        if not name.endswith("unknown"):
            assert found.chance["recall"] == pytest.approx(chance)
            assert found.recall.low - 0.01 <= chance <= found.recall.high + 0.01, name
    assert report.attribute is None


def test_probes_of_noise_tell_nothing():
    report = audit(
        orthogonal(), Subspace(1e-3), drawn_sets(400), attacks=("dictionary", "attribute")
    )
    assert report.attribute.auc.low - 0.01 <= 0.5 <= report.attribute.auc.high + 0.01
    assert report.attribute.balanced_accuracy.value == pytest.approx(0.5, abs=0.04)


def test_recovery_grows_with_epsilon():
    sets = drawn_sets(150)
    found = [
        audit(orthogonal(), Subspace(epsilon), sets, attacks=("likelihood",)).recovery.value
        for epsilon in (2.0, 20.0, 60.0, 400.0)
    ]
    assert found == sorted(found)
    assert found[0] < 0.4 < 0.95 < found[-1]


def test_averaging_fresh_releases_is_what_a_cache_prevents():
    report = audit(
        orthogonal(), Subspace(12.0), drawn_sets(100), attacks=("likelihood",), releases=25
    )
    assert report.averaged["likelihood"].recall.low > report.recovery.high
    assert report.spent.releases == 1
    assert report.averaged_spent.local_epsilon == pytest.approx(25 * report.spent.local_epsilon)
    assert "averaged" in report.sentence()


def test_repeats_narrow_the_noise_and_not_the_queries():
    sets = drawn_sets(40)
    one, many = (
        audit(orthogonal(), Subspace(15.0), sets, attacks=("dictionary",), repeats=repeats)
        for repeats in (1, 6)
    )
    assert many.queries == one.queries == 40
    assert many.recovery.high - many.recovery.low < one.recovery.high - one.recovery.low


def test_a_seed_decides_everything():
    def found(seed):
        return audit(orthogonal(), Subspace(15.0), drawn_sets(20), seed=seed).to_json()

    assert found(3) == found(3)
    assert found(3) != found(4)


def test_the_report_says_both_epsilons_what_is_spent_and_no_span():
    bank = orthogonal()
    sets = [*drawn_sets(30), ()]
    for mechanism in (Subspace(7.0), Gaussian(7.0, 1e-5), Exact(unsafe=True)):
        attacks = ATTACKS if mechanism.name == "none" else RECOVERY_ATTACKS
        report = audit(bank, mechanism, sets, attacks=attacks, releases=2)
        text = report.to_json()
        held = json.loads(text)
        assert held["guarantee"] == report.guarantee.as_json()
        assert held["attacks"]["likelihood"]["recall"]["value"] == pytest.approx(
            report.recoveries["likelihood"].recall.value
        )
        assert held["queries_without_spans"] == 1
        sentence = report.sentence()
        assert report.guarantee.sentence() in sentence
        assert report.spent.sentence() in sentence
        assert "private" not in sentence.lower()
        assert not any(word in text + sentence for word in bank.vocabulary)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attacks": ("dictionary", "guesswork")}, InvalidSetting),
        ({"attacks": ("attribute",)}, InvalidSetting),
        ({"repeats": 0}, InvalidSetting),
        ({"releases": 0}, InvalidSetting),
        ({"span_sets": [(0,), (M,)]}, InvalidSetting),
        ({"span_sets": [(0,), ()]}, InvalidProbes),
        ({"weights": [(1.0,)]}, InvalidSetting),
        ({"attributes": [()]}, InvalidSetting),
        ({"attributes": [(M,)]}, InvalidSetting),
        ({"prior_sets": [()]}, InvalidProbes),
    ],
)
def test_what_does_not_fit_is_named(settings, error):
    given = {"span_sets": [(0,), (1, 2), (3,)], **settings}
    with pytest.raises(error):
        audit(orthogonal(), Subspace(5.0), **given)


def test_attributes_may_be_any_of_several_spans():
    report = audit(orthogonal(), Exact(unsafe=True), drawn_sets(200), attributes=[(0, 1, 2), (5,)])
    assert report.attribute.attributes == ((0, 1, 2), (5,))
    assert report.attribute.auc.value > 0.95


def test_a_bank_of_dependent_vectors_can_be_audited():
    bank = random_bank(loose_identity(4, 4, 4), [(0, 0), (1, 1)], M)  # 20 vectors, 8 dimensions
    report = audit(bank, Exact(unsafe=True), drawn_sets(60), attacks=ATTACKS)
    assert bank.rank == 8
    assert report.recoveries["likelihood"].exact.value > 0.9
    assert report.recoveries["dictionary"].recall.value < 0.9
