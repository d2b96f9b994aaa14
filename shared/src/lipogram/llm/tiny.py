"""Random models of a few layers and a tokenizer of bytes: no files, a tenth of a second."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel, ModelInfo, describe_weights

PAD, BOS, EOS = 256, 257, 258
N_TOKENS = 259

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ bos_token + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant\\n' }}{% endif %}"
)

_HEADS, _KV_HEADS = 4, 2
_GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2")
TINY_TYPES = (*_GROUPED, "phi", "olmo", "gpt2", "gpt_neox", "opt")


def tiny_random(
    model_type: str = "llama", *, layers: int = 3, width: int = 32, seed: int = 0, **config: Any
) -> LoadedModel:
    """A random causal language model over 259 tokens, on the CPU in float32, ready to be tested.

    The weights are wide enough for logits to vary by about one between tokens. Norms and biases are
    random too, so no group of parameters is the same in two models. The global random state is left
    as it was.

    Args:
        model_type: one of `TINY_TYPES`.
        layers: number of blocks.
        width: of the residual stream, a multiple of 16; there are four heads.
        seed: of the weights.
        config: settings of the architecture that replace the ones chosen here.

    Raises:
        InvalidSetting: an unknown model type, no layer, or a width that does not divide.
    """
    if model_type not in TINY_TYPES:
        raise InvalidSetting(
            f"no tiny model of type {model_type!r}; there are {', '.join(sorted(TINY_TYPES))}"
        )
    if layers < 1 or width < 16 or width % 16:
        raise InvalidSetting(
            f"layers = {layers}, width = {width}: at least one layer, and a multiple of 16"
        )
    settings = AutoConfig.for_model(
        "gemma3_text" if model_type == "gemma3" else model_type,
        **(_settings(model_type, layers, width) | config),
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # and no other device's
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
    model.eval()
    model.generation_config.pad_token_id = PAD
    dtype, n = describe_weights(model)
    info = ModelInfo(f"tiny-random:{model_type}", "tiny-random", model_type, None, dtype, n)
    return LoadedModel(model, byte_tokenizer(), info)


def byte_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer whose token i < 256 is the byte i of the text in UTF-8.

    Tokens 256, 257 and 258 are padding, begin and end. Its chat template marks the assistant's
    words, with the end token, as generated. It pads on the right.

    Args:
        bos: whether a begin token is put before every text.
    """
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte: itself where it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    unseen = iter(range(256, 512))
    return [chr(byte if byte in seen else next(unseen)) for byte in range(256)]


def _settings(model_type: str, layers: int, width: int) -> dict[str, Any]:
    tokens = {
        "vocab_size": N_TOKENS,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if model_type == "gpt2":
        shape = {"n_layer": layers, "n_embd": width, "n_head": _HEADS, "n_positions": 512}
        return {**tokens, **shape, "initializer_range": 0.25}
    shape = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": 512,
    }
    if model_type == "opt":
        mlp = {"ffn_dim": 2 * width, "word_embed_proj_dim": width, "init_std": 0.25}
        return {**tokens, **shape, **mlp}
    shape["intermediate_size"] = 2 * width
    if model_type in _GROUPED:
        shape["num_key_value_heads"] = _KV_HEADS
    if model_type.startswith("gemma"):
        shape |= {"head_dim": width // _HEADS, "query_pre_attn_scalar": width // _HEADS}
    elif model_type == "qwen3":
        shape["head_dim"] = width // _HEADS
    if model_type in ("gemma2", "gemma3"):
        kinds = ["sliding_attention", "full_attention"]
        types = [kinds[layer % 2] for layer in range(layers)]
        shared = {"initializer_range": 0.25, "sliding_window": 16, "layer_types": types}
        return {**tokens, **shape, **shared}
    return {**tokens, **shape, "initializer_range": 0.25}
