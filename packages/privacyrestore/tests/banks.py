"""Small random banks for tests."""

from typing import Any

import torch

from lipogram.llm.tiny import tiny_random
from privacyrestore.restoration_bank import ModelIdentity, RestorationBank, identify

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")


def tiny_bank(
    model: Any, n_spans: int = 5, *, seed: int = 0, every: int = 3, **settings: Any
) -> RestorationBank:
    """A bank of random unit vectors at every `every`-th head of a model."""
    identity = identify(model)
    sites = [
        (layer, head) for layer in range(identity.n_layers) for head in range(identity.n_heads)
    ][::every]
    return random_bank(identity, sites, n_spans, seed=seed, **settings)


def random_bank(
    identity: ModelIdentity,
    sites: list[tuple[int, int]],
    n_spans: int,
    *,
    seed: int = 0,
    **settings: Any,
) -> RestorationBank:
    """A bank of random unit vectors."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_spans, len(sites), identity.head_dim, generator=draw)
    vectors /= vectors.flatten(1).norm(dim=1)[:, None, None]
    words = [WORDS[i % 8] + ("" if i < 8 else f" {i // 8}") for i in range(n_spans)]
    return RestorationBank.build(vectors, sites, words, identity, **settings)


def loose_identity(n_layers: int = 4, n_heads: int = 4, head_dim: int = 32) -> ModelIdentity:
    """An identity of no model, for banks that never meet one."""
    return ModelIdentity("none", None, "0" * 64, n_layers, n_heads, head_dim)


def tiny(model_type: str = "llama", **settings: Any) -> Any:
    """A tiny random model."""
    return tiny_random(model_type, **settings).model
