"""Folders with Marian models: saved and loaded, damaged, or of another kind."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound
from psfuture.bergamot import BergamotBackend, convert_bergamot
from psfuture.bergamot_network import BergamotNetwork
from psfuture.marian_options import MarianOptions

from .marian_models import (
    KINDS,
    Tensors,
    archive,
    binary,
    options_of,
    quantised,
    random_weights,
    vocabulary,
    write_model,
)

ROWS = [([5, 6, 7], [9]), ([8], [4, 11, 12])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {kind: tmp_path_factory.mktemp("model") for kind in KINDS}
    for kind, folder in found.items():
        write_model(folder, kind)
    return found


@pytest.fixture
def saved(folders: dict[str, Path], tmp_path: Path) -> BergamotBackend:
    """Saved in `tmp_path`."""
    backend = BergamotBackend.load(folders["ssru"])
    backend.save(tmp_path)
    return backend


def logits_of(backend: BergamotBackend) -> torch.Tensor:
    return backend.begin(backend.encode([s for s, _ in ROWS]), [t for _, t in ROWS])[1]


# Files


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_saved_is_loaded(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    backend = BergamotBackend.load(folders[kind])
    backend.save(tmp_path / "out")
    again = BergamotBackend.load(tmp_path / "out")
    assert torch.equal(logits_of(again), logits_of(backend))
    assert again.name == backend.name
    assert again.name.startswith("bergamot:xxyy@")
    assert again.vocabularies == backend.vocabularies


def test_a_trained_model_has_another_name_and_can_be_saved_over(
    saved: BergamotBackend, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(saved.network.parameters()).mul_(1.5)
    saved.save(tmp_path)
    again = BergamotBackend.load(tmp_path)
    assert again.name != saved.name  # which is that of the weights it was loaded with
    weights, wanted = again.network.weights(), saved.network.weights()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    again.save(tmp_path / "third")
    assert BergamotBackend.load(tmp_path / "third").name == again.name


def test_conversion_keeps_dequantised_weights(tmp_path: Path) -> None:
    stored, multipliers, meant = quantised(random_weights(options_of()))
    (tmp_path / "model.bin").write_bytes(binary(stored, options_of(), multipliers))
    (tmp_path / "vocab.spm").write_bytes(vocabulary())
    convert_bergamot(tmp_path, tmp_path / "out")
    found = BergamotBackend.load(tmp_path / "out").network.weights()
    assert found.keys() == meant.keys()
    for name, value in meant.items():
        np.testing.assert_array_equal(found[name].numpy(), value.reshape(found[name].shape))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.safetensors", "vocabulary.spm"]


def test_conversion_of_what_cannot_be_read_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    (tmp_path / "vocab.spm").write_bytes(vocabulary())
    with pytest.raises(CorruptState):
        convert_bergamot(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_arrays_is_a_model_too(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = random_weights(options_of())
    (tmp_path / "model.npz").write_bytes(archive(weights, options_of()))
    (tmp_path / "vocab.spm").write_bytes(vocabulary())
    found, wanted = (BergamotBackend.load(f).name for f in (tmp_path, folders["ssru"]))
    assert found.partition("@")[2] == wanted.partition("@")[2]


def test_two_vocabularies_are_told_apart_by_their_names(tmp_path: Path) -> None:
    write_model(tmp_path, "untied")
    (tmp_path / "vocab.xxyy.spm").rename(tmp_path / "trgvocab.xxyy.spm")
    (tmp_path / "srcvocab.xxyy.spm").write_bytes(vocabulary(1))
    backend = BergamotBackend.load(tmp_path)
    assert backend.vocabularies[0] != backend.vocabularies[1]
    backend.save(tmp_path / "out")
    assert BergamotBackend.load(tmp_path / "out").vocabularies == backend.vocabularies
    (tmp_path / "srcvocab.xxyy.spm").rename(tmp_path / "other.spm")
    with pytest.raises(ModelNotFound, match="src and trg"):
        BergamotBackend.load(tmp_path)


@pytest.mark.parametrize(
    "damage", ["weights", "digest", "json", "format", "options", "nan", "list"]
)
def test_a_damaged_save_is_refused(saved: BergamotBackend, tmp_path: Path, damage: str) -> None:
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    told = json.loads(config.read_bytes())
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "digest":  # the last weight's last bit
        content = weights.read_bytes()
        weights.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    elif damage == "nan":
        with torch.no_grad():
            next(saved.network.parameters()).fill_(torch.nan)
        saved.save(tmp_path)
    elif damage == "json":
        config.write_bytes(b"{")
    elif damage == "list":
        config.write_bytes(b"[]")
    else:
        config.write_text(json.dumps(told | {damage: None}))
    with pytest.raises(CorruptState, match=str(tmp_path)):
        BergamotBackend.load(tmp_path)


# What does not belong together


def change(weights: Tensors, options: dict[str, Any], folder: Path) -> Path:
    (folder / "model.bin").write_bytes(binary(weights, options))
    (folder / "vocab.spm").write_bytes(vocabulary())
    return folder


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_missing_weight_is_named(kind: str, folders: dict[str, Path]) -> None:
    network = BergamotBackend.load(folders[kind]).network
    weights = network.weights()
    for name in weights:
        rest = {other: value for other, value in weights.items() if other != name}
        with pytest.raises(CorruptState, match=f"{name}\\b"):
            BergamotNetwork(rest, network.options)


@pytest.mark.parametrize(
    "name",
    ["encoder_l2_self_Wq", "decoder_l1_rnn_bf", "encoder_l1_ffn_W2", "decoder_ff_logit_out_b"],
)
def test_a_weight_of_another_shape_is_named(name: str, tmp_path: Path) -> None:
    weights = random_weights(options_of())
    weights[name] = np.ascontiguousarray(weights[name][:, :-1])
    with pytest.raises(CorruptState, match=f"{name} is .*must be"):
        BergamotBackend.load(change(weights, options_of(), tmp_path))


def test_a_matrix_is_not_taken_for_its_transpose(tmp_path: Path) -> None:
    weights = random_weights(options_of())
    weights["encoder_l1_ffn_W1"] = np.ascontiguousarray(weights["encoder_l1_ffn_W1"].T)
    with pytest.raises(CorruptState, match=r"\(24, 16\), it must be \(16, 24\)"):
        BergamotBackend.load(change(weights, options_of(), tmp_path))


def test_weights_of_unknown_use_are_refused(tmp_path: Path) -> None:
    weights = random_weights(options_of()) | {"decoder_l3_rnn_W": np.ones((16, 16), np.float32)}
    with pytest.raises(InvalidSetting, match="decoder_l3_rnn_W"):
        BergamotBackend.load(change(weights, options_of(), tmp_path))


def test_scales_of_activations_are_left_alone(tmp_path: Path) -> None:
    scale = {"encoder_l1_self_Wq_QuantMultA": np.ones((1, 1), np.float32)}
    BergamotBackend.load(change(random_weights(options_of()) | scale, options_of(), tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "s2s"),
        ("transformer-decoder-autoreg", "average-attention"),
        ("dec-cell", "sru"),
        ("layer-normalization", "true"),
        ("right-left", "true"),
        ("transformer-preprocess", "nh"),
        ("transformer-postprocess", "dhn"),
        ("transformer-postprocess-emb", "a"),
        ("transformer-postprocess-top", "x"),
        ("transformer-ffn-activation", "tanh"),
        ("transformer-no-projection", "true"),
        ("transformer-pool", "true"),
        ("transformer-rnn-projection", "true"),
        ("transformer-tied-layers", [1, 1]),
        ("transformer-train-position-embeddings", "true"),
        ("transformer-train-positions", "true"),
        ("input-types", ["class"]),
        ("lemma-dim-emb", "64"),
        ("ulr", "true"),
        ("tied-embeddings-all", "maybe"),
    ],
)
def test_another_kind_of_network_is_refused_by_its_option(
    name: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSetting, match=f"{name} is "):
        BergamotBackend.load(
            change(random_weights(options_of()), options_of() | {name: value}, tmp_path)
        )


@pytest.mark.parametrize("name", ["dim-emb", "enc-depth", "dec-depth", "transformer-heads"])
@pytest.mark.parametrize("value", [None, "0", "-1", "many", "1e9", "9" * 12])
def test_a_size_must_be_a_number(name: str, value: str | None) -> None:
    options = {key: str(given) for key, given in options_of().items() if key != name}
    with pytest.raises(CorruptState, match=name):
        MarianOptions.read(options | ({} if value is None else {name: value}))


@pytest.mark.parametrize("heads_and_width", [("3", "16"), ("1", "15"), ("1", "2")])
def test_a_width_must_fit_the_heads_and_the_positions(heads_and_width: tuple[str, str]) -> None:
    heads, width = heads_and_width
    options = {key: str(given) for key, given in options_of().items()}
    with pytest.raises(CorruptState, match="width"):
        MarianOptions.read(options | {"transformer-heads": heads, "dim-emb": width})


def test_a_depth_beyond_the_weights_is_refused_at_once(tmp_path: Path) -> None:
    weights = random_weights(options_of())
    with pytest.raises(CorruptState, match="encoder_l3"):
        BergamotBackend.load(change(weights, options_of(enc_depth="999999999"), tmp_path))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_vocabulary_must_be_one(tmp_path: Path, content: bytes) -> None:
    write_model(tmp_path)
    (tmp_path / "vocab.xxyy.spm").write_bytes(content)
    with pytest.raises(CorruptState, match=r"vocab.xxyy.spm"):
        BergamotBackend.load(tmp_path)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    weights, options = random_weights(options_of()), options_of()
    weights["Wemb"] = weights["Wemb"][:-1].copy()
    weights["decoder_ff_logit_out_b"] = weights["decoder_ff_logit_out_b"][:, :-1].copy()
    with pytest.raises(CorruptState, match=r"60 pieces.*59"):
        BergamotBackend.load(change(weights, options, tmp_path))


def test_a_folder_must_hold_one_model_and_its_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="0 models"):
        BergamotBackend.load(tmp_path)
    write_model(tmp_path)
    (tmp_path / "lex.50.50.xxyy.s2t.bin").write_bytes(b"a shortlist is left alone")
    BergamotBackend.load(tmp_path)
    (tmp_path / "other.npz").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="2 models"):
        BergamotBackend.load(tmp_path)
    (tmp_path / "other.npz").unlink()
    (tmp_path / "vocab.xxyy.spm").unlink()
    with pytest.raises(ModelNotFound, match="spm"):
        BergamotBackend.load(tmp_path)


def test_damaged_files_are_refused_or_read(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = (folders["ssru"] / "model.xxyy.intgemm.alphas.bin").read_bytes()
    rng = random.Random(0)
    (tmp_path / "vocab.spm").write_bytes(vocabulary())
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(6000 if rng.random() < 0.7 else len(whole))] ^= rng.randrange(256)
        (tmp_path / "model.bin").write_bytes(damaged)
        try:
            BergamotBackend.load(tmp_path)
        except (CorruptState, InvalidSetting):
            pass
