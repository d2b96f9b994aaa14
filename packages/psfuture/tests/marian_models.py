"""Tiny random Marian models in the true file formats, and a slow reading of what they compute."""

from __future__ import annotations

import functools
import io
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

VOCABULARY = 60
D, HEADS, INNER = 16, 4, 24
SYLLABLES = "ba de fi go lu me na po ri su ta vo".split()
OPTIONS = {
    "bert-type-vocab-size": "2",
    "dec-cell": "ssru",
    "dec-depth": "2",
    "dim-emb": str(D),
    "dim-vocabs": [VOCABULARY, VOCABULARY],
    "enc-cell": "gru",
    "enc-depth": "2",
    "input-types": "[]",
    "layer-normalization": "false",
    "tied-embeddings": "false",
    "tied-embeddings-all": "true",
    "tied-embeddings-src": "false",
    "transformer-decoder-autoreg": "rnn",
    "transformer-dim-ffn": str(INNER),
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": "2",
    "transformer-heads": str(HEADS),
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": '""',
    "transformer-preprocess": '""',
    "transformer-tied-layers": "[]",
    "type": "transformer",
    "version": "v1.9.56 94aeaa46 2021-04-28 00:28:35 +0100",
}
KINDS: dict[str, dict[str, Any]] = {
    "ssru": {},
    "self-attention": {"transformer-decoder-autoreg": "self-attention", "dec-cell": "gru"},
    "ssru pre-norm": {
        "transformer-preprocess": "n",
        "transformer-postprocess": "da",
        "transformer-postprocess-top": "n",
        "transformer-ffn-activation": "gelu",
    },
    "self-attention pre-norm": {
        "transformer-decoder-autoreg": "self-attention",
        "transformer-preprocess": "n",
        "transformer-postprocess": "da",
        "transformer-postprocess-emb": "n",
        "transformer-postprocess-top": "an",
        "transformer-ffn-activation": "swish",
        "transformer-ffn-depth": "3",
    },
    "untied": {
        "tied-embeddings-all": "false",
        "transformer-decoder-autoreg": "self-attention",
        "output-omit-bias": "true",
    },
    "tied target": {"tied-embeddings-all": "false", "tied-embeddings": "true"},
    "tied sides": {"tied-embeddings-all": "false", "tied-embeddings-src": "true"},
}
Tensors = dict[str, np.ndarray]


def options_of(kind: str = "ssru", **more: Any) -> dict[str, Any]:
    return OPTIONS | KINDS[kind] | {name.replace("_", "-"): value for name, value in more.items()}


def options_text(options: Mapping[str, Any]) -> bytes:
    """YAML as Marian writes it, lists as blocks."""
    lines = []
    for name, value in options.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"  - {item}" for item in value)]
        else:
            lines.append(f"{name}: {value}")
    return ("\n".join(lines) + "\n\0").encode()


def setting(options: Mapping[str, Any], name: str) -> str:
    return str(options[name]).strip('"')


def random_weights(options: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Every weight that Marian would make under these options."""
    rng = np.random.default_rng(seed)
    found: Tensors = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        found[name] = rng.normal(0, 1.5 / math.sqrt(rows), (rows, columns)).astype(np.float32)

    def vector(name: str, size: int, mean: float = 0.0) -> None:
        found[name] = (mean + rng.normal(0, 0.3, (1, size))).astype(np.float32)

    def norms(steps: str, name: str, suffix: str = "") -> None:
        if "n" in setting(options, steps):
            vector(f"{name}_ln_scale{suffix}", D, 1.0)
            vector(f"{name}_ln_bias{suffix}", D)

    def attention(name: str) -> None:
        for gate in "qkvo":
            matrix(f"{name}_W{gate}", D, D)
            vector(f"{name}_b{gate}", D)
        norms("transformer-preprocess", f"{name}_Wo", "_pre")
        norms("transformer-postprocess", f"{name}_Wo")

    def feed_forward(name: str) -> None:
        depth = int(options["transformer-ffn-depth"])
        widths = [D, *[INNER] * (depth - 1), D]
        for i in range(1, depth + 1):
            matrix(f"{name}_W{i}", widths[i - 1], widths[i])
            vector(f"{name}_b{i}", widths[i])
        norms("transformer-preprocess", f"{name}_ffn", "_pre")
        norms("transformer-postprocess", f"{name}_ffn")

    every = options["tied-embeddings-all"] == "true"
    if every or options["tied-embeddings-src"] == "true":
        tables = ["Wemb"]
    else:
        tables = ["encoder_Wemb", "decoder_Wemb"]
    for name in tables:
        found[name] = rng.normal(0, 0.25, (VOCABULARY, D)).astype(np.float32)
    if not every and options["tied-embeddings"] == "false":
        matrix("decoder_ff_logit_out_W", D, VOCABULARY)
    if options.get("output-omit-bias") != "true":
        vector("decoder_ff_logit_out_b", VOCABULARY)
    for side in ("encoder", "decoder"):
        norms("transformer-postprocess-emb", f"{side}_emb", "_pre")
        norms("transformer-postprocess-top", f"{side}_top")
    for i in range(1, int(options["enc-depth"]) + 1):
        attention(f"encoder_l{i}_self")
        feed_forward(f"encoder_l{i}_ffn")
    for i in range(1, int(options["dec-depth"]) + 1):
        if options["transformer-decoder-autoreg"] == "rnn":
            name = f"decoder_l{i}_rnn"
            matrix(f"{name}_W", D, D)
            matrix(f"{name}_Wf", D, D)
            vector(f"{name}_bf", D)
            norms("transformer-preprocess", name, "_pre")
            norms("transformer-postprocess", f"{name}_ffn")
        else:
            attention(f"decoder_l{i}_self")
        attention(f"decoder_l{i}_context")
        feed_forward(f"decoder_l{i}_ffn")
    return found


def quantised(weights: Tensors) -> tuple[Tensors, dict[str, np.float32], Tensors]:
    """int8 matrices, their multipliers, and the values that they stand for; vectors stay."""
    stored, multipliers, meant = {}, {}, {}
    for name, value in weights.items():
        if len(value) == 1:
            stored[name] = meant[name] = value
            continue
        multipliers[name] = np.float32(127 / np.abs(value).max())
        stored[name] = np.round(value * multipliers[name]).astype(np.int8)
        meant[name] = stored[name].astype(np.float32) / multipliers[name]
    return stored, multipliers, meant


def binary(
    tensors: Tensors,
    options: Mapping[str, Any],
    multipliers: Mapping[str, np.float32] | None = None,
) -> bytes:
    """The bytes of a binary model; int8 tensors need their multipliers."""
    entries: list[tuple[bytes, int, tuple[int, ...], bytes]] = []
    for name, value in tensors.items():
        if value.dtype == np.int8:
            assert multipliers is not None
            body = value if name.endswith("Wemb") else np.ascontiguousarray(value.T)
            block = body.tobytes() + struct.pack("<f", multipliers[name])
            kind = 0x4101
        else:
            block = value.tobytes()
            kind = 0x404 if value.dtype == np.float32 else 0x402
        block += b"\0" * (-len(block) % 256)
        entries.append((name.encode() + b"\0", kind, value.shape, block))
    text = options_text(options)
    entries.append((b"special:model.yml\0", 0x101, (len(text),), text))
    head = struct.pack("<2Q", 1, len(entries))
    for name_bytes, kind, shape, block in entries:
        head += struct.pack("<4Q", len(name_bytes), kind, len(shape), len(block))
    head += b"".join(name_bytes for name_bytes, *_ in entries)
    head += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in entries)
    pad = -(len(head) + 8) % 256
    head += struct.pack("<Q", pad) + b"\0" * pad
    return head + b"".join(block for *_, block in entries)


def archive(tensors: Tensors, options: Mapping[str, Any]) -> bytes:
    """The bytes of an `.npz` model."""
    file = io.BytesIO()
    text = np.frombuffer(options_text(options), np.int8)
    np.savez(file, allow_pickle=False, **tensors, **{"special:model.yml": text})
    return file.getvalue()


@functools.cache
def vocabulary(seed: int = 0) -> bytes:
    """A SentencePiece model of :data:`VOCABULARY` pieces with Marian's special ones."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(200)]
    sentences = [" ".join(rng.choices(words, k=6)) for _ in range(400)]
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=file,
        vocab_size=VOCABULARY,
        eos_id=0,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    return file.getvalue()


def write_model(folder: Path, kind: str = "ssru", seed: int = 0, **more: Any) -> Tensors:
    """A folder with a binary model of float32 and its vocabulary; its weights."""
    options = options_of(kind, **more)
    weights = random_weights(options, seed)
    (folder / "model.xxyy.intgemm.alphas.bin").write_bytes(binary(weights, options))
    (folder / "vocab.xxyy.spm").write_bytes(vocabulary())
    return weights


class SlowModel:
    """What a Marian transformer computes: float64, one row, one position and one head at a time."""

    def __init__(self, weights: Tensors, options: Mapping[str, Any]):
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.options = options

    def logits(self, source: list[int], target: list[int]) -> np.ndarray:
        return self.run(source, target)[0]

    def run(self, source: list[int], target: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Logits (V) after the target, and the last layer's attention (S) to the source."""
        w, encoded = self.w, self.encode(source)
        table = w.get("decoder_Wemb", w.get("Wemb"))
        assert table is not None
        vectors = [np.zeros(D), *(math.sqrt(D) * table[token] for token in target)]
        first = [vector + place(t) for t, vector in enumerate(vectors)]
        xs = [self.before("transformer-postprocess-emb", "decoder_emb", x) for x in first]
        weights = np.zeros(0)
        for i in range(1, int(self.options["dec-depth"]) + 1):
            name = f"decoder_l{i}"
            if self.options["transformer-decoder-autoreg"] == "rnn":
                xs = self.recur(f"{name}_rnn", xs)
            else:
                seen = [(x, xs[: t + 1]) for t, x in enumerate(xs)]
                xs = [self.attend(f"{name}_self", x, past)[0] for x, past in seen]
            attended = [self.attend(f"{name}_context", x, encoded) for x in xs]
            weights = attended[-1][1]
            xs = [self.feed(f"{name}_ffn", x) for x, _ in attended]
        last = self.after("transformer-postprocess-top", "decoder_top", xs[-1], first[-1])
        out = w.get("decoder_ff_logit_out_W")
        found = last @ (table.T if out is None else out)
        bias = w.get("decoder_ff_logit_out_b")
        return (found if bias is None else found + bias[0]), weights

    def encode(self, source: list[int]) -> list[np.ndarray]:
        table = self.w.get("encoder_Wemb", self.w.get("Wemb"))
        assert table is not None
        first = [math.sqrt(D) * table[token] + place(t) for t, token in enumerate(source)]
        xs = [self.before("transformer-postprocess-emb", "encoder_emb", x) for x in first]
        for i in range(1, int(self.options["enc-depth"]) + 1):
            xs = [self.attend(f"encoder_l{i}_self", x, xs)[0] for x in xs]
            xs = [self.feed(f"encoder_l{i}_ffn", x) for x in xs]
        return [
            self.after("transformer-postprocess-top", "encoder_top", x, f)
            for x, f in zip(xs, first, strict=True)
        ]

    def attend(
        self, name: str, x: np.ndarray, seen: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        w, size = self.w, D // HEADS
        asking = self.before("transformer-preprocess", f"{name}_Wo", x)
        query = asking @ w[f"{name}_Wq"] + w[f"{name}_bq"][0]
        keys = [y @ w[f"{name}_Wk"] + w[f"{name}_bk"][0] for y in seen]
        values = [y @ w[f"{name}_Wv"] + w[f"{name}_bv"][0] for y in seen]
        mixed, mean = np.zeros(D), np.zeros(len(seen))
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp([query[part] @ key[part] / math.sqrt(size) for key in keys])
            scores /= scores.sum()
            mixed[part] = sum(s * value[part] for s, value in zip(scores, values, strict=True))
            mean += scores / HEADS
        found = mixed @ w[f"{name}_Wo"] + w[f"{name}_bo"][0]
        return self.after("transformer-postprocess", f"{name}_Wo", found, x), mean

    def recur(self, name: str, xs: list[np.ndarray]) -> list[np.ndarray]:
        w, cell, found = self.w, np.zeros(D), []
        for x in xs:
            entered = self.before("transformer-preprocess", name, x)
            forget = 1 / (1 + np.exp(-(entered @ w[f"{name}_Wf"] + w[f"{name}_bf"][0])))
            cell = forget * cell + (1 - forget) * (entered @ w[f"{name}_W"])
            out = np.maximum(cell, 0)
            found.append(self.after("transformer-postprocess", f"{name}_ffn", out, x))
        return found

    def feed(self, name: str, x: np.ndarray) -> np.ndarray:
        act = {
            "relu": lambda y: np.maximum(y, 0),
            "swish": lambda y: y / (1 + np.exp(-y)),
            "gelu": lambda y: y / (1 + np.exp(-1.702 * y)),
        }[self.options["transformer-ffn-activation"]]
        found = self.before("transformer-preprocess", f"{name}_ffn", x)
        for i in range(1, int(self.options["transformer-ffn-depth"]) + 1):
            found = act(found) if i > 1 else found
            found = found @ self.w[f"{name}_W{i}"] + self.w[f"{name}_b{i}"][0]
        return self.after("transformer-postprocess", f"{name}_ffn", found, x)

    def before(self, steps: str, name: str, x: np.ndarray) -> np.ndarray:
        for step in setting(self.options, steps):
            x = self.norm(name, x, "_pre") if step == "n" else x
        return x

    def after(self, steps: str, name: str, found: np.ndarray, x: np.ndarray) -> np.ndarray:
        for step in setting(self.options, steps):
            if step == "a":
                found = found + x
            elif step == "n":
                found = self.norm(name, found, "")
        return found

    def norm(self, name: str, x: np.ndarray, suffix: str) -> np.ndarray:
        centred = x - x.mean()
        scale = self.w[f"{name}_ln_scale{suffix}"][0] / math.sqrt((centred**2).mean() + 1e-9)
        return centred * scale + self.w[f"{name}_ln_bias{suffix}"][0]


def place(t: int) -> np.ndarray:
    """What position t adds: sines, then cosines."""
    rates = [10000 ** (-i / (D // 2 - 1)) for i in range(D // 2)]
    return np.array([math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates])
