"""Requests to a small model, and what they say alone by transformers' own generation."""

import functools
from typing import Any

import torch

from lipogram.llm.tiny import EOS, N_TOKENS, tiny_random
from privacyrestore.engine_request import Request
from privacyrestore.steered_model import SteeredModel

from .banks import tiny_bank

LENGTHS = (3, 17, 9, 30, 1, 5, 22, 12)
PLAIN = (2, 5)


@functools.cache
def steered(model_type: str = "llama", **config: Any) -> SteeredModel:
    """A small model with a bank that changes what it says."""
    loaded = tiny_random(model_type, layers=2, **config)
    return SteeredModel(loaded.model, loaded.tokenizer, tiny_bank(loaded.model, gamma=1.0))


def requests(model: SteeredModel, seed: int = 0, **settings: Any) -> list[Request]:
    """Eight requests of different lengths and vectors, two of them plain."""
    (bank,) = model.banks.values()
    draw = torch.Generator().manual_seed(seed)
    found = []
    for row, length in enumerate(LENGTHS):
        prompt = torch.randint(0, 256, (length,), generator=draw).tolist()
        meta = None if row in PLAIN else bank.signal([row % 5, (row + 2) % 5]).float()
        found.append(Request(prompt_ids=prompt, meta=meta, **{"max_new_tokens": 16, **settings}))
    return found


def alone(model: SteeredModel, request: Request) -> list[int]:
    """Greedy tokens of one row by itself."""
    return alone_with_logprobs(model, request)[0]


def alone_with_logprobs(model: SteeredModel, request: Request) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of one row by itself, and the log-probabilities [t, v] of each step."""
    n = request.max_new_tokens
    meta = None if request.meta is None else tuple(request.meta.tolist())
    tokens, log_probs = _alone(model, request.prompt_ids, meta, max(n, 24))
    return tokens[:n], log_probs[:n]


@functools.cache
def _alone(model: SteeredModel, prompt: Any, meta: Any, n: int) -> tuple[list[int], torch.Tensor]:
    out = model.generate(
        torch.tensor([prompt]),
        None,
        None if meta is None else [torch.tensor(meta)],
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=EOS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits).log_softmax(-1)


def told(completion: Any) -> torch.Tensor:
    """The log-probabilities [t, v] of a completion whose request asked for all N_TOKENS of them."""
    found = torch.zeros(len(completion.logprobs), N_TOKENS)
    for step, logprob in enumerate(completion.logprobs):
        ids, values = zip(*logprob.top, strict=True)
        found[step, list(ids)] = torch.tensor(values)
    return found
