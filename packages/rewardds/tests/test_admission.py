"""Every model that must not be trained is refused before a record is seen."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds.admission import admit
from rewardds.errors import InadmissibleModel


def plain(kind="llama", **settings):
    return tiny_random(kind, layers=1, width=16, **settings).model


def adapted(kind="llama", **settings):
    model = plain(kind, **settings)
    return prepare_lora(model, lora_config(model, r=2), checkpointing=False)


def with_norm():
    model = adapted()
    model.extra = nn.BatchNorm1d(4).requires_grad_(False)  # frozen: it averages all the same
    return model


def with_checkpoints():
    model = adapted()
    model.activation_checkpointing_enable()
    return model


def with_half():
    return adapted().bfloat16()


def with_balanced_experts():
    model = adapted()
    model.config = SimpleNamespace(output_router_logits=True)
    return model


def with_layer(layer):
    model = adapted()
    model.lora_extra = layer
    return model


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (with_norm, r"extra.*GroupNorm"),
        (with_checkpoints, "checkpointing"),
        (with_half, r"lora_A.*bfloat16.*float32"),
        (with_balanced_experts, "output_router_logits = False"),
        (lambda: with_layer(nn.LSTM(2, 2)), r"lora_extra \(LSTM\)"),
        (lambda: with_layer(nn.MultiheadAttention(2, 1)), r"lora_extra \(MultiheadAttention\)"),
        (lambda: with_layer(nn.InstanceNorm1d(2, affine=True, track_running_stats=True)),
         r"lora_extra \(InstanceNorm1d\).*buffers"),
        (plain, r"embed_tokens.* more would be trained.*full=True"),
        (lambda: adapted().requires_grad_(False), "no parameter"),
    ],
)  # fmt: skip
def test_refused_and_left_alone(made, reason):
    model = made()
    before = [(p.detach().clone(), p.requires_grad) for p in model.parameters()]
    with pytest.raises(InadmissibleModel, match=reason):
        admit(model)
    for parameter, (value, trainable) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == trainable


def test_tied_weights_are_refused_only_while_they_are_trained():
    model = plain("gpt2")
    with pytest.raises(InadmissibleModel, match=r"wte\.weight = .*lm_head\.weight"):
        admit(model, full=True)
    model.transformer.wte.weight.requires_grad_(False)
    admit(model, full=True)
    admit(plain("gpt2", tie_word_embeddings=False), full=True)


def test_all_reasons_are_told_at_once():
    model = with_norm()
    model.activation_checkpointing_enable()
    with pytest.raises(InadmissibleModel, match=r"GroupNorm.*; .*checkpointing"):
        admit(model)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_adapters_pass(kind):
    admit(adapted(kind))
    admit(adapted(kind).train(False))
