import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import SITES, describe
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.tiny import TINY_TYPES, tiny_random

IDS = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0
LLAMA = tiny_random("llama").model


def n_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("model_type", TINY_TYPES)
@torch.no_grad()
def test_own_values_change_nothing_and_others_arrive(model_type):
    model, other = (tiny_random(model_type, layers=2, seed=seed).model for seed in (0, 1))
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    plain = model(**inputs).logits
    with record(model, SITES) as own:
        model(**inputs)
    with record(other, SITES) as foreign:
        theirs = other(**inputs).logits
    for site in SITES:
        with patch(model, {(site, layer): own[site, layer] for layer in (0, 1)}):
            assert torch.equal(model(**inputs).logits, plain), site
        with patch(model, {(site, 1): foreign[site, 1]}), record(model, [site]) as seen:
            changed = model(**inputs).logits
        assert torch.equal(seen[site, 1], foreign[site, 1])
        assert (changed - plain).abs().max() > 1e-3, site
    head, norm = model.get_output_embeddings(), describe(model).final_norm
    with patch(other, {("resid_out", 1): own["resid_out", 1]}):
        swapped = other(**inputs).logits
    assert not torch.equal(swapped, theirs)
    assert not torch.equal(swapped, plain), (head, norm)
    assert torch.equal(model(**inputs).logits, plain)
    assert n_hooks(model) == n_hooks(other) == 0


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("model_type", ["llama", "opt"])
@torch.no_grad()
def test_positions_leave_the_other_tokens_alone(site, model_type):
    model = tiny_random(model_type, layers=2).model
    chosen = MASK.bool() & (torch.arange(7) % 2 == 0)
    value = torch.full((), 0.5)
    with record(model, [site]) as own:
        model(IDS)
    for mode, expected in [
        ("replace", torch.full_like(own[site, 0], 0.5)),
        ("add", own[site, 0] + 0.5),
        ("scale", own[site, 0] * 0.5),
    ]:
        with (
            patch(model, {(site, 0): value}, positions=chosen, mode=mode),
            record(model, [(site, 0)]) as seen,
        ):
            model(IDS)
        wanted = torch.where(chosen.unsqueeze(-1), expected, own[site, 0])
        torch.testing.assert_close(seen[site, 0], wanted, atol=1e-6, rtol=0)


@given(st.lists(st.sampled_from(["replace", "add", "scale"]), max_size=4))
@torch.no_grad()
def test_nested_patches_compose_in_the_order_they_were_entered(modes):
    from contextlib import ExitStack

    place = ("mlp_act", 1)
    with record(LLAMA, [place]) as own:
        LLAMA(IDS)
    expected = own[place]
    with ExitStack() as stack:
        for i, mode in enumerate(modes):
            value = torch.linspace(-1, 2, 64) + i
            stack.enter_context(patch(LLAMA, {place: value}, mode=mode))
            expected = {
                "replace": value.expand_as(expected),
                "add": expected + value,
                "scale": expected * value,
            }[mode]
        seen = stack.enter_context(record(LLAMA, [place]))
        LLAMA(IDS)
    assert torch.equal(seen[place], expected)
    assert n_hooks(LLAMA) == 0


@torch.no_grad()
def test_rows_recorded_at_positions_go_back_there():
    chosen = MASK.bool()
    plain = LLAMA(IDS).logits
    with record(LLAMA, ["attn_out"], positions=chosen) as rows:
        LLAMA(IDS)
    with patch(LLAMA, rows, positions=chosen):
        assert torch.equal(LLAMA(IDS).logits, plain)
    doubled = {place: 2 * value for place, value in rows.items()}
    with patch(LLAMA, doubled, positions=chosen):
        replaced = LLAMA(IDS).logits
    with patch(
        LLAMA, {place: 2.0 * torch.ones(()) for place in rows}, positions=chosen, mode="scale"
    ):
        torch.testing.assert_close(LLAMA(IDS).logits, LLAMA(IDS).logits)
    with patch(LLAMA, {("attn_out", 0): doubled["attn_out", 0]}, positions=chosen):
        one = LLAMA(IDS).logits
    with patch(LLAMA, {("attn_out", 0): lambda a: 2 * a}, positions=chosen):
        assert torch.equal(LLAMA(IDS).logits, one)
    assert not torch.equal(replaced, plain)


def test_gradients_flow_into_values_and_match_finite_differences():
    vector = torch.zeros(32, requires_grad=True)
    with patch(LLAMA, {("attn_out", 1): vector}, mode="add", positions=MASK.bool()):
        loss = LLAMA(IDS).logits[:, -1].logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(loss, vector)
    step = torch.zeros(32)
    step[3] = 1e-2
    ends = []
    for sign in (1, -1):
        with (
            torch.no_grad(),
            patch(LLAMA, {("attn_out", 1): sign * step}, mode="add", positions=MASK.bool()),
        ):
            ends.append(LLAMA(IDS).logits[:, -1].logsumexp(-1).sum())
    slope = (ends[0] - ends[1]) / 2e-2
    torch.testing.assert_close(gradient[3], slope, atol=2e-3, rtol=2e-2)


def test_activations_are_never_written():
    held = []

    def add(activation):
        held.append((activation, activation.clone()))
        return activation + 1

    for mode in ("replace", "add", "scale"):
        with torch.no_grad(), patch(LLAMA, {("resid_in", 1): add}, mode=mode):
            LLAMA(IDS)
    assert all(torch.equal(now, then) for now, then in held)


@pytest.mark.parametrize(
    ("value", "positions", "mode"),
    [
        (torch.zeros(2, 6, 32), None, "replace"),
        (torch.zeros(1, 7, 32), None, "replace"),
        (torch.zeros(31), None, "add"),
        (torch.zeros(3, 7, 32), None, "scale"),
        (torch.zeros(1, 2, 7, 32), None, "add"),
        (torch.zeros(10, 32), MASK.bool(), "replace"),
    ],
)
def test_a_value_that_does_not_fit_is_named(value, positions, mode):
    shape = str(list(value.shape)).replace("[", r"\[").replace("]", r"\]")
    with (
        pytest.raises(PatchMismatch, match=rf"attn_out, layer 1.*{shape}.*\[2, 7, 32\]"),
        patch(LLAMA, {("attn_out", 1): value}, positions=positions, mode=mode),
    ):
        LLAMA(IDS)
    assert n_hooks(LLAMA) == 0


def test_settings_are_checked_before_anything_is_hooked():
    zero = torch.zeros(())
    with pytest.raises(InvalidSetting, match="multiply"), patch(LLAMA, {}, mode="multiply"):
        pass
    with pytest.raises(InvalidSetting, match="int64"), patch(LLAMA, {}, positions=MASK):
        pass
    with (
        pytest.raises(InvalidSetting, match="layers 0 to 2"),
        patch(LLAMA, {("mlp_act", 0): zero, ("mlp_act", 3): zero}),
    ):
        pass
    assert n_hooks(LLAMA) == 0


def test_modes_of_running():
    with record(LLAMA, ["mlp_act", "resid_out"]) as own:
        plain = LLAMA(IDS).logits.detach()
    with torch.inference_mode(), patch(LLAMA, own):
        assert torch.equal(LLAMA(IDS).logits, plain)
    with torch.inference_mode(), record(LLAMA, ["mlp_act"]) as inference:
        LLAMA(IDS)
    with patch(LLAMA, inference):
        LLAMA(IDS).logits.sum().backward()
    LLAMA.zero_grad()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = LLAMA(IDS).logits
        with patch(LLAMA, own), record(LLAMA, ["mlp_act"]) as seen:
            patched = LLAMA(IDS).logits
    assert torch.equal(seen["mlp_act", 0].float(), own["mlp_act", 0].to(seen["mlp_act", 0].dtype))
    assert patched.dtype == low.dtype
    double = tiny_random("llama").model.double()
    with torch.no_grad(), patch(double, own), record(double, ["mlp_act"]) as seen:
        double(IDS)
    assert seen["mlp_act", 0].dtype == torch.float64


@pytest.mark.parametrize("how", ["function", "in place", "one block"])
def test_a_compiled_model_runs_the_patch(how):
    model = tiny_random("llama", layers=2).model
    plain = model(IDS).logits
    if how == "function":
        compiled = torch.compile(model, backend="eager")
    elif how == "in place":
        compiled = model
        model.compile(backend="eager")
    else:
        compiled = model
        model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IDS).logits, plain, atol=1e-5)
        with patch(compiled, {("mlp_act", 1): torch.zeros(())}), record(compiled, ["mlp_out"]) as r:
            changed = compiled(IDS).logits
    assert not r["mlp_out", 1].any()
    assert not torch.allclose(changed, plain, atol=1e-3)


def test_inside_an_adapter_the_site_is_the_adapted_module():
    peft = pytest.importorskip("peft", reason="pip install peft")
    base = tiny_random("llama").model
    config = peft.LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad(), record(model, ["mlp_act", "mlp_out"]) as seen:
        model(IDS)
        down = base.model.layers[0].mlp.down_proj
        assert torch.equal(seen["mlp_out", 0], down(seen["mlp_act", 0]))
        assert not torch.allclose(seen["mlp_out", 0], down.base_layer(seen["mlp_act", 0]))
