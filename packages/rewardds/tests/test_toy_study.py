"""The toy study: every arm learns from as many rows, and what is measured is what it says."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidSetting
from rewardds import toy_study
from rewardds.errors import UnsafeSetting
from rewardds.plan import RunPlan
from rewardds.toy_claims import AUC, budget_claims, nothing_claim
from rewardds.toy_domain import ToyDomain, corrupted, parse_question
from rewardds.toy_proxies import toy_model
from rewardds.toy_study import ToyOutcome, ToyScale, ToyStudy, _spoilt, accuracy, reward_auc
from rewardds.verification import verify

TINY = ToyScale(
    records=80,
    generator=RunPlan(8, 0.5),
    reward=RunPlan(8, 0.3),
    physical_batch=16,
    examples=8,
    questions=24,
    candidates=3,
    keep=1 / 4,
    stages=1,
    first_epochs=2,
    later_epochs=1,
    tuning_batch=3,
    held_out=20,
    draws=2,
)


@pytest.fixture(scope="module")
def read():
    """A model that has read a little: enough for the grammar."""
    return toy_model(layers=1, width=32, steps=150, batch=32, lr=1e-2)


def weights(loaded):
    return {name: weight.clone() for name, weight in loaded.model.state_dict().items()}


@pytest.fixture(scope="module")
def ran(read, tmp_path_factory):
    """One run, with what the server was tuned on, and the weights before."""
    folder, before = tmp_path_factory.mktemp("run"), weights(read)
    tuned = []

    def noted(loaded, rows, tuning, prompts):
        tuned.append((loaded, list(rows), tuning.epochs))
        return finetune(loaded, rows, tuning, prompts)

    from rewardds import server

    finetune = server.finetune
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "finetune", noted)
        outcome = ToyStudy(read, read, TINY).run(1, 6.0, folder)
    return outcome, tuned, folder, before


def test_a_run_keeps_its_budget_and_leaves_the_models_as_they_were(read, ran):
    outcome, _, folder, before = ran
    verified = verify(folder / "bundle")
    assert 5.9 < outcome.epsilon <= 6.0
    assert (verified.epsilon, verified.delta) == (outcome.epsilon, outcome.delta)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(read).items())


def test_every_arm_is_tuned_as_often_on_as_many_rows(ran):
    outcome, tuned, _, _ = ran
    assert set(outcome.accuracy) == {"random", "shuffled", "filtered", "refined"}
    assert set(outcome.right) == {*outcome.accuracy, "candidates"}
    assert all(0 <= value <= 1 for value in (*outcome.right.values(), *outcome.accuracy.values()))
    by_model = {}
    for loaded, rows, epochs in tuned:
        by_model.setdefault(id(loaded), []).append((len(rows), epochs))
    assert len(by_model) == 2 + 2 * TINY.draws
    assert len(tuned) == 2 * len(by_model)
    assert all(steps[0][1] == 2 and steps[1][1] == 1 for steps in by_model.values())
    assert len({rows for _, rows, _ in tuned for rows in [len(rows)]}) == 1


def test_the_share_of_right_answers_is_counted_on_the_rows_of_each_arm(ran):
    outcome, tuned, _, _ = ran
    domain = ToyDomain(1)
    last = {id(loaded): rows for loaded, rows, _ in tuned}  # in the order of the arms
    filtered, *by_chance, refined = (
        np.mean([row.answer == str(_right(domain, row.question)) for row in rows])
        for rows in last.values()
    )
    assert (outcome.right["filtered"], outcome.right["refined"]) == (filtered, refined)
    assert outcome.right["random"] == np.mean(by_chance[: TINY.draws])
    assert outcome.right["shuffled"] == np.mean(by_chance[TINY.draws :])


def test_what_is_drawn_by_chance_is_drawn_anew(ran):
    _, tuned, _, _ = ran
    last = {id(loaded): {row.id for row in rows} for loaded, rows, _ in tuned}
    _, *by_chance, _ = last.values()
    assert len({frozenset(rows) for rows in by_chance}) == len(by_chance)


def test_weak_answers_differ_in_one_word_of_either_kind():
    domain = ToyDomain(2)
    case_of = {record.id: parse_question(record.instruction) for record in domain.records(60)}
    weak = {
        source: [
            domain.slots_right(case_of[record.id], _spoilt(record, source))
            for record in domain.records(60)
        ]
        for source in ("corrupt", "offtopic")
    }
    assert set(weak["corrupt"]) == {(False, True, True, True)}
    assert {sum(right) for right in weak["offtopic"]} == {3}
    assert all(right[0] for right in weak["offtopic"])
    assert len(set(weak["offtopic"])) == 3


def _right(domain, question):
    case = parse_question(question)
    return None if case is None else domain.answer(case)


def test_the_bound_learns_from_the_records_themselves(read):
    before = weights(read)
    study = ToyStudy(read, read, replace(TINY, records=400, later_epochs=3, tuning_batch=8))
    assert 0 <= study.bound(1) <= 1
    assert all(torch.equal(weight, before[name]) for name, weight in weights(read).items())


def test_accuracy_counts_answers_that_are_right_in_all_four_words(read, monkeypatch):
    domain = ToyDomain(2)
    cases = domain.cases(20, held_out=True)
    said = [domain.answer(case) for case in cases]
    draw = np.random.default_rng(0)
    said[:5] = [corrupted(domain.answer(case), draw) for case in cases[:5]]
    said[5:7] = ["", said[5] + " oral"]
    monkeypatch.setattr(
        toy_study, "generate", lambda *_, **__: [SimpleNamespace(text=text) for text in said]
    )
    assert accuracy(read, domain, 20) == 13 / 20


def test_the_area_is_that_of_right_against_spoilt_answers(read, monkeypatch):
    domain, read_text = ToyDomain(2), read.tokenizer.decode

    def oracle(score):
        def rewards(model, groups, *, padding):
            told = []
            for group in groups:
                texts = [read_text(one.ids).split("<assistant>") for one in group]
                right = [
                    sum(domain.slots_right(parse_question(q.replace("<user>", "")), a[:-5]))
                    for q, a in texts
                ]
                assert right == [4, 3]
                told.append([score(n) for n in right])
            return told

        return rewards

    for score, area in ((float, 1.0), (lambda n: -float(n), 0.0), (lambda n: 0.0, 0.5)):
        monkeypatch.setattr(toy_study, "rewards", oracle(score))
        assert reward_auc(read, domain, 30) == area


def test_what_is_not_private_is_not_called_so(read, tmp_path):
    study = ToyStudy(read, read, replace(TINY, weak_sources=("sft",)))
    with pytest.raises(UnsafeSetting, match="sft"):
        study.fit(1, 6.0, tmp_path)
    assert not (tmp_path / "bundle").exists()


def outcome(seed, *, auc=0.8, **accuracy):
    arms = {"random": 0.4, "shuffled": 0.4, "filtered": 0.5, "refined": 0.6} | accuracy
    return ToyOutcome(seed, 7.9, 1e-5, auc, 0.5, {}, arms)


def claims(*outcomes, epsilon=8.0, bound=0.9):
    found = budget_claims(epsilon, outcomes, {one.seed: bound for one in outcomes})
    return {claim.name: claim for claim in found}


def test_claims_are_means_over_seeds_with_their_errors():
    found = claims(outcome(0, refined=0.5), outcome(1, refined=0.7), outcome(2, refined=0.6))
    gain = found["filtered and refined − random"]
    assert gain.mean == pytest.approx(0.2)
    assert gain.error == pytest.approx(0.1 / math.sqrt(3))
    assert all(claim.holds for claim in found.values())
    assert math.isnan(claims(outcome(0))["area of the reward"].error)


@pytest.mark.parametrize(
    ("name", "change", "epsilon"),
    [
        ("filtered and refined − random", {"refined": 0.42}, 8.0),
        ("filtered − random", {"filtered": 0.39}, 8.0),
        ("shuffled rewards − random", {"shuffled": 0.43}, 8.0),
        ("shuffled rewards − random", {"shuffled": 0.37}, 8.0),
        ("no privacy − filtered and refined", {"refined": 0.95}, 8.0),
        ("area of the reward", {"auc": 0.69}, 8.0),
        ("area of the reward", {"auc": 0.54}, 2.0),
    ],
)
def test_a_claim_that_fails_is_the_only_one(name, change, epsilon):
    found = claims(outcome(0, **change), epsilon=epsilon)
    assert [claim.name for claim in found.values() if not claim.holds] == [name]


def test_a_smaller_budget_asks_for_less_of_the_reward():
    assert AUC[2.0] < AUC[8.0]
    assert claims(outcome(0, auc=0.6), epsilon=2.0)["area of the reward"].holds


@pytest.mark.parametrize(
    ("auc", "holds"), [(0.44, False), (0.46, True), (0.54, True), (0.56, False)]
)
def test_without_a_budget_the_reward_is_to_know_nothing(auc, holds):
    assert nothing_claim([outcome(0, auc=auc)]).holds is holds


def test_claims_without_runs_or_bounds_are_refused():
    for wrong in (lambda: budget_claims(8.0, [], {}), lambda: budget_claims(8.0, [outcome(0)], {})):
        with pytest.raises(InvalidSetting, match="bound"):
            wrong()
    with pytest.raises(InvalidSetting, match="no outcome"):
        nothing_claim([])
