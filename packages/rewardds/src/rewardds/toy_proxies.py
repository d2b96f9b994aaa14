"""Small models that have read the toy domain's public corpus: what both proxies start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel, ModelInfo, describe_weights
from lipogram.llm.objectives import IGNORED
from rewardds.prompts import Prompts
from rewardds.toy_domain import NAMES, PRIVATE, PUBLIC, REQUEST, SLOTS, ToyDomain

PROMPTS = Prompts(answer="", question=f"{REQUEST} {PRIVATE}", judge="")
"""What the proxies are asked: the bare question, and one sentence for a new one."""

SPECIAL = ("<pad>", "<unk>", "<user>", "<assistant>", "</s>")
CONTEXT = 64

_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<user> ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<assistant> ' }}{% generation %}{{ message['content'] + ' </s>' }}{% endgeneration %}"
    "{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word of the domain, and one for all others; its chat template drops the system's.

    The assistant's turn is marked, with the end token.
    """
    words = {*REQUEST.split(), *PUBLIC, PRIVATE, *NAMES, "at", "has", "since", "give"}
    words |= {word for slot in SLOTS for kind in slot for word in kind}
    places = {word: i for i, word in enumerate((*SPECIAL, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(places, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def toy_model(
    *,
    layers: int = 2,
    width: int = 64,
    steps: int = 400,
    batch: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
) -> LoadedModel:
    """A Llama-like model, trained on the public corpus without any privacy: there is none in it.

    The learning rate rises over the first twentieth of the steps and falls on a cosine to a
    twentieth of itself. The global random state is left as it was.

    Args:
        layers: blocks.
        width: of the residual stream, a multiple of 16; there are four heads.
        steps: updates; 0 for a model that has read nothing.
        batch: of the corpus, at a time.
        lr: AdamW's largest.
        seed: of the weights and of the corpus.

    Raises:
        InvalidSetting: a setting outside its range.
    """
    if width < 16 or width % 16 or steps < 0:
        raise InvalidSetting(
            f"width is {width}, a multiple of 16; steps is {steps}, it must be at least 0"
        )
    whole("layers", layers), whole("batch", batch), positive("lr", lr)
    tokenizer = toy_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # and no other device's
        model: Any = LlamaForCausalLM(config)
    if steps:
        _pretrain(model, tokenizer, steps, batch, lr, seed)
    model.eval().requires_grad_(False)
    dtype, n = describe_weights(model)
    spec = f"toy-{layers}x{width}-{steps}-{seed}"
    return LoadedModel(model, tokenizer, ModelInfo(spec, "instance", "llama", None, dtype, n))


def _pretrain(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> None:
    ids, scored = _encoded(tokenizer, ToyDomain(0).corpus(steps * batch, seed))
    targets = ids.masked_fill(~scored, IGNORED)[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    rise = max(1, steps // 20)

    def rate(step: int) -> float:
        """Of the largest."""
        fall = 0.525 + 0.475 * math.cos(math.pi * step / steps)
        return min(1.0, (step + 1) / rise) * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for step in range(steps):
        own = slice(step * batch, (step + 1) * batch)
        logits = model(input_ids=ids[own], use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), targets[own].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _encoded(
    tokenizer: PreTrainedTokenizerFast, corpus: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Ids and marks (n, t) of pairs that all have as many words."""
    places = tokenizer.get_vocab()
    texts = [f"<user> {asked} <assistant> {said} </s>".split() for asked, said in corpus]
    ids = torch.tensor([[places[word] for word in words] for words in texts])
    turns = (ids == places["<assistant>"]).cumsum(1)
    return ids, (turns > 0) & (ids != places["<assistant>"])
