import copy

import numpy as np
import pytest
import torch

from ftunlearn.weight_change import value_vector_change, weight_change
from lipogram.errors import PatchMismatch
from lipogram.llm.tiny import tiny_random


def scaled(model, factors):
    """A copy whose parameters are multiplied, by the first part of a name that fits."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            for part, factor in factors.items():
                if part in name:
                    parameter *= factor
    return other


def test_scaling_a_group_changes_it_by_that_factor_and_no_other():
    model = tiny_random("llama").model
    other = scaled(model, {"down_proj": 1.25, "q_proj": 0.5, "k_proj": 0.5, "embed_tokens": 1.0})
    found = weight_change(model, other)
    assert found["values"] == pytest.approx(0.25, rel=1e-5)
    assert found["attn_qk"] == pytest.approx(0.5, rel=1e-5)
    for group in ("keys", "attn_vo", "norms", "embed", "head"):
        assert found[group] == 0


def test_tied_embeddings_count_once():
    model = tiny_random("llama", tie_word_embeddings=True).model
    assert "head" not in weight_change(model, copy.deepcopy(model))


@pytest.mark.parametrize(
    ("model_type", "name"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")]
)
def test_value_vectors_equal_a_loop(model_type, name):
    model = tiny_random(model_type).model
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, parameter in other.named_parameters():
            if f"{name}.weight" in path and ".1." in path:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    found = value_vector_change(model, other)
    for layer in range(3):
        (before, after) = (
            next(p for path, p in m.named_parameters() if f".{layer}.{name}.weight" in path)
            for m in (model, other)
        )
        if (
            model_type == "llama"
        ):  # a value vector is a column of [width, m]; GPT-2 keeps [m, width]
            before, after = before.T, after.T
        pairs = list(zip(before.detach().double(), after.detach().double(), strict=True))
        assert len(pairs) == (128 if model_type == "gpt2" else 64)
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in pairs]
        assert found[str(layer)]["cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
        assert found[str(layer)]["lowest cosine"] == pytest.approx(min(cosines), abs=1e-6)
        distance = np.mean([float((a - b).norm()) for a, b in pairs])
        assert found[str(layer)]["distance"] == pytest.approx(distance, abs=1e-6)
    assert found["0"]["distance"] == 0 < found["1"]["distance"]


def test_an_adapter_s_change_is_that_of_the_merged_model():
    peft = pytest.importorskip("peft", reason="pip install peft")
    loaded = tiny_random("llama")
    before = copy.deepcopy(loaded.model)
    config = peft.LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(loaded.model, config)
    merged = copy.deepcopy(model).merge_and_unload()
    found, wanted = weight_change(loaded.model, model), weight_change(before, merged)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert found["values"] > 0 == found["keys"]
    vectors, merged_vectors = (
        value_vector_change(loaded.model, model),
        value_vector_change(before, merged),
    )
    for layer in vectors:
        assert vectors[layer] == pytest.approx(merged_vectors[layer], rel=1e-4)


def test_an_adapter_that_is_no_sum_is_refused():
    peft = pytest.importorskip("peft", reason="pip install peft")
    loaded = tiny_random("llama")
    config = peft.LoraConfig(r=2, target_modules=["down_proj"], use_dora=True)
    model = peft.get_peft_model(loaded.model, config)
    with pytest.raises(PatchMismatch, match="does not simply add"):
        weight_change(loaded.model, model)
