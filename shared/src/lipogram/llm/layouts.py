"""Where each architecture keeps its parts: one declarative line a family.

Block paths are relative to one transformer block, all others to the base model.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Paths of the parts of an architecture.

    Attributes:
        blocks, final_norm: of the list of blocks and of the norm after it, in the base model.
        project_out: a projection between final norm and output embedding (OPT); None mostly.
        attn, mlp: the two halves of a block; for OPT, which has no MLP module, its first matrix.
        q, k, v: the input projections of the attention; the same module where they are fused.
        fused: how a fused projection orders its outputs: "blocks" (all of Q, all of K, all of V) or
            "heads" (Q, K, V of the first head, of the second, ...), or "unknown"; q, k and v are
            then the whole attention.
        out: the attention's output projection.
        up: the MLP's input projections (gate and up).
        down: the MLP's output projection; None for a mixture of experts.
        attn_add, mlp_add: what gives the tensor added to the residual stream where that is not the
            output projection (a norm after it).
        flat: the MLP sees its rows as [b·t, width].
    """

    blocks: str
    final_norm: str
    attn: str
    q: str
    k: str
    v: str
    out: str
    mlp: str
    up: tuple[str, ...]
    down: str | None
    attn_add: str | None = None
    mlp_add: str | None = None
    fused: Literal["blocks", "heads", "unknown"] | None = None
    project_out: str | None = None
    flat: bool = False


_LLAMA = Layout(
    blocks="layers",
    final_norm="norm",
    attn="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.o_proj",
    mlp="mlp",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
)
_POST_NORM = replace(  # a norm between each half and the residual stream
    _LLAMA, attn_add="post_attention_layernorm", mlp_add="post_feedforward_layernorm"
)
_PHI = replace(
    _LLAMA, final_norm="final_layernorm", out="self_attn.dense", up=("mlp.fc1",), down="mlp.fc2"
)
_PHI3 = replace(
    _LLAMA,
    q="self_attn.qkv_proj",
    k="self_attn.qkv_proj",
    v="self_attn.qkv_proj",
    fused="blocks",
    up=("mlp.gate_up_proj",),
)
_GPT2 = Layout(
    blocks="h",
    final_norm="ln_f",
    attn="attn",
    q="attn.c_attn",
    k="attn.c_attn",
    v="attn.c_attn",
    fused="blocks",
    out="attn.c_proj",
    mlp="mlp",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
)
_GPT_NEOX = Layout(
    blocks="layers",
    final_norm="final_layer_norm",
    attn="attention",
    q="attention.query_key_value",
    k="attention.query_key_value",
    v="attention.query_key_value",
    fused="heads",
    out="attention.dense",
    mlp="mlp",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
)
_OPT = replace(
    _LLAMA,
    blocks="decoder.layers",
    final_norm="decoder.final_layer_norm",
    project_out="decoder.project_out",
    out="self_attn.out_proj",
    mlp="fc1",
    up=("fc1",),
    down="fc2",
    flat=True,
)
_GEMMA3 = replace(_POST_NORM, blocks="language_model.layers", final_norm="language_model.norm")

LAYOUTS = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "olmo": _LLAMA,
    "gemma": _LLAMA,
    "olmo2": _POST_NORM,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    "gemma3": _GEMMA3,
    "phi": _PHI,
    "phi3": _PHI3,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "opt": _OPT,
}
