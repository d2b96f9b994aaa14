import pytest
import torch

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.steering import Steering
from lipogram.llm.tiny import PAD, TINY_TYPES, tiny_random

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 256, (2, 7), generator=GENERATOR)
MASK = torch.ones_like(IDS)
MASK[0, :3] = 0
VECTOR = 3 * torch.randn(32, generator=GENERATOR)
HEAD = 3 * torch.randn(2, 8, generator=GENERATOR)
WORDS = ("last", "prompt", "generated", "all")


def generated(model, ids=IDS, mask=MASK, **more):
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False} | more
    out = model.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=PAD,
        **settings,
    )
    return out.sequences, torch.stack(out.logits)


@pytest.mark.parametrize("positions", WORDS)
@pytest.mark.parametrize("model_type", TINY_TYPES)
@torch.no_grad()
def test_generating_with_a_cache_is_generating_without(model_type, positions):
    model = tiny_random(model_type, layers=2).model
    vectors = {("resid_out", 0): VECTOR, ("head_in", 1, 1): HEAD, ("head_in", 1, 3): HEAD[0]}
    plain = generated(model)[1]
    with Steering(model, vectors, positions=positions):
        ids, cached = generated(model)
        other_ids, uncached = generated(model, use_cache=False)
    assert torch.equal(ids, other_ids)
    assert (cached - uncached).abs().max() <= 1e-4
    assert (cached - plain).abs().max() > 0.1
    assert torch.equal(cached[0], plain[0]) == (positions == "generated")
    assert "generate" not in vars(model)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("positions", WORDS)
@torch.no_grad()
def test_generating_is_teacher_forcing_at_the_same_positions(positions):
    model = tiny_random("gpt2").model
    with Steering(model, {("resid_out", 1): VECTOR}, positions=positions, scale=0.5):
        ids, logits = generated(model)
    mask = torch.cat([MASK, torch.ones(2, 4, dtype=torch.int64)], 1)
    column = torch.arange(11)
    chosen = {
        "last": column == 6,
        "prompt": column < 7,
        "generated": column >= 7,
        "all": column >= 0,
    }[positions] & mask.bool()
    value = torch.where(chosen.unsqueeze(-1), 0.5 * VECTOR, 0.0)
    with patch(model, {("resid_out", 1): value}, mode="add"):
        places = (mask.cumsum(1) - 1).clamp(min=0)
        forced = model(ids[:, :11], attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(logits.transpose(0, 1), forced[:, 6:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_row_is_steered_alike_alone_and_padded():
    model = tiny_random("llama").model
    for positions in WORDS:
        with Steering(model, {("mlp_out", 1): VECTOR}, positions=positions):
            ids, logits = generated(model)
            alone, own = generated(model, IDS[:1, 3:], MASK[:1, 3:])
        assert torch.equal(ids[:1, 7:], alone[:, 4:])
        torch.testing.assert_close(logits[:, :1], own, atol=1e-4, rtol=0)


@torch.no_grad()
def test_each_row_has_its_vector_also_for_several_samples():
    model = tiny_random("llama").model
    vectors = torch.stack([VECTOR, -VECTOR])
    with Steering(model, {("resid_out", 0): vectors}, positions="all"):
        both = generated(model)[1]
        beams = generated(model, num_return_sequences=2, num_beams=2)[0]
        seeds = torch.manual_seed(0)
        sampled = generated(model, num_return_sequences=3, do_sample=True)[1]
    assert (len(beams), seeds.initial_seed()) == (4, 0)
    for row in (0, 1):
        with Steering(model, {("resid_out", 0): vectors[row]}, positions="all"):
            one = generated(model)[1]
        torch.testing.assert_close(both[:, row], one[:, row], atol=1e-4, rtol=0)
        for sample in range(3 * row, 3 * row + 3):
            torch.testing.assert_close(sampled[0, sample], one[0, row], atol=1e-4, rtol=0)
    with (
        pytest.raises(PatchMismatch, match=r"for 3 rows.*has 2"),
        Steering(model, {("resid_out", 0): VECTOR.expand(3, -1)}),
    ):
        model(IDS)


@torch.no_grad()
def test_a_head_is_a_part_of_what_the_projection_sees():
    model = tiny_random("llama").model
    with record(model, [("head_in", 1)]) as before:
        model(IDS)
    vectors = {("head_in", 1, 2): HEAD, ("head_in", 1, 0): HEAD[1]}
    with Steering(model, vectors, positions="all", scale=2.0), record(model, ["head_in"]) as after:
        model(IDS)
    change = (after["head_in", 1] - before["head_in", 1]).unflatten(-1, (4, 8))
    torch.testing.assert_close(change[:, :, 2], 2 * HEAD[:, None].expand(2, 7, 8))
    torch.testing.assert_close(change[:, :, 0], 2 * HEAD[1].expand(2, 7, 8))
    assert not change[:, :, [1, 3]].any()


@torch.no_grad()
def test_forward_passes_of_ones_own():
    model = tiny_random("gpt2").model

    def chosen(**inputs):
        with record(model, [("resid_out", 1)]) as seen:
            out = model(**inputs)
        return (seen["resid_out", 1].abs() > 500).all(-1).int().tolist(), out.past_key_values

    big = torch.full((32,), 1000.0)
    right = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with Steering(model, {("resid_out", 1): big}) as steering:
        rows, _ = chosen(input_ids=IDS[:, :4], attention_mask=right)
        assert rows == [[0, 0, 0, 1], [0, 1, 0, 0]]
        rows, cache = chosen(input_ids=IDS[:, :3])
        assert rows == [[0, 0, 1]] * 2
        steering.positions = lambda position, n_prompt: position >= n_prompt
        rows, _ = chosen(input_ids=IDS[:, 3:5], past_key_values=cache)
        assert rows == [[1, 1]] * 2
        rows, cache = chosen(inputs_embeds=model.transformer.wte(IDS[:, :3]))
        assert rows == [[0, 0, 0]] * 2
    with Steering(model, {("resid_out", 1): big}, positions=lambda p, n: p % 2 == 0):
        rows, _ = chosen(input_ids=IDS, attention_mask=MASK)
        assert rows == [[0, 0, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1]]
    with Steering(model, {("resid_out", 1): big}, positions="prompt"):
        rows, _ = chosen(input_ids=IDS, attention_mask=MASK)
        assert rows == MASK.tolist()
    with Steering(model, {("resid_out", 1): big}, positions="prompt"):
        rows, _ = chosen(input_ids=IDS[:, 3:5], past_key_values=cache)
        assert rows == [[0, 0]] * 2


def test_gradients_reach_the_vectors():
    model = tiny_random("llama").model
    vector, head = VECTOR.clone().requires_grad_(), HEAD.clone().requires_grad_()
    with Steering(model, {("resid_out", 0): vector, ("head_in", 1, 3): head}):
        for _ in range(2):  # a graph each
            model(IDS, attention_mask=MASK).logits[:, -1].logsumexp(-1).sum().backward()
    assert vector.grad.abs().sum() > 0
    assert (head.grad.abs().sum(1) > 0).all()


@torch.no_grad()
def test_inside_an_adapter():
    peft = pytest.importorskip("peft", reason="pip install peft")
    config = peft.LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_random("llama").model, config).eval()
    plain = generated_by_keyword(model)
    with Steering(model, {("head_in", 1, 0): HEAD}):
        cached = generated_by_keyword(model)
        uncached = generated_by_keyword(model, use_cache=False)
        direct = model(input_ids=IDS, attention_mask=MASK).logits[:, -1]
    assert (cached - uncached).abs().max() <= 1e-4
    torch.testing.assert_close(cached[0], direct, atol=1e-4, rtol=0)
    assert not torch.allclose(cached, plain, atol=1e-3)


def generated_by_keyword(model, **more):
    out = model.generate(
        input_ids=IDS,
        attention_mask=MASK,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=PAD,
        **more,
    )
    return torch.stack(out.logits)


def test_what_is_asked_for_wrongly_is_named():
    model = tiny_random("llama").model
    with pytest.raises(InvalidSetting, match=r"everywhere.*last, prompt"):
        Steering(model, {}, positions="everywhere")
    for key in [("resid_out", 0, 0), ("head_in", 0, 4), ("head_in", 0, -1)]:
        with pytest.raises(InvalidSetting, match="heads, 0 to 3"):
            Steering(model, {key: VECTOR})
    with pytest.raises(InvalidSetting, match="layers 0 to 2"):
        Steering(model, {("resid_out", 3): VECTOR})
    for key, shape in [
        (("resid_out", 0), r"\[31\]; it must be \[32\]"),
        (("head_in", 0, 0), r"\[31\]; it must be \[8\]"),
        (("mlp_act", 0), r"\[31\]; it must be \[64\]"),
    ]:
        with pytest.raises(PatchMismatch, match=shape):
            Steering(model, {key: torch.zeros(31)})
    with pytest.raises(InvalidSetting, match="all heads and for single ones"):
        Steering(model, {("head_in", 0): VECTOR, ("head_in", 0, 1): HEAD})
    with (
        pytest.raises(PatchMismatch, match=r"shape \[2, 7\].*got \[2, 1, 7, 7\]"),
        Steering(model, {("resid_out", 0): VECTOR}),
    ):
        model(IDS, attention_mask=torch.ones(2, 1, 7, 7))
    steering = Steering(model, {("resid_out", 0): VECTOR})
    for _ in range(2):
        with steering, pytest.raises(InvalidSetting, match="on already"), steering:
            pass
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_failure_while_generating_leaves_nothing():
    model = tiny_random("llama").model

    def fail(position, n_prompt):
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        Steering(model, {("resid_out", 0): VECTOR}, positions=fail),
    ):
        generated(model)
    assert "generate" not in vars(model)
    assert not any(m._forward_pre_hooks for m in model.modules())
