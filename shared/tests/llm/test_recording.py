import weakref

import pytest
import torch

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import SITES, describe
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.tiny import TINY_TYPES, tiny_random

IDS = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0


def n_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_what_a_block_adds_is_its_attention_and_its_mlp(model_type):
    model = tiny_random(model_type, layers=2).model
    architecture = describe(model)
    with torch.no_grad(), record(model, SITES) as recording:
        logits = model(IDS, attention_mask=MASK).logits
    assert torch.equal(model(IDS, attention_mask=MASK).logits, logits)
    widths = {"mlp_act": architecture.mlp_width, "head_in": 4 * architecture.head_dim}
    for layer in range(2):
        parts = [recording[site, layer] for site in ("resid_in", "attn_add", "mlp_add")]
        torch.testing.assert_close(sum(parts), recording["resid_out", layer], atol=1e-4, rtol=1e-5)
        for site in SITES:
            assert recording[site, layer].shape == (2, 7, widths.get(site, 32))
    assert torch.equal(recording["resid_out", 0], recording["resid_in", 1])
    with torch.no_grad():
        down = architecture.module("mlp_out", 1)[0](recording["mlp_act", 1])
        out = architecture.module("attn_out", 1)[0](recording["head_in", 1])
    torch.testing.assert_close(down, recording["mlp_out", 1])
    torch.testing.assert_close(out, recording["attn_out", 1])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox"])
def test_the_residual_stream_is_what_transformers_reports(model_type):
    model = tiny_random(model_type).model
    with torch.no_grad(), record(model, ["resid_in"]) as recording:
        theirs = model(IDS, output_hidden_states=True).hidden_states
    for layer in range(3):
        assert torch.equal(recording["resid_in", layer], theirs[layer])


def test_sites_can_be_named_in_three_ways():
    model = tiny_random("llama").model
    sites = ["mlp_act", ("attn_out", 1), ("head_in", range(1, 3)), ("attn_out", 1)]
    with record(model, sites) as recording:
        assert recording == {}
        model(IDS)
    assert set(recording) == {
        *[("mlp_act", layer) for layer in range(3)],
        ("attn_out", 1),
        ("head_in", 1),
        ("head_in", 2),
    }
    with pytest.raises(PatchMismatch, match=r"attn_out', 0.*attn_out 1, head_in 1"):
        recording["attn_out", 0]
    with pytest.raises(InvalidSetting, match=r"\['mlp_act'\]"), record(model, "mlp_act"):
        pass


def test_positions_dtype_and_graph():
    model = tiny_random("llama").model
    with record(model, ["mlp_act"], detach=False) as whole:
        model(IDS)
    assert whole["mlp_act", 0].requires_grad
    chosen = MASK.bool()
    with record(model, ["mlp_act"], positions=chosen, dtype=torch.float16, device="cpu") as some:
        model(IDS)
    value = some["mlp_act", 2]
    assert (value.shape, value.dtype, value.requires_grad) == ((11, 64), torch.float16, False)
    assert torch.equal(value, whole["mlp_act", 2][chosen].half())
    with pytest.raises(InvalidSetting, match=r"bool.*int64"), record(model, [], positions=MASK):
        pass
    with (
        pytest.raises(PatchMismatch, match=r"mlp_act, layer 0, have shape \[2, 5\].*\[2, 7\]"),
        record(model, ["mlp_act"], positions=chosen[:, 2:]),
    ):
        model(IDS)
    assert n_hooks(model) == 0


def test_a_recording_sees_the_patches_that_were_entered_before():
    model = tiny_random("llama").model
    ones = torch.ones(32)
    with (
        record(model, [("attn_out", 0)]) as before,
        patch(model, {("attn_out", 0): ones}),
        record(model, [("attn_out", 0)]) as after,
    ):
        model(IDS)
    assert (after["attn_out", 0] == 1).all()
    assert not (before["attn_out", 0] == 1).any()


def test_no_hook_is_left_and_none_of_another_is_taken():
    model = tiny_random("opt").model
    model.model.decoder.layers[0].register_forward_hook(lambda *_: None)
    with record(model, SITES):
        assert n_hooks(model) > 30
        with pytest.raises(InvalidSetting), record(model, ["mlp_act", ("resid_in", 9)]):
            pass
    assert n_hooks(model) == 1
    with pytest.raises(ZeroDivisionError), record(model, SITES):
        raise ZeroDivisionError
    assert n_hooks(model) == 1


def test_nothing_keeps_an_activation_but_the_recording():
    import gc

    model = tiny_random("llama").model
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad(), record(model, ["resid_in"]) as recording:
            model(IDS)
        with torch.no_grad(), patch(model, recording):
            model(IDS)
        held = [weakref.ref(value) for value in recording.values()]
        del recording
        assert all(reference() is None for reference in held)
    finally:
        gc.enable()
