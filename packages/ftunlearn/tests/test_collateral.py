import copy
import math
from importlib.resources import files

import numpy as np
import pytest
import torch

from ftunlearn.collateral import side_effects
from ftunlearn.probes import Probe, ProbeSet
from lipogram.errors import InvalidProbes
from lipogram.llm.tiny import tiny_random

PROBES = ProbeSet(
    [
        Probe("a", "The sky is", " blue", ("Above us it is",), "forget"),
        Probe("b", "Grass is", None, (), "forget"),
        Probe("c", "Two and two", " is four", (), "unrelated"),
    ]
)


def test_a_model_has_no_side_effects_on_itself(pair_of):
    loaded = tiny_random()
    found = side_effects(pair_of(loaded.model, loaded.model, loaded.tokenizer), PROBES)
    assert set(found["behaviour"]) == {"forget", "unrelated"}
    for measures in found["behaviour"].values():
        for name in ("bleu", "rouge_l", "same_output"):
            assert measures[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
        for name, part in measures.items():
            if name.endswith("_vanilla"):
                assert part == measures[name.replace("_vanilla", "_unlearned")]
    forget, unrelated = found["behaviour"]["forget"], found["behaviour"]["unrelated"]
    assert "paraphrase_probability_vanilla" in forget
    assert "paraphrase_probability_vanilla" not in unrelated
    assert found["perplexity"]["vanilla"] == found["perplexity"]["unlearned"]
    assert set(found["weight_change"].values()) == {0.0}
    assert all(part["distance"] == 0 for part in found["value_vectors"].values())


def test_measures_equal_a_loop(pair_of):
    first, second = tiny_random(seed=1), tiny_random(seed=2)
    pair = pair_of(first.model, second.model, first.tokenizer)
    found = side_effects(pair, PROBES, max_new_tokens=8)

    def says(model, prompt):
        ids = first.tokenizer(prompt)["input_ids"]
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[-8:]

    def probability(model, prompt, answer):
        ids = first.tokenizer(prompt)["input_ids"]
        logprobs = []
        for token in answer:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            logprobs.append(float(logits.log_softmax(-1)[token]))
            ids.append(token)
        return math.exp(np.mean(logprobs))

    blue = first.tokenizer(" blue")["input_ids"]
    own = says(first.model, "Grass is")
    forget = found["behaviour"]["forget"]
    for name, model in (("vanilla", first.model), ("unlearned", second.model)):
        wanted = [probability(model, "The sky is", blue), probability(model, "Grass is", own)]
        part = forget[f"probability_{name}"]
        assert part["value"] == pytest.approx(np.mean(wanted), rel=1e-4)
        assert part["low"] <= part["value"] <= part["high"]
        paraphrased = probability(model, "Above us it is", blue)
        assert forget[f"paraphrase_probability_{name}"]["value"] == pytest.approx(
            paraphrased, rel=1e-4
        )
    assert forget["accuracy_vanilla"]["value"] == 0.5  # its own continuation, and not " blue"
    assert forget["accuracy_unlearned"]["value"] == 0.0
    assert forget["same_output"]["value"] == 0.0
    assert forget["rouge_l"]["value"] < 1


def test_perplexity_is_by_token_over_all_paragraphs(pair_of):
    first, second = tiny_random(seed=1), tiny_random(seed=2)
    found = side_effects(pair_of(first.model, second.model, first.tokenizer), PROBES)
    parts = files("ftunlearn").joinpath("neutral.txt").read_text().strip().split("\n\n")
    total, n = 0.0, 0
    for part in parts:
        ids = torch.tensor([first.tokenizer(part)["input_ids"]])
        with torch.no_grad():
            total += float(second.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        n += ids.shape[1] - 1
    assert found["perplexity"]["unlearned"] == pytest.approx(math.exp(total / n), rel=1e-4)


def test_an_adapter_of_another_kind_leaves_the_weights_out(pair_of):
    peft = pytest.importorskip("peft", reason="pip install peft")
    loaded = tiny_random()
    config = peft.LoraConfig(r=2, target_modules=["down_proj"], use_dora=True)
    model = peft.get_peft_model(copy.deepcopy(loaded.model), config)
    found = side_effects(pair_of(loaded.model, model, loaded.tokenizer), PROBES[:1])
    assert set(found) == {"behaviour", "perplexity"}


def test_no_probes_are_refused(pair_of):
    loaded = tiny_random()
    with pytest.raises(InvalidProbes, match="no probes"):
        side_effects(pair_of(loaded.model, loaded.model, loaded.tokenizer), ProbeSet())


def test_an_answer_is_accurate_only_as_a_whole(pair_of):
    loaded = tiny_random(seed=1)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        with torch.no_grad():
            first = int(loaded.model(torch.tensor([[ord(letter)]])).logits[0, -1].argmax())
        if 33 <= first < 127:
            break
    with torch.no_grad():
        second = int(loaded.model(torch.tensor([[ord(letter), first]])).logits[0, -1].argmax())
    wrong = "#" if second != ord("#") else "$"
    probes = ProbeSet([Probe("a", letter, chr(first)), Probe("b", letter, chr(first) + wrong)])
    found = side_effects(pair_of(loaded.model, loaded.model, loaded.tokenizer), probes)
    assert found["behaviour"]["forget"]["accuracy_vanilla"]["value"] == 0.5
