"""Clipped sums against ordinary gradients of rows one by one, and the bound that privacy needs."""

import dataclasses
import warnings
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from lipogram.errors import InvalidSetting
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config
from rewardds.clipped_gradients import ClippedGradients
from rewardds.errors import InadmissibleLoss, InadmissibleModel
from rewardds.layer_norms import linear_norms, squared_norms
from rewardds.losses import CausalLMLoss, PairwiseRewardLoss
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, Sequence, collate

JOINED = partial(collate, pad_id=0, bucket=8)
KINDS = ("llama", "qwen2", "gpt2")


def tokens(n, made):
    return torch.randint(250, (n,), generator=made).tolist()


def made_rows(n, seed=0, *, sequences=1):
    made = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        lengths = torch.randint(3, 21, (sequences,), generator=made).tolist()
        each = [Sequence(tokens(t, made), [False] + [True] * (t - 1)) for t in lengths]
        rows.append(Row(str(i), each, [(0, other) for other in range(1, sequences)]))
    return rows


@cache
def language_model(kind, *, full=False, width=16, **settings):
    model = tiny_random(kind, layers=2, width=width, **settings).model
    if kind == "gpt2":
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if not full:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_peft_model(model, lora_config(model, r=3))
        made = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, 0, 0.3, generator=made)
    return model.train()


@cache
def reward_model(kind):
    return RewardModel(language_model.__wrapped__(kind)).train()


def answers_alone(model, row):
    """Mean −log p of each sequence, which runs by itself and unpadded, then over sequences."""
    losses = []
    for sequence in row.sequences:
        ids = torch.tensor([sequence.ids])
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        kept = torch.tensor(sequence.scored)[1:]
        losses.append(-logps.gather(1, ids[0, 1:, None])[kept].mean())
    return torch.stack(losses).mean()


def pairs_alone(model, row):
    """−log σ of the difference of two rewards, each sequence by itself and unpadded."""
    rewards = [model(input_ids=torch.tensor([each.ids]))[0, -1] for each in row.sequences]
    losses = [torch.log1p(torch.exp(rewards[b] - rewards[a])) for a, b in row.pairs]
    return torch.stack(losses).mean()


def one_by_one(model, alone, rows, clip):
    """Σ g·min(1, C/‖g‖) in float64, and the norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters]
    norms = []
    for row in rows:
        found = torch.autograd.grad(alone(model, row), parameters, materialize_grads=True)
        found = [each.double() for each in found]
        norms.append(float(flat(found).norm()))
        for each, part in zip(total, found, strict=True):
            each += part * min(1.0, clip / norms[-1])
    return flat(total), norms


def flat(tensors):
    return torch.cat([each.double().flatten() for each in tensors])


def clipped(model, loss, rows, clip, mode, *, cuts=(), collate=JOINED, **settings):
    gradients = ClippedGradients(model, loss, clip, mode, collate, **settings)
    try:
        for start, stop in pairwise([0, *cuts, len(rows)]):
            tally = gradients.add(rows[start:stop])
        return flat(gradients.sums), tally
    finally:
        gradients.close()


def middle_norm(model, alone, rows):
    return sorted(one_by_one(model, alone, rows, 1.0)[1])[len(rows) // 2]


def apart(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_language_models_as_one_row_at_a_time(kind, full):
    model = language_model(kind, full=full, tie_word_embeddings=False)
    rows = [*made_rows(3), *made_rows(2, 1, sequences=2)]
    clip = middle_norm(model, answers_alone, rows)
    expected, norms = one_by_one(model, answers_alone, rows, clip)
    for mode in ("hooks", "ghost"):
        found, tally = clipped(model, CausalLMLoss(), rows, clip, mode)
        assert apart(found, expected) < 1e-5
        assert (tally.records, tally.dropped) == (5, 0)
        assert tally.clipped == sum(norm >= clip for norm in norms)  # the middle one's at the bound
        assert tally.loss == pytest.approx(sum(answers_alone(model, row).item() for row in rows))
        accumulated, _ = clipped(model, CausalLMLoss(), rows, clip, mode, cuts=(1, 4))
        assert apart(accumulated, expected) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_packed_pairs_as_sequences_that_run_alone(kind):
    model = reward_model(kind)
    rows = [*made_rows(2, sequences=4), *made_rows(2, 1, sequences=2)]
    clip = middle_norm(model, pairs_alone, rows)
    expected, _ = one_by_one(model, pairs_alone, rows, clip)
    for mode in ("hooks", "ghost"):
        found, _ = clipped(model, PairwiseRewardLoss(), rows, clip, mode, cuts=(2,))
        assert apart(found, expected) < 1e-5


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_frozen_embeddings_may_be_tied(mode):
    model = language_model.__wrapped__("gpt2", full=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("wte" not in name and "wpe" not in name)
    rows = made_rows(3)
    expected, _ = one_by_one(model, answers_alone, rows, 2.0)
    assert apart(clipped(model, CausalLMLoss(), rows, 2.0, mode)[0], expected) < 1e-5


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_padding_on_the_left_changes_nothing(mode):
    def moved(rows):
        batch = JOINED(rows)
        spare = (batch.block == -1).sum(1, keepdim=True)
        t = batch.block.shape[1]
        source = (torch.arange(t)[None] - spare) % t
        parts = {
            field.name: getattr(batch, field.name).gather(1, source)
            for field in dataclasses.fields(batch)
            if getattr(batch, field.name).shape == batch.block.shape
        }
        return dataclasses.replace(batch, **parts, last=batch.last + spare)

    rows = made_rows(4, sequences=2)
    for model, loss in (
        (language_model("llama"), CausalLMLoss()),
        (reward_model("llama"), PairwiseRewardLoss()),
    ):
        right, _ = clipped(model, loss, rows, 1.0, mode)
        left, _ = clipped(model, loss, rows, 1.0, mode, collate=moved)
        assert apart(left, right) < 1e-5


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_sequence_classifier_with_its_head_beside_the_adapter(mode):
    config = tiny_random("qwen2", layers=2, width=16).model.config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        adapter = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")
        model = get_peft_model(model, adapter).train()

    def score(model, batch):
        mask = (batch.block >= 0).long()
        logits = model(batch.input_ids, attention_mask=mask, position_ids=batch.position_ids).logits
        return nn.functional.softplus(-logits[:, 0])

    def alone(model, row):
        ids = torch.tensor([row.sequences[0].ids])
        return nn.functional.softplus(-model(ids).logits[0, 0])

    rows, padded = made_rows(4), partial(collate, pad_id=config.pad_token_id, bucket=8)
    clip = middle_norm(model, alone, rows)
    expected, _ = one_by_one(model, alone, rows, clip)
    assert apart(clipped(model, score, rows, clip, mode, collate=padded)[0], expected) < 1e-5
    assert any("modules_to_save" in name for name, p in model.named_parameters() if p.requires_grad)


def test_leaving_a_record_out_moves_the_sum_by_at_most_the_clipping_norm():
    cases = [
        (language_model("llama"), CausalLMLoss(), {}),
        (language_model("gpt2", full=True, tie_word_embeddings=False), CausalLMLoss(), {}),
        (reward_model("qwen2"), PairwiseRewardLoss(), {"sequences": 6}),  # five pairs
    ]
    near = 0
    for kind, (model, loss, shape) in enumerate(cases):
        for number, mode in enumerate(("hooks", "ghost")):
            gradients = ClippedGradients(model, loss, 1.0, mode, JOINED)
            for case in range(2 * kind + number, 50, 6):
                rows, clip = made_rows(3, case, **shape), 10 ** (case / 50 * 4 - 3)
                gradients.clip = clip
                sums = []
                for each in (rows, rows[: case % 3] + rows[case % 3 + 1 :]):
                    gradients.reset()
                    gradients.add(each)
                    sums.append(flat(gradients.sums))
                moved = float((sums[0] - sums[1]).norm())
                assert moved <= clip * (1 + 1e-5), case
                near += moved > 0.99 * clip
            gradients.close()
    assert near > 20  # the bound is met, not merely far away


def test_the_loss_of_transformers_fails_the_neighbour_test():
    """Its average over the tokens of a batch lets one record change the weight of all others."""
    model = language_model("llama")
    made = torch.Generator().manual_seed(0)
    short = Sequence(tokens(5, made), [True] * 5)
    long = Row("long", [Sequence(tokens(60, made), [True] * 60)])
    rows = [Row(str(i), [short]) for i in range(15)] + [long]

    def summed(rows, clip=None):
        hooks = GradSampleHooks(model, loss_reduction="mean")  # Opacus as it comes
        batch = JOINED(rows)
        mask = (batch.block >= 0).long()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook", UserWarning)
            model(batch.input_ids, attention_mask=mask, labels=batch.labels).loss.backward()
        samples = torch.cat(
            [p.grad_sample.flatten(1) for p in model.parameters() if p.requires_grad], 1
        )
        norms = samples.norm(dim=1)
        hooks.cleanup()
        model.zero_grad()
        clip = clip or float(norms.max())
        return (samples * (clip / norms).clamp(max=1)[:, None]).sum(0), clip

    whole, clip = summed(rows)
    left, _ = summed(rows[:-1], clip)
    assert (whole - left).norm() > 1.05 * clip
    ours = [clipped(model, CausalLMLoss(), each, clip, "hooks")[0] for each in (rows, rows[:-1])]
    assert (ours[0] - ours[1]).norm() <= clip * (1 + 1e-5)
    with pytest.raises(InadmissibleLoss, match="one value a row"):
        clipped(model, lambda model, batch: model(batch.input_ids, labels=batch.labels).loss,
                rows, 1.0, "hooks")  # fmt: skip


def without_loss(model, batch):
    """NaN for rows that begin with token 255."""
    bad = batch.input_ids[:, 0] == 255
    return CausalLMLoss()(model, batch) * torch.where(bad, torch.nan, 1.0)


def without_gradient(model, batch):
    """The same rows have a loss of their own, and an infinite slope."""
    losses = CausalLMLoss()(model, batch)
    bad = batch.input_ids[:, 0] == 255
    steep = torch.where(bad, losses - losses.detach(), torch.ones_like(losses)).sqrt()
    return losses + torch.where(bad, steep, torch.zeros_like(steep))


@pytest.mark.parametrize("loss", [without_loss, without_gradient])
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_record_that_is_not_finite_adds_zero_and_is_counted(mode, loss):
    model = language_model("llama")
    rows = made_rows(4)
    bad = Row("bad", [Sequence([255, 1, 2, 3], [True] * 4)])
    expected, _ = clipped(model, loss, rows, 1.0, mode)
    found, tally = clipped(model, loss, [*rows[:2], bad, *rows[2:]], 1.0, mode)
    assert (tally.records, tally.dropped) == (5, 1)
    assert apart(found, expected) < 1e-5
    assert not clipped(model, loss, [bad], 1.0, mode)[0].any()


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_rows_without_scored_tokens_add_nothing_and_stay(mode):
    model = language_model("llama")
    rows = made_rows(2)
    silent = Row("silent", [Sequence([1, 2, 3], [False] * 3)])
    found, tally = clipped(model, CausalLMLoss(), [silent, *rows], 1.0, mode)
    assert apart(found, clipped(model, CausalLMLoss(), rows, 1.0, mode)[0]) < 1e-5
    assert (tally.records, tally.dropped) == (3, 0)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_closed_sum_leaves_the_model_as_it_was(mode):
    model = language_model("gpt2", full=True, tie_word_embeddings=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [
        len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    ]
    clipped(model, CausalLMLoss(), made_rows(2), 1.0, mode)
    assert hooks == [
        len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    assert not any("activations" in vars(module) for module in model.modules())
    clipped(model, CausalLMLoss(), made_rows(2), 1.0, mode)  # and can be hooked again


def test_a_failed_pass_does_not_reach_the_next():
    model, rows = language_model("llama"), made_rows(3)

    def failing(model, batch):
        CausalLMLoss()(model, batch)
        raise KeyError("loss")

    gradients = ClippedGradients(model, failing, 1.0, "ghost", JOINED)
    with pytest.raises(KeyError):
        gradients.add(rows)
    assert not gradients._hooks.sources  # which hold the whole graph
    gradients.loss = CausalLMLoss()
    gradients.add(rows)
    assert not gradients._hooks.sources
    gradients.close()
    assert apart(flat(gradients.sums), clipped(model, CausalLMLoss(), rows, 1.0, "ghost")[0]) == 0


def test_autocast_rounds_gradients_and_still_bounds_them():
    model, rows = language_model("llama"), made_rows(6)
    exact, _ = clipped(model, CausalLMLoss(), rows, 1.0, "hooks")
    rounded, _ = clipped(model, CausalLMLoss(), rows, 1.0, "hooks", autocast=True)
    assert 1e-5 < apart(rounded, exact) < 0.6
    for row in rows:
        one, tally = clipped(model, CausalLMLoss(), [row], 1.0, "hooks", autocast=True)
        assert tally.clipped == 1
        assert 1 - 1e-5 <= float(one.norm()) <= 1 + 1e-6
    with pytest.raises(InvalidSetting, match="autocast"):
        clipped(model, CausalLMLoss(), rows, 1.0, "ghost", autocast=True)


def test_what_would_round_norms_is_refused():
    model = language_model.__wrapped__("llama")
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(InvalidSetting, match=r"'high'.*highest"):
            ClippedGradients(model, CausalLMLoss(), 1.0, "hooks", JOINED)
    finally:
        torch.set_float32_matmul_precision("highest")
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    with pytest.raises(InadmissibleModel, match="bfloat16"):
        ClippedGradients(model, CausalLMLoss(), 1.0, "ghost", JOINED)
    found, _ = clipped(model, CausalLMLoss(), made_rows(1), 1.0, "hooks")
    assert 1 - 1e-5 <= float(found.norm()) <= 1 + 1e-6


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1"])
def test_clipping_norms_that_are_none(bad):
    with pytest.raises(InvalidSetting, match="clip is"):
        ClippedGradients(language_model("llama"), CausalLMLoss(), bad, "hooks", JOINED)


def test_a_frozen_model_is_told():
    model = language_model.__wrapped__("llama")
    model.eval()
    with pytest.raises(InadmissibleModel, match="training mode"):
        clipped(model, CausalLMLoss(), made_rows(2), 1.0, "hooks")


def test_norms_of_many_numbers_keep_their_digits():
    made = torch.Generator().manual_seed(0)
    values = torch.randn(2, 500_000, generator=made) * torch.rand(2, 500_000, generator=made) ** 4
    exact = values.double().square().sum(1)
    assert float((squared_norms(values).double() / exact - 1).abs().max()) < 3e-7


@pytest.mark.parametrize("width", [6, 64])  # o·d below and above t²: both ways
def test_norms_of_linear_layers_are_not_below_the_truth(width):
    made = torch.Generator().manual_seed(width)
    layer = nn.Linear(width, width)
    inputs = torch.randn(5, 20, width, generator=made)
    outputs = torch.randn(5, 20, width, generator=made)
    outputs[0] = (-1.0) ** torch.arange(20)[:, None]  # positions nearly cancel
    inputs[0] = 1 + 0.1 * inputs[0]
    found = linear_norms(layer, [inputs], outputs)
    exact = (outputs.double().mT @ inputs.double()).flatten(1).norm(dim=1)
    short = 1 - found[layer.weight].double() / exact
    assert float(short.max()) < 5e-7
    assert float(short.min()) > -2e-4
    assert float(short[1:].abs().max()) < 5e-6
    bias = outputs.double().sum(1).norm(dim=1)
    torch.testing.assert_close(found[layer.bias].double()[1:], bias[1:], rtol=1e-5, atol=0)
