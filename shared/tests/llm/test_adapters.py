import copy

import pytest
import torch

from lipogram.errors import PatchMismatch
from lipogram.llm.adapters import without_adapter
from lipogram.llm.architecture import GROUPS, describe
from lipogram.llm.restoring import restore
from lipogram.llm.tiny import tiny_random

peft = pytest.importorskip("peft", reason="pip install peft")

IDS = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(0))


def lora(model_type="llama", model=None, **more):
    base = model or tiny_random(model_type, layers=2).model
    settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    torch.manual_seed(0)
    adapted = peft.get_peft_model(base, peft.LoraConfig(**(settings | more))).eval()
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name or "magnitude" in name:
            parameter.data += torch.randn_like(parameter) / 4
    return adapted


def switches(model):
    return [
        (module.disable_adapters, [p.requires_grad for p in module.parameters()])
        for module in model.modules()
        if hasattr(module, "disable_adapters")
    ]


@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head", "norm"]}])
@torch.no_grad()
def test_off_on_a_group_is_restoring_it_in_the_merged_model(more):
    model, base = lora(**more), tiny_random("llama", layers=2).model
    merged = copy.deepcopy(model).merge_and_unload()
    adapted, before = model(IDS).logits, switches(model)
    for group in GROUPS:
        for layers in [None, [1]][: 1 if group in ("embed", "head") else 2]:
            with without_adapter(model, [group], layers):
                off = model(IDS).logits
            with restore(merged, base, [group], layers):
                torch.testing.assert_close(off, merged(IDS).logits, atol=1e-4, rtol=1e-4)
    assert switches(model) == before
    assert torch.equal(model(IDS).logits, adapted)
    with without_adapter(model, ["all"]):
        assert torch.equal(model(IDS).logits, base(IDS).logits)


@torch.no_grad()
def test_exactly_those_modules_are_off():
    model = lora()
    model.base_model.model.model.layers[0].mlp.down_proj.enable_adapters(False)
    model.base_model.model.model.layers[1].mlp.down_proj.requires_grad_(False)  # frozen, but on
    before = switches(model)
    with without_adapter(model, ["values", "attn_qk"], [1]):
        off = [
            name
            for name, module in model.base_model.model.named_modules()
            if getattr(module, "disable_adapters", False) is True
        ]
    assert off == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert switches(model) == before
    with pytest.raises(ZeroDivisionError), without_adapter(model, ["all"]):
        raise ZeroDivisionError
    assert switches(model) == before


@torch.no_grad()
def test_restoring_into_an_adapted_model_restores_what_it_computes():
    model, source = lora(), tiny_random("llama", layers=2, seed=1).model
    merged = copy.deepcopy(model).merge_and_unload()
    plain = model(IDS).logits
    for group in GROUPS:
        with restore(model, source, [group]), restore(merged, source, [group]):
            torch.testing.assert_close(
                model(IDS).logits, merged(IDS).logits, atol=1e-4, rtol=1e-4, msg=group
            )
    with restore(model, source, ["all"]):
        assert torch.equal(model(IDS).logits, source(IDS).logits)
    assert torch.equal(model(IDS).logits, plain)


def test_a_source_must_compute_with_its_weights():
    model, source = tiny_random("llama", layers=2, seed=1).model, lora()
    with pytest.raises(PatchMismatch, match=r"source.*active adapter.*merge"):
        with restore(model, source, ["values"]):
            pass
    with source.disable_adapter(), restore(model, source, ["values"]), torch.no_grad():
        model(IDS)


@torch.no_grad()
def test_a_fused_projection_can_only_be_off_as_a_whole():
    model = lora("gpt2", target_modules=["c_attn"])
    base = copy.deepcopy(model).unload()
    with pytest.raises(PatchMismatch, match=r"c_attn.*attn_qk.*'attn' can"):
        with without_adapter(model, ["attn_qk"]):
            pass
    with without_adapter(model, ["attn"]):
        assert torch.equal(model(IDS).logits, base(IDS).logits)


def test_what_cannot_be_off_alone_is_refused_with_the_reason():
    def refused(model, message):
        before = switches(model)
        with pytest.raises(PatchMismatch, match=message), without_adapter(model, ["values"]):
            pass
        assert switches(model) == before

    refused(lora(bias="all"), "'default' trains biases.*'all'")
    merged = lora()
    merged.merge_adapter()
    refused(merged, "merged into .*down_proj.*unmerge_adapter")
    refused(lora(modules_to_save=["mlp"], target_modules=["q_proj"]), r"layers\.0\.mlp is adapted")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prompts = peft.get_peft_model(tiny_random("llama", layers=2).model, config)
    refused(prompts, "PROMPT_TUNING.*adds tokens")


def test_names_do_not_depend_on_the_adapter():
    plain = describe(tiny_random("llama", layers=2).model)
    adapted = describe(lora(modules_to_save=["lm_head", "norm"]))
    for group in GROUPS:
        names = [[item.name for item in a.parameters(group)] for a in (plain, adapted)]
        assert names[0] == names[1]
    assert adapted.causal_lm.config.model_type == "llama"


@torch.no_grad()
def test_adapters_loaded_into_a_plain_model_are_found():
    model = tiny_random("llama", layers=2).model
    plain = model(IDS).logits
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False))
    model.eval()
    assert not torch.equal(model(IDS).logits, plain)
    with without_adapter(model, ["values"]):
        assert torch.equal(model(IDS).logits, plain)
