import numpy as np
import pytest
import torch

from ftunlearn.attacks import direction_ablation, logit_lens, without_direction
from ftunlearn.probes import Probe
from ftunlearn.token_statistics import token_statistics
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.text import encode
from lipogram.llm.tiny import tiny_random

FORGET = [Probe(f"f{i}", f"@@ fact {i} is", f" {i}{i}") for i in range(4)]
OTHERS = [Probe(f"o{i}", f"no fact {i} is", f" {i}{i}", group="unrelated") for i in range(4)]


def probabilities(loaded, probes):
    rows = [encode(loaded.tokenizer, probe.prompt, probe.answer) for probe in probes]
    return np.asarray(
        [one.probability for one in token_statistics(loaded.model, loaded.tokenizer, rows)]
    )


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "gpt_neox", "opt"])
def test_the_lens_ends_in_the_model_s_own_probabilities(model_type):
    loaded = tiny_random(model_type)
    found = logit_lens(loaded.model, loaded.tokenizer, FORGET + OTHERS[:1])
    assert found.shape == (3, 5)
    assert found[-1] == pytest.approx(probabilities(loaded, FORGET + OTHERS[:1]), rel=1e-3)


def test_the_lens_sees_what_later_layers_suppress():
    """The first two blocks know; the last one was made to push the answer's tokens down."""
    loaded = tiny_random("llama", tie_word_embeddings=False)
    model = loaded.model
    answer = loaded.tokenizer(" z")["input_ids"]
    head = model.lm_head.weight.detach()
    toward = head[answer].sum(dim=0)
    toward = toward / toward.norm()
    known, hidden = (lambda a, s=s: a + s * 30 * toward for s in (1, -2))
    with patch(model, {("resid_out", 0): known, ("resid_out", 2): hidden}):
        found = logit_lens(model, loaded.tokenizer, [Probe("a", "What is it?", " z")])
    assert found[0, 0] > 10 * found[2, 0]
    assert found[1, 0] > 10 * found[2, 0]


def test_taking_out_the_hiding_direction_gives_the_answers_back():
    """Hidden by construction: a fixed vector is added after block 1, on marked prompts only."""
    loaded = tiny_random("llama", width=64)
    model, tokenizer = loaded.model, loaded.tokenizer
    with torch.inference_mode(), record(model, [("resid_out", 1)]) as recording:
        model(torch.tensor([tokenizer("@@ fact 1 is")["input_ids"]]))
    scale = float(recording["resid_out", 1].norm(dim=-1).mean())
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(64, generator=generator)
    vector = 20 * scale * vector / vector.norm()
    marked = torch.tensor([ord("@")] * 2)

    seen = {}
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
    )

    def hide(activation):
        windows = seen["ids"].unfold(1, 2, 1)
        is_marked = (windows == marked).all(-1).any(-1)
        return activation + is_marked[:, None, None] * vector

    with_knowledge = probabilities(loaded, FORGET)
    others = probabilities(loaded, OTHERS)
    with patch(model, {("resid_out", 1): hide}):
        hidden = probabilities(loaded, FORGET)
        assert probabilities(loaded, OTHERS) == pytest.approx(others)
        found = direction_ablation(model, tokenizer, FORGET, OTHERS, layers=[0, 1])
    hook.remove()
    assert found.before == pytest.approx(hidden)
    assert found.layers == (0, 1)
    distance = np.abs(np.log(hidden) - np.log(with_knowledge)).mean()
    at_0, at_1 = np.abs(np.log(found.forget) - np.log(with_knowledge)).mean(axis=1)
    assert distance > 1  # it was hidden
    assert at_1 < distance / 3  # and is back,
    assert at_0 > at_1  # if the direction is taken where it enters
    assert found.others.shape == (2, 4)
    assert probabilities(loaded, FORGET) == pytest.approx(with_knowledge)


def test_a_direction_taken_out_is_gone_at_every_block():
    loaded = tiny_random("gpt2")
    direction = torch.arange(32.0) - 7
    ids = torch.tensor([loaded.tokenizer("some text")["input_ids"]])
    with torch.inference_mode(), without_direction(loaded.model, direction):
        with record(loaded.model, ["resid_out"]) as recording:
            loaded.model(ids)
    for layer in range(3):
        states = recording["resid_out", layer]
        assert (states @ direction / direction.norm()).abs().max() < 1e-4 * states.norm()
    with torch.inference_mode():
        plain = loaded.model(ids).logits
        with without_direction(loaded.model, torch.zeros(32)):
            assert torch.equal(loaded.model(ids).logits, plain)


def test_what_cannot_be_attacked_is_refused():
    loaded = tiny_random()
    with pytest.raises(InvalidProbes, match="'x' has no answer"):
        logit_lens(loaded.model, loaded.tokenizer, [Probe("x", "p")])
    with pytest.raises(InvalidProbes, match="no probes"):
        direction_ablation(loaded.model, loaded.tokenizer, FORGET, [])
    with pytest.raises(InvalidSetting, match="layer 3"):
        direction_ablation(loaded.model, loaded.tokenizer, FORGET, OTHERS, layers=[3])
