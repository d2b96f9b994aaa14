"""The two models that a client trains: copies of one base, each with its own trainable part."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from lipogram.llm.tuning import lora_config, prepare_lora


def base_model(base: Any, **how: Any) -> LoadedModel:
    """The base, frozen, for this use alone.

    Args:
        base: a name for :func:`lipogram.llm.load_model`, or a loaded model, which is copied.
        how: for :func:`lipogram.llm.load_model`.

    Raises:
        ModelNotFound, CorruptState, InvalidSetting ...: as :func:`lipogram.llm.load_model`.
    """
    loaded = load_model(base, **how)
    if isinstance(base, LoadedModel):
        loaded = LoadedModel(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.info)
        if how.get("device") is not None:
            loaded.model.to(how["device"])
    loaded.model.requires_grad_(False)
    return loaded


def base_name(base: Any) -> str:
    """What a bundle calls the base by."""
    return base.info.spec if isinstance(base, LoadedModel) else str(base)


def trainable(model: Any, tune: Literal["lora", "full"], lora: Any, seed: int) -> Any:
    """The model with what is to be trained of it.

    Args:
        model: frozen; it is changed in place.
        tune: an adapter, or all weights but the embeddings and heads that share theirs.
        lora: PEFT's LoraConfig; None for rank 8 on all linear layers of the blocks.
        seed: of an adapter's first weights.
    """
    if tune == "full":
        model.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and no other device's
        config = copy.deepcopy(lora) or lora_config(model)  # PEFT writes the base's name into it
        return prepare_lora(model, config, checkpointing=False)
