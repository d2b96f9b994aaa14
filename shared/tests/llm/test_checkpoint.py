import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lipogram.errors import (
    CorruptState,
    LipogramError,
    ModelNotFound,
    NotFinite,
    UnsafeCheckpoint,
)
from lipogram.llm.loading import load_model, load_tokenizer
from lipogram.llm.tiny import tiny_random

IDS = torch.tensor([[80, 81, 82, 83]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_random("llama", layers=2)
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.model.save_pretrained(path)
    tiny.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | settings))


def pickled(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def test_pickles_are_refused_unless_allowed(folder: Path, whole: Path):
    pickled(folder)
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_model\.bin.*bin_weights"):
        load_model(folder)
    ours, theirs = load_model(folder, bin_weights=True).model, load_model(whole).model
    with torch.inference_mode():
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)


def test_allowed_pickles_run_nothing(folder: Path, tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(CorruptState, match="cannot be read"):
        load_model(folder, bin_weights=True)
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_taken_where_pickles_lie_beside_them(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04hostile")
    for allowed in (False, True):
        assert load_model(folder, bin_weights=allowed).info.source == "folder"


def test_no_weights(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="holds no weights"):
        load_model(folder)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9999])
def test_truncated_weights(folder: Path, part: float):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CorruptState, match=r"model\.safetensors is truncated"):
        load_model(folder)


def test_lost_weights_are_never_made_up(folder: Path):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CorruptState, match=r"1 tensors .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


def test_weights_of_another_shape(folder: Path):
    change(folder / "config.json", intermediate_size=80)
    with pytest.raises(CorruptState, match="cannot be read"):
        load_model(folder)


def test_shards(folder: Path, whole: Path):
    model = load_model(whole).model
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="60KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    with torch.inference_mode():
        assert torch.equal(load_model(folder).model(IDS).logits, model(IDS).logits)
    index = folder / "model.safetensors.index.json"
    shards[1].rename(folder / "elsewhere")
    with pytest.raises(CorruptState, match=shards[1].name):
        load_model(folder)
    change(index, weight_map={"model.norm.weight": "../tiny/elsewhere"})
    with pytest.raises(CorruptState, match="names files that are not there"):
        load_model(folder)
    for broken in ({}, [], "x", None):
        change(index, weight_map=broken)
        with pytest.raises(CorruptState, match="index"):
            load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weight_that_is_not_finite_is_named(folder: Path, value: float):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        load_model(folder)


def test_code_of_its_own_is_never_run(folder: Path, tmp_path: Path):
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto = {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    # transformers has a llama, so the code beside it is not needed.
    change(folder / "config.json", auto_map=auto)
    assert load_model(folder).info.model_type == "llama"
    change(folder / "config.json", model_type="own")
    with pytest.raises(UnsafeCheckpoint, match="needs code of its own"):
        load_model(folder)
    change(folder / "config.json", model_type="llama", auto_map=None)
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["modeling_own.Own", None]},
    )
    with pytest.raises(UnsafeCheckpoint, match=r"tokenizer .* needs code"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_architecture_that_transformers_does_not_know(folder: Path):
    change(folder / "config.json", model_type="none-such")
    with pytest.raises(CorruptState, match="knows no model of type 'none-such'"):
        load_model(folder)


def test_model_and_adapter_in_one_folder(folder: Path):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    with pytest.raises(CorruptState, match="two folders"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_broken_settings(folder: Path, content: bytes):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CorruptState, match=r"config\.json"):
        load_model(folder)


def test_broken_or_missing_tokenizer(folder: Path, whole: Path):
    (folder / "tokenizer.json").write_bytes(b'{"model": {"type": "none"}}')
    with pytest.raises(CorruptState, match="tokenizer"):
        load_model(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelNotFound, match="pass tokenizer="):
        load_model(folder)
    own = load_tokenizer(whole)
    assert load_model(folder, tokenizer=own).tokenizer is own


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 2), max_size=2),
    st.just({}),
)
KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "hidden_act",
    "num_key_value_heads",
    "rope_parameters",
    "vocab_size",
    "pad_token_id",
    "dtype",
    "architectures",
    "rms_norm_eps",
    "tie_word_embeddings",
    "auto_map",
    "quantization_config",
    "layer_types",
)


@given(key=st.sampled_from(KEYS), value=VALUES)
def test_settings_changed_at_random_load_or_raise_ours(whole: Path, key: str, value: object):
    path = whole / "config.json"
    before = path.read_bytes()
    try:
        change(path, **{key: value})
        with suppress(LipogramError):
            load_model(whole)
    finally:
        path.write_bytes(before)
