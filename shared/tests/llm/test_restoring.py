import pytest
import torch

from lipogram.errors import IncompatiblePair, InvalidSetting, PatchMismatch
from lipogram.llm.architecture import describe
from lipogram.llm.restoring import restore
from lipogram.llm.tiny import TINY_TYPES, tiny_random

IDS = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(0))
FINEST = ["values", "keys", "attn_qk", "attn_vo", "norms", "embed", "head"]


def state(model):
    """Every parameter's place in memory and its bits."""
    return {
        name: (p.data_ptr(), p.detach().view(torch.int32).sum().item(), p.detach().clone())
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name][:2] == other[name][:2] and torch.equal(one[name][2], other[name][2])
        for name in one
    )


def pair(model_type="llama", **more):
    return (tiny_random(model_type, layers=2, seed=seed, **more).model for seed in (0, 1))


@pytest.mark.parametrize("groups", [["all"], FINEST, ["mlp", "attn", *FINEST[4:]]], ids=len)
@pytest.mark.parametrize("model_type", TINY_TYPES)
@torch.no_grad()
def test_everything_restored_is_the_source_and_undone_is_the_target(model_type, groups):
    model, source = pair(model_type)
    before, untouched = state(model), state(source)
    plain, theirs = model(IDS).logits, source(IDS).logits
    with restore(model, source, groups):
        assert torch.equal(model(IDS).logits, theirs)
    assert same(state(model), before)
    assert same(state(source), untouched)
    assert torch.equal(model(IDS).logits, plain)


@pytest.mark.parametrize("group", FINEST)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "phi3", "opt"])
@torch.no_grad()
def test_a_group_in_a_window_is_what_copying_it_gives(model_type, group):
    model, source = pair(model_type)
    copied = tiny_random(model_type, layers=2, seed=0).model
    layers = None if group in ("embed", "head") else [1]
    ours, theirs = (describe(m).parameters(group, layers) for m in (copied, source))
    for a, b in zip(ours, theirs, strict=True):
        index = torch.arange(a.parameter.shape[a.dim]) if a.index is None else a.index
        a.parameter.index_copy_(a.dim, index, b.parameter.index_select(a.dim, index))
    plain = model(IDS).logits
    with restore(model, source, [group], layers):
        restored = model(IDS).logits
        pointers = {p.data_ptr() for p in source.parameters()}
        for item in describe(model).parameters(group, layers):
            assert (item.parameter.data_ptr() in pointers) == (item.index is None)
    assert torch.equal(restored, copied(IDS).logits)
    assert not torch.equal(restored, plain)


@torch.no_grad()
def test_an_exception_inside_undoes_it():
    model, source = pair("gpt2")
    before, untouched = state(model), state(source)
    with pytest.raises(ZeroDivisionError), restore(model, source, ["attn_vo", "values"], [0]):
        raise ZeroDivisionError
    assert same(state(model), before)
    assert same(state(source), untouched)


@torch.no_grad()
def test_restorations_nest():
    model, source = pair("gpt_neox")
    third = tiny_random("gpt_neox", layers=2, seed=2).model
    before = state(model)
    with restore(model, source, ["attn"]):
        middle = state(model)
        with restore(model, third, ["attn_qk", "values"]):
            with restore(model, source, ["attn_qk"]):
                assert torch.equal(
                    model.gpt_neox.layers[0].attention.query_key_value.weight,
                    source.gpt_neox.layers[0].attention.query_key_value.weight,
                )
        assert same(state(model), middle)
    assert same(state(model), before)


@torch.no_grad()
def test_tied_embeddings_are_restored_together():
    model, source = pair("llama", tie_word_embeddings=True)
    for group in ("embed", "head"):
        with restore(model, source, [group]):
            for weight in (model.lm_head.weight, model.model.embed_tokens.weight):
                assert weight.data_ptr() == source.lm_head.weight.data_ptr()
    untied = tiny_random("llama", layers=2).model
    for group in ("embed", "head", "all"):
        with pytest.raises(IncompatiblePair, match="tied"), restore(model, untied, [group]):
            pass
    with restore(model, untied, ["values"]):
        pass


@torch.no_grad()
def test_another_dtype_is_converted():
    model, source = pair("llama")
    weight = source.model.layers[0].mlp.down_proj.weight
    source.to(torch.bfloat16)
    with restore(model, source, ["values"]):
        held = model.model.layers[0].mlp.down_proj.weight
        assert held.dtype == torch.float32
        assert torch.equal(held, weight.float())
        model(IDS)


def test_training_flags_and_identity_of_parameters_stay():
    model, source = pair("llama")
    model.model.layers[0].requires_grad_(False)
    parameters = dict(model.named_parameters())
    with restore(model, source, ["all"]):
        assert all(p is parameters[name] for name, p in model.named_parameters())
        assert not model.model.layers[0].mlp.down_proj.weight.requires_grad
        model(IDS).logits.sum().backward()
    assert model.lm_head.weight.grad is not None
    assert source.lm_head.weight.grad is None


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (("gpt2", {}), "model_type.*llama and gpt2"),
        (("llama", {"layers": 3}), "n_layers: 2 and 3"),
        (("llama", {"width": 48}), "width: 32 and 48"),
        (("llama", {"intermediate_size": 80}), r"shape of .*\[32, 64\] and \[32, 80\]"),
        (("llama", {"mlp_bias": True}), "parameter .*down_proj.bias: False and True"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_anything_is_changed(other, field):
    model_type, more = other
    model = tiny_random("llama", layers=2).model
    source = tiny_random(model_type, **({"layers": 2} | more)).model
    before = state(model)
    with (
        pytest.raises(IncompatiblePair, match=f"models differ in {field}"),
        restore(model, source, ["values"]),
    ):
        pass
    assert same(state(model), before)


def test_groups_and_layers_are_checked():
    model, source = pair("llama")
    with pytest.raises(InvalidSetting, match="down"), restore(model, source, ["down"]):
        pass
    with pytest.raises(InvalidSetting, match="layers 0 to 1"), restore(model, source, ["mlp"], [2]):
        pass
    model.model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(
        torch.zeros(32, 64, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(PatchMismatch, match="quantised"), restore(model, source, ["values"]):
        pass
