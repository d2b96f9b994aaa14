"""Models and losses in which records act on each other are found by trial."""

from functools import partial

import pytest
import torch
from torch import nn

from lipogram.llm import tiny_random
from lipogram.llm.objectives import token_logps
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds.clipped_gradients import ClippedGradients
from rewardds.errors import InadmissibleLoss, InadmissibleModel
from rewardds.losses import CausalLMLoss, PairwiseRewardLoss
from rewardds.record_independence import check_independence
from rewardds.reward_model import RewardModel
from rewardds.rows import collate


def adapted(kind="llama", dropout=0.0):
    model = tiny_random(kind, layers=1, width=16).model
    return prepare_lora(model, lora_config(model, r=2, dropout=dropout), checkpointing=False)


def tried(model, loss, mode="hooks", *, paired=False, **settings):
    model.train()
    joined = partial(collate, pad_id=0, bucket=8)
    gradients = ClippedGradients(model, loss, 1.0, mode, joined, **settings)
    try:
        check_independence(gradients, paired=paired)
    finally:
        gradients.close()
    assert not any(each.any() for each in gradients.sums)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_what_is_independent_passes_also_with_dropout(mode):
    model, reward = adapted("gpt2", dropout=0.5), RewardModel(adapted("qwen2"))
    before = torch.get_rng_state()
    training = [module.training for module in model.train().modules()]
    tried(model, CausalLMLoss(), mode)
    tried(reward, PairwiseRewardLoss(), mode, paired=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == training


def test_rounded_gradients_pass():
    tried(adapted(), CausalLMLoss(), autocast=True)


def averaged(model, batch):
    """What `labels=` divides by, as a vector: the scored tokens of all rows."""
    logps = token_logps(model(**batch.inputs(torch.float32)).logits, batch.labels)
    rows = (batch.labels[:, 1:] >= 0).nonzero()[:, 0]
    sums = torch.zeros(len(batch)).index_add(0, rows, -logps)
    return sums * len(batch) / len(rows)


def contrasted(model, batch):
    """Rows as each other's negatives."""
    return CausalLMLoss()(model, batch).log_softmax(0)


@pytest.mark.parametrize("loss", [averaged, contrasted])
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_losses_that_couple_rows(loss, mode):
    with pytest.raises(InadmissibleModel, match="act on another's gradient"):
        tried(adapted(), loss, mode)


def test_pairs_that_see_other_rows():
    def coupled(model, batch):
        return PairwiseRewardLoss()(model, batch) * len(batch)

    for mode in ("hooks", "ghost"):
        with pytest.raises(InadmissibleModel, match="act on another's gradient"):
            tried(RewardModel(adapted()), coupled, mode, paired=True)


def test_a_loss_that_is_a_mean():
    with pytest.raises(InadmissibleLoss, match=r"3 rows is \(\)"):
        tried(adapted(), lambda model, batch: CausalLMLoss()(model, batch).mean())


class Centred(nn.Module):
    """Takes away the mean over rows: no layer that a list would name."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def test_a_layer_that_couples_rows():
    model = adapted()
    model.base_model.model.model.norm.register_forward_hook(lambda m, x, y: Centred()(y))
    with pytest.raises(InadmissibleModel, match="act on another's gradient"):
        tried(model, CausalLMLoss())


def test_a_head_over_tokens_of_all_rows():
    model = RewardModel(adapted())

    def flat(model, batch):
        hidden = model.backbone(**batch.inputs(torch.float32)).last_hidden_state
        kept = hidden[batch.block >= 0]  # (tokens of all rows, width)
        rewards = torch.zeros(batch.block.shape).masked_scatter(
            batch.block >= 0, model.head(kept)[:, 0]
        )
        return PairwiseRewardLoss().of(rewards, batch)

    for mode in ("hooks", "ghost"):
        with pytest.raises(InadmissibleModel, match=r"head\.weight.*first axis"):
            tried(model, flat, mode, paired=True)


def test_weights_that_no_layer_calls():
    model = adapted()
    model.lora_idle = nn.Linear(2, 2)
    with pytest.raises(InadmissibleModel, match="lora_idle"):
        tried(model, CausalLMLoss())


def test_a_model_that_is_not_finite():
    model = adapted()
    model.get_input_embeddings().weight.data[:] = torch.nan
    for mode in ("hooks", "ghost"):
        with pytest.raises(InadmissibleModel, match="NaN or infinite"):
            tried(model, CausalLMLoss(), mode)
