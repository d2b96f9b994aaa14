from functools import partial

import pytest
import torch

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import describe
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.running import run_from
from lipogram.llm.tiny import TINY_TYPES, tiny_random

IDS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :7] = 0
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)
INPUTS = {
    "whole": {"input_ids": IDS},
    "padded": {"input_ids": IDS, "attention_mask": MASK, "position_ids": POSITIONS},
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("model_type", TINY_TYPES)
@torch.no_grad()
def test_starting_later_is_bit_equal(model_type, inputs, cache):
    model = tiny_random(model_type).model
    with record(model, ["resid_in"]) as recording:
        whole = model(**inputs, use_cache=cache).logits
    for layer in range(3):
        with run_from(model, layer, recording["resid_in", layer]):
            logits = model(**inputs, use_cache=cache).logits
            kept = model(**inputs, use_cache=cache, logits_to_keep=3).logits
        assert torch.equal(logits, whole), layer
        assert torch.equal(kept, model(**inputs, use_cache=cache, logits_to_keep=3).logits)
    assert torch.equal(model(**inputs).logits, whole)


@torch.no_grad()
def test_blocks_before_it_are_not_computed_and_nothing_is_left():
    model = tiny_random("llama").model
    architecture = describe(model)
    calls = []
    for layer, block in enumerate(architecture.blocks):
        block.mlp.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
    hidden = torch.randn(2, 24, 32)
    with run_from(model, 2, hidden):
        model(IDS)
    assert calls == [2]
    with pytest.raises(ZeroDivisionError), run_from(model, 2, hidden):
        raise ZeroDivisionError
    model(IDS)
    assert calls == [2, 0, 1, 2]
    for block in architecture.blocks:
        assert "forward" not in vars(block)
        assert not block._forward_pre_hooks


@torch.no_grad()
def test_models_whose_blocks_return_tuples_start_later_too():
    class FirstOfPair(torch.nn.ModuleList):
        def __iter__(self):
            return (partial(first_of_two, block) for block in super().__iter__())

        def __getitem__(self, index):
            if isinstance(index, slice):
                return FirstOfPair(list(self._modules.values())[index])
            return super().__getitem__(index)

    def first_of_two(block, *args, **kwargs):
        hidden, _ = block(*args, **kwargs)
        return hidden

    model = tiny_random("llama").model
    kind = type(model.model.layers[0])
    pair = type("Pair", (kind,), {"forward": lambda *a, **k: (kind.forward(*a, **k), None)})
    for block in model.model.layers:
        block.__class__ = pair
    model.model.layers = FirstOfPair(model.model.layers)
    kinds = []
    model.model.layers[2].register_forward_hook(lambda *call: kinds.append(type(call[2])))
    with record(model, ["resid_in", "resid_out"]) as recording:
        whole = model(IDS).logits
    assert torch.equal(recording["resid_out", 0], recording["resid_in", 1])
    with patch(model, {("resid_out", 2): recording["resid_out", 2]}):
        assert torch.equal(model(IDS).logits, whole)
    for layer in range(3):
        with run_from(model, layer, recording["resid_in", layer]):
            assert torch.equal(model(IDS).logits, whole), layer
    assert set(kinds) == {tuple}


@torch.no_grad()
def test_patches_of_the_first_block_see_what_was_put_in():
    model = tiny_random("llama").model
    hidden = torch.randn(2, 24, 32)
    for layer in (0, 1):
        place = ("resid_in", layer)
        with (
            patch(model, {place: torch.ones(32)}, mode="add"),
            run_from(model, layer, hidden),
            record(model, [place]) as seen,
        ):
            model(IDS)
        assert torch.equal(seen[place], hidden + 1)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_does_not_fit_is_named(layer):
    model = tiny_random("llama").model
    with (
        pytest.raises(PatchMismatch, match=rf"layer {layer}.*\[1, 24, 32\].*\[2, 24, 32\]"),
        run_from(model, layer, torch.zeros(1, 24, 32)),
    ):
        model(IDS)
    with (
        pytest.raises(InvalidSetting, match="layers 0 to 2"),
        run_from(model, 3, torch.zeros(2, 24, 32)),
    ):
        pass


@torch.no_grad()
def test_an_own_forward_of_a_block_comes_back():
    model = tiny_random("llama").model
    block = model.model.layers[0]
    own = block.forward = type(block).forward.__get__(block)
    with run_from(model, 1, torch.zeros(2, 24, 32)):
        model(IDS)
    assert vars(block)["forward"] is own


def test_gradients_flow_into_hidden():
    model = tiny_random("llama").model
    hidden = torch.randn(2, 24, 32, requires_grad=True)
    with run_from(model, 2, hidden):
        model(IDS, use_cache=False).logits.sum().backward()
    assert hidden.grad.abs().sum() > 0
    assert model.model.layers[1].mlp.down_proj.weight.grad is None
