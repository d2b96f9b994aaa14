"""Tiny models to train: random, built here, over words w4 to w39."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from psfuture.hf_backend import HFBackend

V = 40
WORDS = [f"w{i}" for i in range(4, V)]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: i for i, word in enumerate(WORDS, 4)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def marian(**more: Any) -> Any:
    torch.manual_seed(1)
    settings = {
        "vocab_size": V,
        "decoder_vocab_size": V,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "init_std": 0.3,
        "dropout": 0.1,
    }
    return MarianMTModel(MarianConfig(**settings | more))


def backend(**more: Any) -> HFBackend:
    return HFBackend(marian(**more), tokenizer())


def pairs(number: int = 24, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences of 2 to 9 words, and some of their words as a translation."""
    drawn = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (1,), generator=drawn))
        return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=drawn))

    return [(some(2, 10), some(1, 8)) for _ in range(number)]
