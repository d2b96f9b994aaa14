import os
from pathlib import Path

import numpy as np
import pytest

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in float32, loaded once; a test that changes it has to undo that."""
    from lipogram.assets import ASSETS, find
    from lipogram.llm.gguf import home
    from lipogram.llm.hub import INSTALL
    from lipogram.llm.loading import load_model

    (digest,) = ASSETS["smollm2"].files.values()
    named = "LIPOGRAM_SMOLLM2_GGUF" in os.environ
    if not (named or home(digest).exists() or find("smollm2")):
        pytest.skip(f"SmolLM2 is not on this machine: {INSTALL}")
    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two layers over bytes in GGUF, its matrices in 8 bits, ChatML template."""
    gguf = pytest.importorskip("gguf", reason="pip install gguf")
    from lipogram.llm.tiny import byte_tokenizer

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    width, mlp, layers = 64, 96, 2
    rng = np.random.default_rng(0)
    letters = byte_tokenizer().convert_ids_to_tokens(range(256))
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(specials + letters + ["ab"])
    kind = gguf.TokenType
    writer.add_token_types([kind.CONTROL] * 3 + [kind.NORMAL] * 257)
    writer.add_token_merges([f"{letters[97]} {letters[98]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def vector(name: str) -> None:
        writer.add_tensor(name, rng.normal(1, 0.1, width).astype(np.float32))

    matrix("token_embd.weight", 260, width)
    vector("output_norm.weight")
    for layer in range(layers):
        block = f"blk.{layer}."
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width // 2, width),
            ("attn_v", width // 2, width),
            ("attn_output", width, width),
            ("ffn_gate", mlp, width),
            ("ffn_up", mlp, width),
            ("ffn_down", width, mlp),
        ):
            matrix(f"{block}{name}.weight", rows, columns)
        vector(f"{block}attn_norm.weight")
        vector(f"{block}ffn_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
