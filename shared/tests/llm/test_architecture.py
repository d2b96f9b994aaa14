import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lipogram.errors import InvalidSetting, PatchMismatch, UnsupportedArchitecture
from lipogram.llm.architecture import GROUPS, SITES, describe
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.running import run_from
from lipogram.llm.tiny import TINY_TYPES, tiny_random

FINEST = ("values", "keys", "attn_qk", "attn_vo", "norms", "embed", "head")


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_the_finest_groups_are_every_weight_once(model_type):
    model = tiny_random(model_type, layers=2).model
    architecture = describe(model)
    sizes, seen = {}, {}
    for group in FINEST:
        parameters = architecture.parameters(group)
        sizes[group] = sum(item.value.numel() for item in parameters)
        for item in parameters:
            held = seen.setdefault(id(item.parameter), [])
            held.append(None if item.index is None else set(item.index.tolist()))
    if architecture.tied:
        head = model.get_output_embeddings().weight
        assert seen.pop(id(head)) == [None, None]
        sizes["head"] -= head.numel()
    for parts in seen.values():
        if parts != [None]:
            assert all(parts), "a slice and the whole"
            assert not set.intersection(*parts)
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())
    assert {id(p) for p in model.parameters()} == {
        id(item.parameter) for item in architecture.parameters("all")
    }
    names = dict(model.named_parameters(remove_duplicate=False))
    for group in GROUPS:
        for item in architecture.parameters(group):
            assert names[item.name] is item.parameter


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_groups_of_single_layers_add_up_to_the_blocks(model_type):
    architecture = describe(tiny_random(model_type, layers=2).model)
    for group in set(GROUPS) - {"embed", "head"}:
        by_layer = [
            item.name for layer in (0, 1) for item in architecture.parameters(group, [layer])
        ]
        whole = [item.name for item in architecture.parameters(group)]
        assert set(by_layer) <= set(whole)
        assert all(".0." in name or ".1." in name for name in by_layer)
        if group not in ("norms", "all"):
            assert sorted(by_layer) == sorted(whole)


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_norms_are_norms_and_biases_go_with_their_matrix(model_type):
    architecture = describe(tiny_random(model_type, layers=1).model)
    for part in architecture.parts("norms"):
        assert "Norm" in type(part.module).__name__
    for group in set(FINEST) - {"norms"}:
        for part in architecture.parts(group):
            assert "Norm" not in type(part.module).__name__


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "phi3"])
def test_a_fused_projection_is_cut_as_the_model_cuts_it(model_type):
    model = tiny_random(model_type, layers=1).model
    architecture = describe(model)
    qk = next(item for item in architecture.parameters("attn_qk") if "weight" in item.name)
    vo = next(item for item in architecture.parameters("attn_vo") if item.index is not None)
    module = next(p.module for p in architecture.parts("attn_qk"))
    n, n_kv, width = architecture.n_heads, architecture.n_kv_heads, architecture.head_dim
    with torch.no_grad():
        qk.parameter.index_fill_(qk.dim, qk.index, 0.0)
        if module.bias is not None:
            module.bias.zero_()
    out = module(torch.randn(1, 5, architecture.width))
    if model_type == "gpt2":
        q, k, v = out.split(architecture.width, dim=2)
    elif model_type == "gpt_neox":
        q, k, v = out.view(1, 5, n, 3 * width).chunk(3, dim=-1)
    else:
        q, k, v = out.split([n * width, n_kv * width, n_kv * width], dim=-1)
    assert not q.any()
    assert not k.any()
    assert bool((v != 0).all())
    assert vo.value.numel() == v.shape[-1] * (n if v.ndim == 4 else 1) * architecture.width


def test_sizes_of_a_grouped_query_model():
    architecture = describe(tiny_random("llama", layers=3, width=48).model)
    assert (architecture.n_layers, architecture.width, architecture.mlp_width) == (3, 48, 96)
    assert (architecture.n_heads, architecture.n_kv_heads, architecture.head_dim) == (4, 2, 12)
    assert not architecture.tied
    assert describe(tiny_random("llama", tie_word_embeddings=True).model).tied


def test_sequence_classifiers_and_bare_models_have_sites_too():
    model = tiny_random("llama").model
    reward = AutoModelForSequenceClassification.from_config(model.config)
    assert describe(reward).head is reward.score
    assert describe(model.model).head is None
    assert describe(model.model).module("mlp_act", 1) == (
        model.model.layers[1].mlp.down_proj,
        "input",
    )


@pytest.mark.parametrize("model_type", ["smollm3", "gemma3"])
@torch.no_grad()
def test_types_of_the_table_that_have_no_tiny_model(model_type):
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 64,
    }
    if model_type == "gemma3":  # with images
        eyes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        eyes |= {"intermediate_size": 16, "image_size": 28, "patch_size": 14}
        text = {**shape, "head_dim": 8, "sliding_window": 4}
        shape = {"text_config": text, "vision_config": eyes, "mm_tokens_per_image": 4}
    else:
        shape["pad_token_id"] = 0
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape)).eval()
    ids = torch.tensor([[5, 9, 11, 7, 3, 2]])
    with record(model, SITES) as recording:
        logits = model(ids).logits
    for place, value in recording.items():
        with patch(model, {place: value}):
            assert torch.equal(model(ids).logits, logits), place
    for layer in (0, 1):
        parts = [recording[site, layer] for site in ("resid_in", "attn_add", "mlp_add")]
        torch.testing.assert_close(sum(parts), recording["resid_out", layer])
        with run_from(model, layer, recording["resid_in", layer]):
            assert torch.equal(model(ids).logits, logits)
    architecture = describe(model)
    assert len(architecture.parameters("embed")) == 1
    assert len(architecture.parameters("attn")) == 8


def test_wrappers_are_seen_through():
    model = tiny_random("llama").model
    for wrapped in (torch.compile(model), torch.nn.DataParallel(model)):
        assert describe(wrapped).causal_lm is model


def test_what_is_asked_for_wrongly_is_named():
    architecture = describe(tiny_random("gpt2", layers=2).model)
    with pytest.raises(InvalidSetting, match=r"mlp_hidden.*mlp_act"):
        architecture.module("mlp_hidden", 0)
    for layer in (2, -1, True, 0.0):
        with pytest.raises(InvalidSetting, match="layers 0 to 1"):
            architecture.module("mlp_act", layer)
    with pytest.raises(InvalidSetting, match="layers 0 to 1"):
        architecture.parameters("values", [5])
    with pytest.raises(InvalidSetting, match=r"value.*values"):
        architecture.parameters("value")
    with pytest.raises(InvalidSetting, match=r"embed.*outside the blocks"):
        architecture.parameters("embed", [0])
    with pytest.raises(UnsupportedArchitecture, match="llama"):
        describe(torch.nn.Linear(2, 2))


def test_quantised_weights_are_refused_with_the_reason():
    model = tiny_random("llama").model
    down = model.model.layers[1].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(PatchMismatch, match=r"layers\.1\.mlp\.down_proj.*quantised"):
        describe(model).parameters("values")
    down.weight = None  # as those who pack weights into buffers do
    with pytest.raises(PatchMismatch, match=r"layers\.1\.mlp\.down_proj.*quantised"):
        describe(model).parameters("values")
    assert describe(model).parameters("values", [0])
    assert describe(model).parameters("keys")


def test_every_site_has_a_module():
    architecture = describe(tiny_random("gemma2").model)
    sides = {site: architecture.module(site, 0)[1] for site in SITES}
    assert sides["mlp_act"] == sides["head_in"] == "input"
    block = architecture.blocks[0]
    assert architecture.module("attn_add", 0)[0] is block.post_attention_layernorm
    assert architecture.module("attn_out", 0)[0] is block.self_attn.o_proj
