import numpy as np
import pytest
import torch

from ftunlearn.facts import builtin
from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe, ProbeSet
from ftunlearn.relearning import RelearnConfig, control_facts, relearn_attack
from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.scoring import answer_logprobs
from lipogram.llm.tiny import tiny_random

FORGET = [Probe(f"f{i}", f"fact {i} is", f" {letter}") for i, letter in enumerate("abcd")]
KNOWN = [Probe(f"k{i}", f"known {i} is", f" {letter}") for i, letter in enumerate("xyz")]


@pytest.fixture
def pair():
    vanilla, unlearned = tiny_random(), tiny_random(seed=1)
    return ModelPair(vanilla.model, unlearned.model, vanilla.tokenizer)


def probability(model, tokenizer, facts):
    prompts, answers = [f.prompt for f in facts], [f.answer for f in facts]
    return np.exp(answer_logprobs(model, tokenizer, prompts, answers, reduction="mean"))


def test_each_half_is_shown_once_and_asked_for_once(pair):
    config = RelearnConfig(steps=(1, 30), k=30, lr=1e-2)
    found = relearn_attack(pair, FORGET, KNOWN, config)
    assert not np.isnan(found.shown).any()
    assert not np.isnan(found.held_out).any()
    assert (found.shown[-1] > 0.9).all()
    assert found.held_out[-1].mean() < found.shown[-1].mean()
    np.testing.assert_allclose(found.gains, (found.held_out[1] - found.control[1]) / found.vanilla)
    np.testing.assert_allclose(
        found.start, probability(pair.unlearned, pair.tokenizer, FORGET), rtol=1e-6
    )


def test_one_fold_holds_out_one_half(pair):
    found = relearn_attack(pair, FORGET, KNOWN, RelearnConfig(steps=(1,), k=1, folds=1))
    assert np.isnan(found.held_out).sum() == 2
    assert (np.isnan(found.held_out) == np.isnan(found.control)).all()


def test_the_attack_leaves_the_model_alone_and_says_the_same_again(pair):
    before = pair.fingerprints()
    first, second = (relearn_attack(pair, FORGET, KNOWN) for _ in range(2))
    assert pair.fingerprints() == before
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert all(p.grad is None for p in pair.unlearned.parameters())


def test_an_adapter_can_be_trained_in_place_of_all_weights(pair):
    config = RelearnConfig(steps=(30,), k=30, lr=3e-2, rank=4)
    found = relearn_attack(pair, FORGET, KNOWN, config)
    assert found.shown.mean() > found.start.mean() + 0.1


def test_the_control_has_nothing_to_do_with_the_forgotten_facts():
    probes = builtin("facts")
    control = control_facts(probes)
    assert control == list(probes.group("unrelated"))
    assert not any("capital" in fact.prompt for fact in control)
    retained = ProbeSet(Probe(f.id, f.prompt, f.answer, group="retain") for f in KNOWN)
    assert control_facts(retained) == list(retained)
    assert control_facts(ProbeSet(FORGET)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": (0, 4)}, "steps must be >= 1"),
        ({"k": 3}, "k must be one of"),
        ({"lr": 0.0}, "lr and clip"),
        ({"folds": 3}, "folds must be 1 or 2"),
        ({"rank": 0}, "rank must be >= 1"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        RelearnConfig(**settings)


def test_too_few_facts_are_refused(pair):
    with pytest.raises(InvalidSetting, match="2 forgotten facts at least, got 1"):
        relearn_attack(pair, FORGET[:1], KNOWN)
    with pytest.raises(InvalidSetting, match="known facts"):
        relearn_attack(pair, FORGET, [])
    with pytest.raises(InvalidSetting, match="f9 has no answer"):
        relearn_attack(pair, [*FORGET, Probe("f9", "x")], KNOWN)


def test_a_diverging_attack_says_so(pair):
    with torch.no_grad():
        pair.unlearned.lm_head.weight.mul_(torch.finfo(torch.float32).max)
    with pytest.raises(NotFinite):
        relearn_attack(pair, FORGET, KNOWN)
