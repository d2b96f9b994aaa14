import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lipogram.errors import UnsupportedArchitecture
from lipogram.llm import discovery
from lipogram.llm.architecture import describe
from lipogram.llm.layouts import LAYOUTS
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.restoring import restore
from lipogram.llm.tiny import tiny_random

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.tensor([[5, 9, 11, 7]])


def build(model_type, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SHAPE, **more)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma", "phi", "olmo", "gpt2"])
def test_structure_finds_what_the_table_says(model_type, monkeypatch):
    model = tiny_random(model_type, layers=2).model
    known = LAYOUTS[model_type]
    monkeypatch.delitem(LAYOUTS, model_type)
    found = describe(model).layout
    if known.fused:
        known = dataclasses.replace(known, q="attn", k="attn", v="attn", fused="unknown")
    assert found == known


@pytest.mark.parametrize("model_type", ["gemma2", "olmo2", "opt", "phi3"])
def test_what_the_usual_kind_does_not_describe_is_refused(model_type, monkeypatch):
    model = tiny_random(model_type, layers=2).model
    monkeypatch.delitem(LAYOUTS, model_type)
    with pytest.raises(UnsupportedArchitecture, match=f"{model_type}.*known: .*llama"):
        describe(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_model_is_tested_once_and_left_as_it_was():
    model = build("starcoder2").train()
    model.model.layers[0].eval()
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    describe(model)
    n = len(passes)
    assert n
    describe(model)
    assert len(passes) == n
    hook.remove()
    assert model.training
    assert model.model.layers[1].training
    assert not model.model.layers[0].training
    assert all(p.grad is None for p in model.parameters())


def test_a_factor_behind_the_projection_is_noticed():
    assert describe(build("granite")).layout.down == "mlp.down_proj"
    with pytest.raises(UnsupportedArchitecture, match=r"granite.*norm or a factor"):
        describe(build("granite", residual_multiplier=0.5))


def test_a_fused_projection_of_unknown_order_is_not_cut(monkeypatch):
    monkeypatch.delitem(LAYOUTS, "gpt2")
    model, source = (tiny_random("gpt2", seed=seed).model for seed in (0, 1))
    with pytest.raises(UnsupportedArchitecture, match=r"attn_qk.*unknown; 'attn' works"):
        describe(model).parameters("attn_qk")
    assert len(describe(model).parameters("attn", [0])) == 4
    with torch.no_grad(), restore(model, source, ["all"]):
        restored = model(IDS).logits
    assert torch.equal(restored, source(IDS).logits)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_has_all_sites_but_coefficients(model_type):
    more = {"head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    more["num_local_experts" if model_type == "mixtral" else "num_experts"] = 4
    model = build(model_type, **more)
    architecture = describe(model)
    assert architecture.mlp_width == 0
    for site in ("mlp_act", "mlp_out"):
        with pytest.raises(UnsupportedArchitecture, match=r"mixtures of experts.*mlp_in"):
            architecture.module(site, 0)
    for group in ("values", "keys"):
        with pytest.raises(UnsupportedArchitecture, match=r"experts.*'mlp' works"):
            architecture.parameters(group)
    assert any(item.parameter.ndim == 3 for item in architecture.parameters("mlp"))
    with torch.no_grad():
        plain = model(IDS).logits
        with record(model, ["mlp_in", "mlp_add", "attn_out"]) as recording:
            model(IDS)
        with patch(model, recording):
            assert torch.equal(model(IDS).logits, plain)


def test_models_without_attention_are_refused():
    with pytest.raises(UnsupportedArchitecture, match=r"mamba.*nothing for attention"):
        describe(
            AutoModelForCausalLM.from_config(
                AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=2, vocab_size=32)
            )
        )


def test_a_model_that_writes_into_activations_is_refused():
    model = build("starcoder2")
    kind = type(model.model.layers[0])

    def forward(self, hidden_states, **kwargs):
        return kind.forward(self, hidden_states.mul_(2), **kwargs)

    in_place = type("InPlace", (kind,), {"forward": forward})
    for block in model.model.layers:
        block.__class__ = in_place
    with pytest.raises(
        UnsupportedArchitecture, match="putting back what was seen at resid_in changes"
    ):
        describe(model)


def test_every_site_must_be_reached():
    model = build("starcoder2")
    unused = torch.nn.Linear(64, 32)
    for block in model.model.layers:
        block.mlp.extra = unused  # the last matrix, but never called
    with pytest.raises(UnsupportedArchitecture, match="never reached"):
        describe(model)
    assert model not in discovery._found
