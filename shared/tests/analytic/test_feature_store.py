import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lipogram.analytic.backbones import wrap_backbone
from lipogram.analytic.feature_store import INDEX, mapped
from lipogram.analytic.features import FeatureStore, extract
from lipogram.analytic.images import ArrayImages
from lipogram.errors import (
    CorruptState,
    MissingAsset,
)

N, SIDE = 50, 6


def collection():
    """Random images of four classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    return ArrayImages("random", pixels, np.arange(N) % 4, list("abcd"))


def backbone(name="flat", scale=1.0):
    """The pixels themselves in [0, scale], so that every feature is known."""
    return wrap_backbone(lambda x: x.flatten(1) * scale, 3 * SIDE**2, name, image_size=SIDE)


def expected(images, rows):
    pixels = images.pixels[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3 * SIDE**2)
    return pixels.astype(np.float32) / np.float32(255)


@pytest.fixture
def store(tmp_path):
    """A finished store of four shards, the last of them short."""
    extract(backbone(), collection(), tmp_path / "store", shard_rows=16, batch_size=5)
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("dtype", "epsilon"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_every_dtype_comes_back_as_float32(dtype, epsilon, tmp_path):
    images = collection()
    store = extract(backbone(), images, tmp_path, dtype=dtype)
    truth = expected(images, np.arange(N))
    assert store.features().dtype == np.float32
    assert np.abs(store.features() - truth).max() <= epsilon
    if epsilon:
        assert np.abs(store.features() - truth).max() > epsilon / 16
    assert store.dtype == dtype


@settings(max_examples=20)
@given(
    order=st.lists(st.integers(0, N - 1), max_size=80),
    size=st.integers(1, 60),
)
def test_rows_come_in_any_order_asked_for(order, size, tmp_path_factory):
    images = collection()
    folder = tmp_path_factory.getbasetemp() / "any-order"
    store = extract(backbone(), images, folder, shard_rows=16)
    assert np.array_equal(store.rows(order), expected(images, order))
    batches = list(store.batches(order, size=size))
    assert all(len(x) == len(y) <= size for x, y in batches)
    if order:
        assert np.array_equal(np.concatenate([x for x, _ in batches]), expected(images, order))
        assert np.concatenate([y for _, y in batches]).tolist() == [i % 4 for i in order]
    assert sum(len(x) for x, _ in store.batches(size=size)) == N


def test_rows_outside_are_an_error(store):
    opened = FeatureStore.open(store)
    for wrong in ([N], [-1]):
        with pytest.raises(IndexError, match=f"store of {N} rows"):
            opened.rows(wrong)


def test_reading_rows_maps_the_file_and_does_not_load_it(tmp_path):
    """A shard of 115 MB that is held open, with a few of its rows read, must not fill memory."""
    psutil = pytest.importorskip("psutil")
    wide = wrap_backbone(lambda x: x.flatten(1).repeat(1, 300), 900, "wide", image_size=1)
    images = ArrayImages("dots", np.zeros((32_000, 1, 1), np.uint8), np.zeros(32_000), ["a"])
    extract(wide, images, tmp_path, shard_rows=32_000, batch_size=2000)
    (file,) = tmp_path.glob("shard-*")
    assert file.stat().st_size > 110e6
    process = psutil.Process()

    def private():
        memory = process.memory_info()
        return memory.rss - memory.shared

    before = private()
    x = mapped(file)
    assert float(x[::4000].sum()) == 0
    assert private() - before < 20e6
    assert len(x) == 32_000


def edit(store, change):
    """Change the index of a store as `change` does."""
    content = json.loads((store / INDEX).read_text())
    change(content)
    (store / INDEX).write_text(json.dumps(content))


def flip(file, at=-1):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: flip(store / "shard-00001.safetensors"),
        lambda store: (store / "shard-00002.safetensors").unlink(),
        lambda store: os.truncate(store / "shard-00000.safetensors", 100),
        lambda store: shutil.copy(
            store / "shard-00000.safetensors", store / "shard-00001.safetensors"
        ),
        lambda store: (store / INDEX).write_text("{"),
        lambda store: (store / INDEX).write_text("[" * 100_000),
        lambda store: (store / INDEX).write_bytes(b"\x80\x04K\x01."),
        lambda store: (store / INDEX).write_text("[]"),
        lambda store: edit(store, lambda index: index.update(schema="lipogram.features/9")),
        lambda store: edit(store, lambda index: index.pop("layout")),
        lambda store: edit(store, lambda index: index["layout"].pop("d")),
        lambda store: edit(store, lambda index: index["layout"].update(d=-1)),
        lambda store: edit(store, lambda index: index["layout"].update(d=10**9)),
        lambda store: edit(store, lambda index: index["layout"].update(dtype="object")),
        lambda store: edit(store, lambda index: index["layout"].update(class_names="abcd")),
        lambda store: edit(store, lambda index: index["layout"].update(class_names=["a"])),
        lambda store: edit(store, lambda index: index["layout"].update(backbone="flat")),
        lambda store: edit(store, lambda index: index.update(shards={})),
        lambda store: edit(store, lambda index: index.update(shards=[1])),
        lambda store: edit(store, lambda index: index.update(shards=[])),
        lambda store: edit(store, lambda index: index["shards"].pop()),
        lambda store: edit(store, lambda index: index.update(complete=1)),
        lambda store: edit(store, lambda index: index["shards"].reverse()),
        lambda store: edit(store, lambda index: index["shards"][0].update(rows=15)),
        lambda store: edit(store, lambda index: index["shards"][0].update(rows=True)),
        lambda store: edit(store, lambda index: index["shards"][0].update(bytes=1)),
        lambda store: edit(store, lambda index: index["shards"][0].update(sha256="0" * 64)),
        lambda store: edit(store, lambda index: index["shards"][0].update(extra=1)),
    ],
)
def test_a_damaged_or_hostile_store_is_a_typed_error(damage, store):
    damage(store)
    with pytest.raises(CorruptState, match=str(store)):
        FeatureStore.open(store)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "shard-00000.safetensors/../x", "", 7]
)
def test_shard_names_cannot_lead_out_of_the_folder(name, store):
    shutil.copy(store / "shard-00000.safetensors", store.parent / "secret.safetensors")
    edit(store, lambda index: index["shards"][0].update(file=name))
    with pytest.raises(CorruptState, match="names shard 0"):
        FeatureStore.open(store)
    with pytest.raises(CorruptState, match="names shard 0"):
        extract(backbone(), collection(), store, shard_rows=16)


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ({"x": torch.zeros(16, 108)}, None),
        ({"x": torch.zeros(16, 108), "y": torch.zeros(16)}, None),
        ({"x": torch.zeros(16, 108).half(), "y": torch.zeros(16, dtype=torch.int64)}, None),
        ({"x": torch.zeros(16, 107), "y": torch.zeros(16, dtype=torch.int64)}, None),
        ({"x": torch.zeros(16, 108), "y": torch.full((16,), 4)}, None),
        ({"x": torch.zeros(16, 108), "y": torch.full((16,), -1)}, None),
        ({"x": torch.zeros(16, 108), "y": torch.zeros(16, dtype=torch.int64)}, "[]"),
        ({"x": torch.zeros(16, 108), "y": torch.zeros(16, dtype=torch.int64)}, '{"ids": ["a"]}'),
        (
            {"x": torch.zeros(16, 108), "y": torch.zeros(16, dtype=torch.int64)},
            json.dumps({"ids": ["a"] * 15, "skipped": []}),
        ),
        (
            {"x": torch.zeros(16, 108), "y": torch.zeros(16, dtype=torch.int64)},
            json.dumps({"ids": ["a"] * 16, "skipped": [{"id": 3}]}),
        ),
        (None, None),
    ],
)
def test_a_hostile_shard_with_a_true_hash_is_refused(tensors, rows, store):
    good = json.dumps({"ids": ["a"] * 16, "skipped": []})
    content = b"no tensors" * 9 if tensors is None else save(tensors, {"rows": rows or good})
    (store / "shard-00000.safetensors").write_bytes(content)
    edit(
        store,
        lambda index: index["shards"][0].update(
            bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        ),
    )
    with pytest.raises(CorruptState, match="shard-00000"):
        FeatureStore.open(store)


def test_a_damaged_store_is_not_built_upon(store):
    flip(store / "shard-00001.safetensors")
    edit(store, lambda index: index.update(complete=False))
    with pytest.raises(CorruptState, match="delete"):
        extract(backbone(), collection(), store, shard_rows=16)


def test_an_empty_folder_is_no_store(tmp_path):
    with pytest.raises(MissingAsset, match="holds no features"):
        FeatureStore.open(tmp_path)
