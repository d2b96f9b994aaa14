"""Patched logits against two independent libraries. Connecting to anything fails."""

import copy
import operator
import socket

import pytest
import torch

from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.tiny import tiny_random

INSTALL = "an oracle of its own environment: pip install nnsight==0.8.1 transformer-lens==4.3.0"
IDS = torch.randint(0, 256, (2, 7), generator=torch.Generator().manual_seed(0))

MODULES = {
    ("llama", "resid_in"): ("model.layers.{}", "input"),
    ("llama", "resid_out"): ("model.layers.{}", "output"),
    ("llama", "head_in"): ("model.layers.{}.self_attn.o_proj", "input"),
    ("llama", "attn_out"): ("model.layers.{}.self_attn.o_proj", "output"),
    ("llama", "mlp_in"): ("model.layers.{}.mlp", "input"),
    ("llama", "mlp_act"): ("model.layers.{}.mlp.down_proj", "input"),
    ("llama", "mlp_out"): ("model.layers.{}.mlp.down_proj", "output"),
    ("gpt2", "resid_in"): ("transformer.h.{}", "input"),
    ("gpt2", "resid_out"): ("transformer.h.{}", "output"),
    ("gpt2", "head_in"): ("transformer.h.{}.attn.c_proj", "input"),
    ("gpt2", "attn_out"): ("transformer.h.{}.attn.c_proj", "output"),
    ("gpt2", "mlp_in"): ("transformer.h.{}.mlp", "input"),
    ("gpt2", "mlp_act"): ("transformer.h.{}.mlp.c_proj", "input"),
    ("gpt2", "mlp_out"): ("transformer.h.{}.mlp.c_proj", "output"),
}
HOOKS = {
    "resid_in": "blocks.{}.hook_in",
    "resid_out": "blocks.{}.hook_out",
    "head_in": "blocks.{}.attn.o.hook_in",
    "attn_out": "blocks.{}.attn.o.hook_out",
    "mlp_in": "blocks.{}.mlp.hook_in",
    "mlp_act": "blocks.{}.mlp.out.hook_in",
    "mlp_out": "blocks.{}.mlp.out.hook_out",
}
LAYERS = (0, 2)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("an oracle opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def patched(model_type, site):
    """A model, another one's activations at a site, and the logits with and without them."""
    tiny, source = tiny_random(model_type), tiny_random(model_type, seed=1).model
    places = [(site, layer) for layer in LAYERS]
    with torch.no_grad():
        with record(source, places) as values:
            source(IDS)
        plain = tiny.model(IDS).logits
        with patch(tiny.model, values):
            return tiny, values, tiny.model(IDS).logits, plain


@pytest.mark.parametrize(("model_type", "site"), MODULES)
@torch.no_grad()
def test_nnsight_agrees(model_type, site):
    nnsight = pytest.importorskip("nnsight", reason=INSTALL)
    tiny, values, ours, plain = patched(model_type, site)
    path, side = MODULES[model_type, site]
    wrapped = nnsight.NNsight(tiny.model)
    first, second = (operator.attrgetter(path.format(layer))(wrapped) for layer in LAYERS)
    value, other = (values[site, layer] for layer in LAYERS)
    if side == "input":
        with wrapped.trace(IDS):
            first.input = value
            second.input = other
            theirs = wrapped.lm_head.output.save()
    else:
        with wrapped.trace(IDS):
            first.output = value
            second.output = other
            theirs = wrapped.lm_head.output.save()
    assert (ours - theirs).abs().max() <= 1e-4
    assert (ours - plain).abs().max() > 0.1


@pytest.mark.parametrize("site", HOOKS)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@torch.no_grad()
def test_transformer_lens_agrees(model_type, site, tmp_path):
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason=INSTALL)
    tiny, values, ours, plain = patched(model_type, site)
    tiny.model.config.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    theirs = bridge.TransformerBridge.boot_transformers(  # it rebuilds the model it is given
        str(tmp_path), hf_model=copy.deepcopy(tiny.model), device="cpu"
    )
    hooks = [
        (HOOKS[site].format(layer), lambda activation, hook, layer=layer: values[site, layer])
        for layer in LAYERS
    ]
    assert (ours - theirs.run_with_hooks(IDS, fwd_hooks=hooks)).abs().max() <= 1e-4
    assert (ours - plain).abs().max() > 0.1
