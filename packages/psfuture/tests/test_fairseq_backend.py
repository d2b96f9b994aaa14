"""Models of fairseq as a backend, against the same weights in PyTorch's own layers."""

import argparse
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lipogram.errors import (
    CorruptState,
    InvalidSetting,
    LipogramError,
    ModelNotFound,
    NotFinite,
)
from psfuture import fairseq_backend
from psfuture.fairseq_backend import FairseqBackend
from psfuture.fairseq_checkpoint import read_fairseq
from psfuture.fairseq_files import FairseqFiles, convert_fairseq
from psfuture.fairseq_settings import FairseqSettings

SPECIAL = 4
KINDS = ("weight", "bias")
SETTINGS = {
    "arch": "transformer",
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 20,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "encoder_learned_pos": False,
    "decoder_learned_pos": False,
    "share_all_embeddings": False,
    "share_decoder_input_output_embed": False,
    "max_source_positions": 40,
    "max_target_positions": 32,
    "source_lang": "en",
    "target_lang": "de",
}
SOURCE, TARGET = 30, 34  # symbols of the dictionaries


class Reference(nn.Module):
    """Encoder and decoder of `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`.

    Args:
        seed: of the weights.
        causal: whether the encoder looks at no later token.
        settings: fairseq's, over SETTINGS.
    """

    def __init__(self, seed: int = 0, *, causal: bool = False, **settings: Any):
        super().__init__()
        self.settings = SETTINGS | settings
        self.causal = causal
        torch.manual_seed(seed)
        s = self.settings
        wide, narrow = s["encoder_embed_dim"], s["decoder_embed_dim"]
        source = TARGET if s["share_all_embeddings"] else SOURCE
        self.embeddings = nn.ModuleDict(
            {"encoder": nn.Embedding(source, wide), "decoder": nn.Embedding(TARGET, narrow)}
        )
        self.output = nn.Linear(narrow, TARGET, bias=False)
        if s["share_all_embeddings"]:
            self.embeddings["encoder"] = self.embeddings["decoder"]
        if s["share_all_embeddings"] or s["share_decoder_input_output_embed"]:
            self.output.weight = self.embeddings["decoder"].weight
        self.learnt, self.first, self.last = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for part, kind in (("encoder", "source"), ("decoder", "target")):
            d = s[f"{part}_embed_dim"]
            if s[f"{part}_learned_pos"]:
                self.learnt[part] = nn.Embedding(s[f"max_{kind}_positions"] + 2, d)
            if s.get("layernorm_embedding"):
                self.first[part] = nn.LayerNorm(d)
            if s[f"{part}_normalize_before"]:
                self.last[part] = nn.LayerNorm(d)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(**self._layer("encoder")) for _ in range(s["encoder_layers"])
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(**self._layer("decoder")) for _ in range(s["decoder_layers"])
        )
        if wide != narrow:
            for layer in self.decoder:
                layer.multihead_attn = nn.MultiheadAttention(
                    narrow,
                    s["decoder_attention_heads"],
                    kdim=wide,
                    vdim=wide,
                    batch_first=True,
                )
        for parameter in self.parameters():
            nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.3)
        self.eval()

    def _layer(self, part: str) -> dict[str, Any]:
        s = self.settings
        return {
            "d_model": s[f"{part}_embed_dim"],
            "nhead": s[f"{part}_attention_heads"],
            "dim_feedforward": s[f"{part}_ffn_embed_dim"],
            "activation": s.get("activation_fn", "relu"),
            "norm_first": s[f"{part}_normalize_before"],
            "batch_first": True,
        }

    def embed(self, part: str, ids: list[int]) -> Tensor:
        """(1, T, d)."""
        x = self.embeddings[part](torch.tensor([ids]))
        d = x.shape[-1]
        if not self.settings.get("no_scale_embedding"):
            x = x * math.sqrt(d)
        if part in self.learnt:
            x = x + self.learnt[part](torch.arange(2, 2 + len(ids)))
        elif not self.settings.get("no_token_positional_embeddings"):
            half = d // 2
            for place in range(len(ids)):
                for i in range(half):
                    angle = (place + 2) * 10000 ** (-i / (half - 1))
                    x[0, place, i] += math.sin(angle)
                    x[0, place, half + i] += math.cos(angle)
        return self.first[part](x) if part in self.first else x

    @torch.no_grad()
    def encodings(self, source: list[int]) -> Tensor:
        """(1, S, d)."""
        x = self.embed("encoder", source)
        mask = nn.Transformer.generate_square_subsequent_mask(len(source)) if self.causal else None
        for layer in self.encoder:
            x = layer(x, src_mask=mask)
        return self.last["encoder"](x) if "encoder" in self.last else x

    @torch.no_grad()
    def logits(self, source: list[int], target: list[int]) -> Tensor:
        """(V,) of the token after `target`."""
        memory = self.encodings(source)
        x = self.embed("decoder", [2, *target])
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask=mask)
        x = self.last["decoder"](x) if "decoder" in self.last else x
        return self.output(x)[0, -1]

    def attention(self, source: list[int], target: list[int]) -> Tensor:
        """(S,) of the last layer and input, the mean of the heads."""
        inner, seen = self.decoder[-1].multihead_attn, []
        handle = inner.register_forward_pre_hook(lambda _, given: seen.append(given))
        self.logits(source, target)
        handle.remove()
        with torch.no_grad():
            return inner(*seen[0], need_weights=True, average_attn_weights=True)[1][0, -1]

    def weights(self, *, old: bool = False) -> dict[str, Tensor]:
        """The state dict, under the names of fairseq 0.12, or of 0.6 and before.

        Old names are those of blocks whose attentions are one matrix and whose norms are numbered,
        and of an output layer that is called `embed_out`.
        """
        found = {}
        for part, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            found[f"{part}.embed_tokens.weight"] = self.embeddings[part].weight
            if part in self.learnt:
                found[f"{part}.embed_positions.weight"] = self.learnt[part].weight
            else:
                found[f"{part}.embed_positions._float_tensor"] = torch.zeros(1)
            for name, norms in (("layernorm_embedding", self.first), ("layer_norm", self.last)):
                if part in norms:
                    found |= _under(f"{part}.{name}", norms[part])
            norms = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"]
            if part == "encoder":
                del norms[1]
            for number, layer in enumerate(layers):
                under = f"{part}.layers.{number}"
                attentions = {"self_attn": layer.self_attn}
                if part == "decoder":
                    attentions["encoder_attn"] = layer.multihead_attn
                for name, attention in attentions.items():
                    found |= _attention(f"{under}.{name}", attention, old)
                found |= _under(f"{under}.fc1", layer.linear1)
                found |= _under(f"{under}.fc2", layer.linear2)
                for at, name in enumerate(norms):
                    name = f"layer_norms.{at}" if old else name
                    found |= _under(f"{under}.{name}", getattr(layer, f"norm{at + 1}"))
        if old:
            found |= {f"{part}.version": torch.tensor([2.0]) for part in ("encoder", "decoder")}
            if self.output.weight is not self.embeddings["decoder"].weight:
                found["decoder.embed_out"] = self.output.weight
        else:
            found["decoder.output_projection.weight"] = self.output.weight
        return {name: value.detach() for name, value in found.items()}

    def checkpoint(self, *, cfg: bool = True, old: bool = False) -> dict[str, Any]:
        """What fairseq saves: settings as `cfg` (0.10 and later) or as `args`, and all the rest."""
        args = argparse.Namespace(**self.settings, task="translation", save_dir="checkpoints")
        weights = self.weights(old=old)
        moments = {i: {"exp_avg": torch.ones_like(w)} for i, w in enumerate(weights.values())}
        task = {"_name": "translation", "source_lang": "en", "target_lang": "de"}
        config = {"_name": None, "common": {"seed": 1, "fp16": True}, "model": args, "task": task}
        return {
            "args": None if cfg else args,
            "cfg": config if cfg else None,
            "model": weights,
            "criterion": None,
            "optimizer_history": [
                {"criterion_name": "CrossEntropyCriterion", "best_loss": 1.5, "num_updates": 7}
            ],
            "task_state": {},
            "extra_state": {"epoch": 2, "train_iterator": {"epoch": 2}, "val_loss": 1.5},
            "last_optimizer_state": {"state": moments, "param_groups": [{"lr": 1e-3}]},
        }

    def write(
        self, folder: Path, *, cfg: bool = True, old: bool = False, zipped: bool = True
    ) -> Path:
        """A checkpoint and its dictionaries in a folder; before PyTorch 1.6 it was no zip."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint_best.pt"
        torch.save(
            self.checkpoint(cfg=cfg, old=old),
            path,
            _use_new_zipfile_serialization=zipped,
        )
        sizes = {"en": len(self.embeddings["encoder"].weight), "de": TARGET}
        for language, size in sizes.items():
            lines = [f"w{i} {100 - i}\n" for i in range(SPECIAL, size - 2)]
            lines += [f"madeupword{i:04d} 0\n" for i in range(2)]
            (folder / f"dict.{language}.txt").write_text("".join(lines), encoding="utf-8")
        return path


def _under(name: str, layer: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{kind}": value for kind, value in layer.named_parameters()}


def _attention(name: str, layer: nn.MultiheadAttention, old: bool) -> dict[str, Tensor]:
    found = _under(f"{name}.out_proj", layer.out_proj)
    if old:
        found |= {f"{name}.in_proj_{kind}": getattr(layer, f"in_proj_{kind}") for kind in KINDS}
        return found
    if layer.in_proj_weight is None:
        matrices = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    else:
        matrices = list(layer.in_proj_weight.chunk(3))
    for gate, matrix, bias in zip("qkv", matrices, layer.in_proj_bias.chunk(3), strict=True):
        found |= {f"{name}.{gate}_proj.weight": matrix, f"{name}.{gate}_proj.bias": bias}
    return found


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "mixed-norms": {"encoder_normalize_before": True},
    "learnt-positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "no-positions": {"no_token_positional_embeddings": True},
    "one-table": {"share_all_embeddings": True},
    "tied-output": {"share_decoder_input_output_embed": True},
    "uneven": {"encoder_embed_dim": 24, "encoder_layers": 3, "decoder_layers": 1},
    "normed-embeddings": {"layernorm_embedding": True, "no_scale_embedding": True},
    "gelu": {"activation_fn": "gelu"},
    "causal": {"causal": True, "arch": "waitk_transformer"},
}
Row = tuple[list[int], list[int]]  # source, target
MADE_UP = {TARGET - 2, TARGET - 1}


def load(reference: Reference, folder: Path, **how: Any) -> FairseqBackend:
    return FairseqBackend.load(reference.write(folder, **how), device="cpu")


@pytest.fixture(params=list(CONFIGURATIONS))
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FairseqBackend, Reference]:
    reference = Reference(**CONFIGURATIONS[request.param])
    return load(reference, tmp_path), reference


@pytest.fixture
def one(tmp_path: Path) -> FairseqBackend:
    return load(Reference(), tmp_path)


def draw_rows(rng: random.Random, count: int, longest: int = 20) -> list[Row]:
    def some(symbols: int, least: int, most: int) -> list[int]:
        return [rng.randrange(SPECIAL, symbols) for _ in range(rng.randint(least, most))]

    return [(some(SOURCE, 1, 12), some(TARGET, 0, longest)) for _ in range(count)]


def begin(backend: FairseqBackend, rows: list[Row]) -> tuple[Any, Tensor]:
    return backend.begin(backend.encode([s for s, _ in rows]), [t for _, t in rows])


def assert_rows(reference: Reference, logits: Tensor, rows: list[Row]) -> None:
    assert logits.dtype == torch.float32
    wanted = torch.stack([reference.logits(*row) for row in rows])
    wanted[:, [0, 1, 3, *sorted(MADE_UP)]] = -torch.inf
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)


# Distributions


def test_any_sequence_of_calls_gives_what_each_row_alone_gives(
    both: tuple[FairseqBackend, Reference],
) -> None:
    backend, reference = both
    rng = random.Random(3)
    rows = draw_rows(rng, 5)
    state, logits = begin(backend, rows)
    assert_rows(reference, logits, rows)
    for move in ("step", "select", "step", "join", "read", "select", "join", "step"):
        if move == "select":
            picked = [rng.randrange(len(rows)) for _ in range(rng.randint(1, 6))]
            state, rows = state.select(picked), [rows[i] for i in picked]
        elif move == "join":
            more = draw_rows(rng, rng.randint(1, 3))
            state = backend.join([begin(backend, more)[0], state])
            rows = more + rows
        elif move == "read":  # another source under the same target, as a READ does
            i = rng.randrange(len(rows))
            changed = [(draw_rows(rng, 1)[0][0], rows[i][1])]
            fresh, logits = begin(backend, changed)
            assert_rows(reference, logits, changed)
            rest = [j for j in range(len(rows)) if j != i]
            state = backend.join([state.select(rest), fresh]) if rest else fresh
            rows = [rows[j] for j in rest] + changed
        tokens = [rng.randrange(SPECIAL, TARGET) for _ in rows]
        state, logits = backend.step(state, tokens)
        rows = [(s, [*t, token]) for (s, t), token in zip(rows, tokens, strict=True)]
        assert_rows(reference, logits, rows)


def test_a_state_can_be_continued_twice(both: tuple[FairseqBackend, Reference]) -> None:
    backend, reference = both
    rows = draw_rows(random.Random(5), 3)
    state, _ = begin(backend, rows)
    for token in (7, 8):
        _, logits = backend.step(state, [token] * 3)
        assert_rows(reference, logits, [(s, [*t, token]) for s, t in rows])


def test_encodings_of_a_batch_are_those_of_each_source_alone(
    both: tuple[FairseqBackend, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, reference = both
    monkeypatch.setattr(fairseq_backend, "ENCODED_AT_ONCE", 30)
    sources = [s for s, _ in draw_rows(random.Random(2), 9)]
    for ids, found in zip(sources, backend.encode(sources), strict=True):
        torch.testing.assert_close(found, reference.encodings(ids)[0], rtol=0, atol=1e-5)
    assert backend.encode([]) == []


def test_a_causal_encoder_does_not_change_its_mind(tmp_path: Path) -> None:
    source = list(range(5, 15))
    for causal in (True, False):
        backend = load(Reference(**CONFIGURATIONS["causal" if causal else "post-norm"]), tmp_path)
        whole, part = backend.encode([source, source[:6]])
        assert bool((whole[:6] - part).abs().max() < 1e-5) == causal


@pytest.mark.parametrize(
    ("named", "asked", "causal"),
    [
        ({"arch": "waitk_transformer_small"}, None, True),
        ({"arch": "transformer_iwslt_de_en", "encoder_unidirectional": True}, None, True),
        ({"arch": "transformer_iwslt_de_en"}, None, False),
        ({"arch": "transformer_iwslt_de_en"}, True, True),
        ({"arch": "waitk_transformer"}, False, False),
    ],
)
def test_who_is_causal(named: dict[str, Any], asked: bool | None, causal: bool) -> None:
    read = FairseqSettings.read(SETTINGS | named, causal_encoder=asked)
    assert read.causal_encoder == causal


def test_attention_is_that_of_pytorchs_layers(both: tuple[FairseqBackend, Reference]) -> None:
    backend, reference = both
    assert backend.attends

    def check(state: Any, rows: list[Row]) -> None:
        found = backend.attention(state)
        assert found.shape == (len(rows), max(len(source) for source, _ in rows))
        torch.testing.assert_close(found.sum(1), torch.ones(len(rows)))
        for row, weights in zip(rows, found, strict=True):
            wanted, length = reference.attention(*row), len(row[0])
            torch.testing.assert_close(weights[:length], wanted, rtol=0, atol=1e-5)
            assert not weights[length:].any()

    rows = draw_rows(random.Random(9), 4)
    state, _ = begin(backend, rows)
    check(state, rows)
    state, _ = backend.step(state, [5, 6, 7, 8])
    rows = [(s, [*t, i]) for (s, t), i in zip(rows, (5, 6, 7, 8), strict=True)]
    check(state, rows)
    more = draw_rows(random.Random(10), 1)
    joined = backend.join([state.select([3, 1, 1]), begin(backend, more)[0]])
    check(joined, [rows[3], rows[1], rows[1], *more])


def test_half_precision_gives_float32_logits(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    whole = FairseqBackend.load(path, device="cpu")
    half = FairseqBackend.load(path, device="cpu", dtype="bfloat16")
    for row in draw_rows(random.Random(1), 3, longest=4):
        a, b = begin(whole, [row])[1], begin(half, [row])[1]
        assert b.dtype == torch.float32
        kept = torch.isfinite(a)
        assert (torch.isfinite(b) == kept).all()
        assert 0 < (a - b)[kept].abs().max() < 0.1 * a[kept].abs().max()


@pytest.mark.gpu
def test_on_a_gpu_the_same_but_for_its_arithmetic(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    here, there = (FairseqBackend.load(path, device=device) for device in ("cpu", "cuda"))
    rows = draw_rows(random.Random(1), 6)
    (state, wanted), (moved, found) = begin(here, rows), begin(there, rows)
    for _ in range(2):
        torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-3)
        attended = there.attention(moved).cpu()
        torch.testing.assert_close(attended, here.attention(state), rtol=0, atol=1e-3)
        (state, wanted), (moved, found) = here.step(state, [5] * 6), there.step(moved, [5] * 6)


# Checkpoints


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("kind", ["pre-norm", "tied-output"])
def test_every_version_of_a_checkpoint_is_the_same_model(
    kind: str, cfg: bool, old: bool, zipped: bool, tmp_path: Path
) -> None:
    reference = Reference(**CONFIGURATIONS[kind])
    backend = load(reference, tmp_path, cfg=cfg, old=old, zipped=zipped)
    rows = draw_rows(random.Random(4), 3)
    assert_rows(reference, begin(backend, rows)[1], rows)
    newest = load(reference, tmp_path / "newest")
    assert backend.name == newest.name
    assert backend.name.startswith("fairseq:checkpoint_best@")


def test_settings_that_hydra_nests_are_read(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    flat = read_fairseq(path).model
    held = Reference().checkpoint()
    nested = {name: value for name, value in SETTINGS.items() if not name.startswith("encoder_")}
    nested["encoder"] = {
        name.removeprefix("encoder_"): value
        for name, value in SETTINGS.items()
        if name.startswith("encoder_")
    }
    held["cfg"]["model"] = nested
    torch.save(held, path)
    again = read_fairseq(path).model
    assert {name: again[name] for name in SETTINGS} == {name: flat[name] for name in SETTINGS}


def test_another_model_has_another_name(tmp_path: Path) -> None:
    names = {load(Reference(seed), tmp_path / str(seed)).name for seed in (0, 1)}
    assert len(names) == 2


def test_one_tensor_under_several_names_stays_one(tmp_path: Path) -> None:
    sizes = []
    for kind in ("one-table", "post-norm"):
        path = Reference(**CONFIGURATIONS[kind]).write(tmp_path / kind)
        sizes.append(sum(p.numel() for p in FairseqBackend.load(path).network.parameters()))
    tables = TARGET + SOURCE + TARGET
    assert sizes[1] - sizes[0] == (tables - TARGET) * 16


# Bad models


def changed(folder: Path, **settings: Any) -> Path:
    """A checkpoint with other settings, its weights being those of Reference()."""
    held = Reference().checkpoint(cfg=False)
    held["args"] = argparse.Namespace(**vars(held["args"]) | settings)
    path = Reference().write(folder)
    torch.save(held, path)
    return path


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"encoder_layers": 3}, CorruptState, r"lacks 16 weights, such as encoder\.layers\.2"),
        ({"encoder_layers": 10**12}, CorruptState, "1000000000000 layers"),
        ({"encoder_layers": 1}, InvalidSetting, r"16 weights of a network.*encoder\.layers\.1"),
        ({"encoder_layers": "two"}, CorruptState, "encoder_layers is 'two'"),
        ({"decoder_layers": None}, CorruptState, "decoder_layers is None"),
        ({"encoder_attention_heads": 3}, CorruptState, "3 heads do not divide the encoder's 16"),
        ({"encoder_attention_heads": 0}, CorruptState, "encoder_attention_heads is 0"),
        ({"activation_fn": "sine"}, InvalidSetting, "'sine' is none of relu"),
        ({"activation_fn": ["relu"]}, InvalidSetting, "is none of relu"),
        ({"adaptive_softmax_cutoff": [9]}, InvalidSetting, "adaptive_softmax_cutoff"),
        ({"cross_self_attention": True}, InvalidSetting, "cross_self_attention"),
        ({"encoder_decoder_attention_heads": 1}, InvalidSetting, "decoder_attention_heads=1"),
        ({"source_lang": "../../etc"}, InvalidSetting, "src_dict"),
        ({"target_lang": None}, InvalidSetting, "tgt_dict"),
        ({"target_lang": "xx"}, ModelNotFound, r"dict\.xx\.txt"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    settings: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        FairseqBackend.load(changed(tmp_path, **settings))


def test_a_setting_that_is_a_tensor_is_none(tmp_path: Path) -> None:
    assert FairseqBackend.load(changed(tmp_path, adaptive_input=torch.ones(3))).vocab_size == TARGET


def test_a_checkpoint_without_settings_or_weights_is_refused(tmp_path: Path) -> None:
    for held, match in (
        ({"model": Reference().weights()}, "neither cfg nor args"),
        ({"args": argparse.Namespace(**SETTINGS)}, "no weights under 'model'"),
        ({"args": argparse.Namespace(**SETTINGS), "model": {"a": 1}}, "'a' is no tensor"),
        ([1, 2], "no checkpoint of fairseq"),
        (torch.zeros(3), "no checkpoint of fairseq"),
    ):
        torch.save(held, tmp_path / "model.pt")
        with pytest.raises(CorruptState, match=match):
            FairseqBackend.load(tmp_path / "model.pt")


ODD = {
    "number": torch.tensor(1.0),
    "empty": torch.empty(0),
    "vector": torch.zeros(5),
    "cube": torch.zeros(2, 3, 4),
    "whole": torch.zeros(16, 16, dtype=torch.long),
    "complex": torch.zeros(16, 16, dtype=torch.complex64),
    "sparse": torch.zeros(16, 16).to_sparse(),
    "endless": torch.zeros(1).expand(1 << 40, 16),
    "long": torch.zeros(1, 16).expand(1 << 40, 16),
    "quantised": torch.quantize_per_tensor(torch.zeros(16, 16), 0.1, 0, torch.qint8),
}


SOME = [
    "encoder.embed_tokens.weight",
    "encoder.embed_positions.weight",
    "encoder.layers.0.self_attn_layer_norm.weight",
    "decoder.embed_tokens.weight",
    "decoder.layers.1.fc1.bias",
    "decoder.layers.1.encoder_attn.k_proj.weight",
    "decoder.output_projection.weight",
]


@pytest.mark.parametrize("kind", list(ODD))
def test_no_weight_can_be_anything_else(kind: str, tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    held = Reference(encoder_learned_pos=True).checkpoint()
    assert held["model"].keys() >= set(SOME)
    for name in SOME:
        torch.save(held | {"model": held["model"] | {name: ODD[kind]}}, path)
        with pytest.raises(LipogramError):
            FairseqBackend.load(path)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    held = Reference().checkpoint()
    held["model"]["decoder.layers.1.fc1.weight"][3, 3] = torch.nan
    torch.save(held, path)
    with pytest.raises(NotFinite, match=r"decoder\.layers\.1\.fc1\.weight"):
        FairseqBackend.load(path)


def test_dictionaries_of_another_model_are_refused(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    with pytest.raises(CorruptState, match=rf"source dictionary has {TARGET}.*{SOURCE}"):
        FairseqBackend.load(path, src_dict=tmp_path / "dict.de.txt")
    with pytest.raises(CorruptState, match=rf"target dictionary has {SOURCE}.*{TARGET}"):
        FairseqBackend.load(path, tgt_dict=tmp_path / "dict.en.txt")
    with pytest.raises(ModelNotFound, match="nowhere"):
        FairseqBackend.load(path, tgt_dict=tmp_path / "nowhere.txt")
    with pytest.raises(ModelNotFound, match="nowhere"):
        FairseqBackend.load(tmp_path / "nowhere.pt")


def test_what_does_not_fit_the_model_is_refused(one: FairseqBackend) -> None:
    assert one.max_source == 40
    (encoding,) = one.encode([[5] * 40])
    with pytest.raises(InvalidSetting, match=r"41 tokens.*40 positions"):
        one.encode([[5] * 41])
    with pytest.raises(InvalidSetting, match="without tokens"):
        one.encode([[5], []])
    with pytest.raises(InvalidSetting, match=rf"token {SOURCE} is none of {SOURCE}"):
        one.encode([[5, SOURCE]])
    with pytest.raises(InvalidSetting, match="-1"):
        one.encode([[5, -1]])
    with pytest.raises(InvalidSetting, match=r"33 tokens.*32 positions"):
        one.begin([encoding], [[5] * 32])
    with pytest.raises(InvalidSetting, match=rf"{TARGET} is none of {TARGET}"):
        one.begin([encoding], [[TARGET]])
    with pytest.raises(InvalidSetting, match="1 encodings and 2 targets"):
        one.begin([encoding], [[], []])
    with pytest.raises(InvalidSetting, match="0 encodings and 0 targets"):
        one.begin([], [])
    state, _ = one.begin([encoding], [[5] * 31])
    with pytest.raises(InvalidSetting, match=r"33 tokens.*32 positions"):
        one.step(state, [5])
    with pytest.raises(InvalidSetting, match="2 tokens for 1 rows"):
        one.step(state, [5, 6])
    with pytest.raises(InvalidSetting, match="no state of a model of fairseq"):
        one.attention(object())


# Text


def test_words_in_and_words_out(one: FairseqBackend) -> None:
    assert one.source_ids(["w5", "w9"], closed=True) == [5, 9, 2]
    assert one.source_ids(["w5", "w9"], closed=False) == [5, 9]
    assert one.source_ids(["w5 w9", "nobody"], closed=False) == [5, 9, 3]
    assert one.source_ids([], closed=False) == one.source_ids([""], closed=True) == [2]
    assert one.source_ids(["</s>", "w5", "<pad>", "<s>"], closed=False) == [3, 5, 3, 3]
    assert one.target_text([5, 9, 2]) == "w5 w9"
    assert one.target_text([]) == ""
    assert one.never == {0, 1, 3, *MADE_UP}


def test_pieces_of_words_need_to_know_how_words_are_cut(codes: Path, tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    held = (tmp_path / "dict.en.txt").read_text().splitlines()
    for piece, sign in (("w@@", "byte-pair codes"), ("\u2581w", "SentencePiece model")):
        (tmp_path / "dict.en.txt").write_text("\n".join([f"{piece} 9", *held[1:]]))
        with pytest.raises(InvalidSetting, match=f"pass bpe=.*{sign}"):
            FairseqBackend.load(path)
        cut = FairseqBackend.load(path, bpe="segmented", device="cpu")
        assert cut.source_ids([f"{piece} w5"], closed=True) == [4, 5, 2]
    with pytest.raises(ModelNotFound, match=r"nowhere\.spm"):
        FairseqBackend.load(path, bpe=tmp_path / "nowhere.spm")
    by_codes = FairseqBackend.load(path, bpe=codes, device="cpu")
    assert by_codes.segmentation.pieces(["w59", "w5"]) == ["w59", "w@@", "5"]


def test_a_sentencepiece_model_goes_with_the_model(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "text").write_text("the cat sat on the mat\na dog and a cat\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "own"),
        vocab_size=TARGET - 1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    held = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "own.model"))
    symbols = [held.id_to_piece(i) for i in range(3, len(held))][: TARGET - SPECIAL]
    symbols += [f"madeupword{i:04d}" for i in range(TARGET - SPECIAL - len(symbols))]
    path = Reference(share_all_embeddings=True).write(tmp_path)
    for language in ("en", "de"):
        (tmp_path / f"dict.{language}.txt").write_text("".join(f"{s} 1\n" for s in symbols))
    convert_fairseq(path, tmp_path / "out", bpe=tmp_path / "own.model")
    (tmp_path / "own.model").unlink()
    after = FairseqBackend.load(tmp_path / "out", device="cpu")
    ids = after.source_ids(["the", "cat"], closed=True)
    assert after.source.decode(ids) == held.encode("the cat", out_type=str)
    assert after.target_text(ids) == "the cat"


# Conversion


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    (tmp_path / "codes").write_text("#version: 0.2\nw 5\nw5 9</w>\n", encoding="utf-8")
    return tmp_path / "codes"


@pytest.mark.parametrize("half", [False, True])
def test_a_converted_model_is_the_same_to_the_bit(
    both: tuple[FairseqBackend, Reference],
    half: bool,
    codes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, reference = both
    path = reference.write(tmp_path)
    if half:
        held = reference.checkpoint()
        held["model"] = {name: value.half() for name, value in held["model"].items()}
        torch.save(held, path)
    before = FairseqBackend.load(path, bpe=codes, device="cpu")
    convert_fairseq(path, tmp_path / "out", bpe=codes)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16 if half else torch.float32}

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    after = FairseqBackend.load(tmp_path / "out", device="cpu")
    assert after.name == before.name
    rows = draw_rows(random.Random(6), 4)
    assert torch.equal(begin(after, rows)[1], begin(before, rows)[1])
    assert after.network.settings == before.network.settings
    assert len(list(after.network.parameters())) == len(list(before.network.parameters()))
    assert (after.source, after.target) == (before.source, before.target)
    words = ["w59", "w5"]
    assert after.source_ids(words, closed=True) == before.source_ids(words, closed=True)
    assert (after.max_source, after.never) == (before.max_source, before.never)


def test_conversion_keeps_how_words_are_cut(tmp_path: Path) -> None:
    path = Reference().write(tmp_path)
    convert_fairseq(path, tmp_path / "plain")
    convert_fairseq(path, tmp_path / "cut", bpe="segmented")
    assert FairseqFiles.restore(tmp_path / "plain").bpe is None
    assert FairseqFiles.restore(tmp_path / "cut").bpe == "segmented"


def test_conversion_writes_all_or_nothing(tmp_path: Path) -> None:
    path = Reference().write(tmp_path / "in")
    out = tmp_path / "out"
    with pytest.raises(ModelNotFound, match="nowhere"):
        convert_fairseq(path, out, bpe=tmp_path / "nowhere")
    with pytest.raises(CorruptState, match="source dictionary"):
        convert_fairseq(path, out, src_dict=tmp_path / "in" / "dict.de.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(InvalidSetting, match="not empty"):
        convert_fairseq(path, out)
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_converted_model_brings_its_own_files(tmp_path: Path) -> None:
    convert_fairseq(Reference().write(tmp_path), tmp_path / "out")
    with pytest.raises(InvalidSetting, match="leave out src_dict"):
        FairseqBackend.load(tmp_path / "out", bpe="segmented")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        FairseqBackend.load(tmp_path / "empty")


def test_a_damaged_conversion_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert_fairseq(Reference(share_all_embeddings=True).write(tmp_path), out)
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:-5])
    with pytest.raises(CorruptState, match="cannot be read"):
        FairseqBackend.load(out)
    weights = load_file_bytes(whole, tmp_path)
    weights["encoder.layers.0.fc1.bias"] += 1
    save_file(weights, out / "model.safetensors")
    with pytest.raises(CorruptState, match="not those of fairseq:checkpoint_best@"):
        FairseqBackend.load(out)
    (out / "model.safetensors").write_bytes(whole)
    kept = json.loads((out / "config.json").read_bytes())
    assert kept["same"]
    for change in (
        {"model_type": "llama"},
        {"format": 2},
        {"name": "fairseq:x"},
        {"name": None},
        {"bpe": "../codes"},
        {"bpe": ["x"]},
        {"same": {"a": "b"}},
        {"same": []},
        {"network": None},
        {"network": {}},
        {"network": kept["network"] | {"scaled": 1}},
        {"network": kept["network"] | {"encoder": []}},
        {"network": kept["network"] | {"encoder": {"layers": 0, "heads": 1, "pre_norm": True}}},
        {"network": kept["network"] | {"activation": "sine"}},
        {"network": kept["network"] | {"max_source": -1}},
    ):
        (out / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(CorruptState):
            FairseqBackend.load(out)
    for text in ("", "[]", "{", "[" * 100_000, "\xff"):
        (out / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CorruptState):
            FairseqBackend.load(out)
    (out / "config.json").write_text(json.dumps(kept))
    assert FairseqBackend.load(out).vocab_size == TARGET


def load_file_bytes(content: bytes, folder: Path) -> dict[str, Tensor]:
    (folder / "copy.safetensors").write_bytes(content)
    return load_file(folder / "copy.safetensors")
