import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lipogram.analytic import features as extraction
from lipogram.analytic.backbones import wrap_backbone
from lipogram.analytic.feature_store import INDEX
from lipogram.analytic.features import FeatureStore, extract
from lipogram.analytic.images import ArrayImages
from lipogram.errors import (
    BrokenImage,
    CorruptState,
    FolderInUse,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidSetting,
)

N, SIDE = 50, 6


def collection(n=N, seed=0, broken=()):
    """Random images of four classes, of which some cannot be decoded."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)

    class SomeBroken(ArrayImages):
        loads = 0

        def load(self, i):
            SomeBroken.loads += 1
            if i in broken:
                raise BrokenImage(f"{i}: cannot be decoded")
            return super().load(i)

    return SomeBroken("random", pixels, np.arange(n) % 4, list("abcd"))


def backbone(name="flat", scale=1.0):
    """The pixels themselves in [0, scale], so that every feature is known."""
    return wrap_backbone(lambda x: x.flatten(1) * scale, 3 * SIDE**2, name, image_size=SIDE)


def expected(images, rows):
    pixels = images.pixels[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3 * SIDE**2)
    return pixels.astype(np.float32) / np.float32(255)


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.name != ".lock"}


@pytest.fixture
def store(tmp_path):
    """A finished store of four shards, the last of them short."""
    extract(backbone(), collection(), tmp_path / "store", shard_rows=16, batch_size=5)
    return tmp_path / "store"


def test_features_labels_and_identifiers(tmp_path):
    images = collection()
    store = extract(backbone(), images, tmp_path, shard_rows=16, batch_size=5)
    assert (store.n, len(store), store.d, store.skipped) == (N, N, 3 * SIDE**2, [])
    assert np.array_equal(store.features(), expected(images, np.arange(N)))
    assert store.features().dtype == np.float32
    assert np.array_equal(store.labels, images.labels)
    assert store.labels.dtype == np.int64
    assert (store.ids, store.class_names) == (images.ids, list("abcd"))
    assert store.backbone["name"] == "flat"
    assert store.backbone["fingerprint"] == backbone().fingerprint
    assert len(list(tmp_path.glob("shard-*"))) == 4


def test_broken_images_are_left_out_and_listed(tmp_path):
    broken = [0, 17, 18, 49, *range(32, 48)]  # a whole shard among them
    images = collection(broken=broken)
    store = extract(backbone(), images, tmp_path, shard_rows=16, batch_size=5)
    kept = [i for i in range(N) if i not in broken]
    assert [entry["id"] for entry in store.skipped] == [str(i) for i in sorted(broken)]
    assert {entry["reason"] for entry in store.skipped} == {"cannot be decoded"}
    assert store.ids == [str(i) for i in kept]
    assert np.array_equal(store.features(), expected(images, kept))
    assert np.array_equal(store.labels, images.labels[kept])


def test_nothing_at_all_is_a_store_too(tmp_path):
    for n, broken in ((0, ()), (3, (0, 1, 2))):
        store = extract(backbone(), collection(n, broken=broken), tmp_path / str(n))
        assert store.features().shape == (0, 3 * SIDE**2)
        assert len(store.skipped) == n


def test_a_second_extraction_only_opens(store):
    images = collection()
    before = contents(store)
    again = extract(backbone(), images, store, shard_rows=16)
    assert type(images).loads == 0
    assert again.n == N
    assert contents(store) == before


@pytest.mark.parametrize("stop_at", [0, 1, 17, 33, 49])
def test_an_interrupted_extraction_resumes_byte_for_byte(stop_at, tmp_path):
    options = {"shard_rows": 16, "batch_size": 5}
    extract(backbone(), collection(broken=[3, 40]), tmp_path / "whole", **options)

    class Stopping(type(collection())):
        def load(self, i):
            if i == stop_at:
                raise KeyboardInterrupt
            if i in (3, 40):
                raise BrokenImage(f"{i}: cannot be decoded")
            return ArrayImages.load(self, i)

    whole = collection()
    stopping = Stopping("random", whole.pixels, whole.labels, list("abcd"))
    with pytest.raises(KeyboardInterrupt):
        extract(backbone(), stopping, tmp_path / "parts", **options)
    done = len(list((tmp_path / "parts").glob("shard-*")))
    assert done == stop_at // 16
    if done:
        with pytest.raises(CorruptState, match="run it again"):
            FeatureStore.open(tmp_path / "parts")
        partial = FeatureStore.open(tmp_path / "parts", partial=True)
        assert partial.n == 16 * done - sum(i < 16 * done for i in (3, 40))
    resumed = collection(broken=[3, 40])
    extract(backbone(), resumed, tmp_path / "parts", **options)
    assert type(resumed).loads == N - 16 * done
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


SLOW_EXTRACTION = """
    import sys, time
    import numpy as np
    from lipogram.analytic.backbones import wrap_backbone
    from lipogram.analytic.features import extract
    from lipogram.analytic.images import ArrayImages

    class Slow(ArrayImages):
        def load(self, i):
            time.sleep(float(sys.argv[2]))
            return super().load(i)

    pixels = np.random.default_rng(0).integers(0, 256, (120, 4, 4, 3), np.uint8)
    images = Slow("slow", pixels, np.arange(120) % 3, list("abc"))
    flat = wrap_backbone(lambda x: x.flatten(1), 48, "flat", image_size=4)
    print("ready", flush=True)
    extract(flat, images, sys.argv[1], shard_rows=4, batch_size=3, workers=1)
"""


def test_kill_9_during_extraction_loses_no_finished_shard(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SLOW_EXTRACTION))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(folder, seconds):
        return subprocess.Popen(
            [sys.executable, script, tmp_path / folder, str(seconds)],
            env=environment,
            stdout=subprocess.PIPE,
        )

    whole = start("whole", 0)
    finished = 0
    for kills in range(2):
        process = start("killed", 0.01)
        assert process.stdout.readline() == b"ready\n"
        while len(list((tmp_path / "killed").glob("shard-*"))) < finished + 3 + kills:
            assert process.poll() is None
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
        index = json.loads((tmp_path / "killed" / INDEX).read_text())
        assert not index["complete"]
        assert len(index["shards"]) > finished
        finished = len(index["shards"])
        partial = FeatureStore.open(tmp_path / "killed", partial=True)
        assert partial.n == 4 * finished
    assert start("killed", 0).wait(timeout=120) == 0
    assert whole.wait(timeout=120) == 0
    left = contents(tmp_path / "killed")
    for name in [name for name in left if name.endswith(".tmp")]:
        del left[name]
    assert left == contents(tmp_path / "whole")


def test_another_process_in_the_folder_is_reported(store):
    from filelock import FileLock

    with FileLock(store / ".lock"), pytest.raises(FolderInUse, match="process is extracting"):
        extract(backbone(), collection(), store, shard_rows=16)
    with FileLock(store / ".lock"), pytest.raises(FolderInUse, match=r"has been .* for 0\.3 s"):
        extract(backbone(), collection(), store, shard_rows=16, wait_seconds=0.3)


def test_another_process_in_the_folder_is_waited_for(tmp_path, monkeypatch):
    """Its lock goes with it, even where it is killed, and what it left is finished."""
    ours, said = tmp_path / "store", []
    ours.mkdir()
    monkeypatch.setattr(extraction, "say", said.append)
    code = (
        "import sys, time; from filelock import FileLock;"
        "lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(ours / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        timer = threading.Timer(0.5, holder.kill)
        timer.start()
        store = extract(backbone(), collection(), ours, workers=1, wait_seconds=60)
        timer.join()
    assert store.n == N
    assert said == [f"another process is extracting into {ours}: waiting for it"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone": backbone("other")}, "backbone: flat"),
        ({"images": collection(seed=1)}, "images: random"),
        ({"images": collection(N + 1)}, "images: random"),
        ({"dtype": "float16"}, "dtype: float32, not float16"),
        ({"shard_rows": 8}, "shard_rows: 16, not 8"),
    ],
)
def test_a_store_of_something_else_is_refused_and_kept(change, named, store):
    asked = {"backbone": backbone(), "images": collection(), "shard_rows": 16, **change}
    before = contents(store)
    with pytest.raises(IncompatibleFeatures, match=named):
        extract(asked.pop("backbone"), asked.pop("images"), store, **asked)
    assert contents(store) == before


def test_changed_weights_under_the_same_name_are_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 2))

    def named():
        return wrap_backbone(model, 2, "linear", image_size=SIDE)

    extract(named(), collection(), tmp_path)
    extract(named(), collection(), tmp_path)
    with torch.no_grad():
        model[1].bias += 1e-3
    with pytest.raises(IncompatibleFeatures, match="linear"):
        extract(named(), collection(), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value, tmp_path):
    bad = wrap_backbone(lambda x: torch.full((len(x), 2), value), 2, "bad", image_size=SIDE)
    with pytest.raises(InvalidFeatures, match="NaN or infinity"):
        extract(bad, collection(), tmp_path)
    assert not (tmp_path / INDEX).exists()


def test_features_too_large_for_half_precision_are_refused(tmp_path):
    large = backbone("large", scale=1e6)
    with pytest.raises(InvalidFeatures, match=r"1e\+06 does not fit float16; store bfloat16"):
        extract(large, collection(), tmp_path / "half", dtype="float16")
    extract(large, collection(), tmp_path / "brain", dtype="bfloat16")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"shard_rows": 0}, {"workers": 0}])
def test_sizes_are_checked(wrong, tmp_path):
    with pytest.raises(InvalidSetting, match=f"{next(iter(wrong))} is 0"):
        extract(backbone(), collection(), tmp_path, **wrong)
    with pytest.raises(InvalidSetting, match="float64"):
        extract(backbone(), collection(), tmp_path, dtype="float64")


def test_few_images_are_held_at_a_time(tmp_path, monkeypatch):
    """Decoding runs at most a few batches ahead of what is on disk."""
    images = collection(400)
    ahead = []

    def counting(folder, i, x, *rest):
        ahead.append(type(images).loads - 8 * i)
        return write(folder, i, x, *rest)

    write = extraction.write_shard
    monkeypatch.setattr(extraction, "write_shard", counting)
    extract(backbone(), images, tmp_path, batch_size=8, workers=2, shard_rows=8)
    assert len(ahead) == 50
    assert max(ahead) <= 8 * (1 + 2 + 1)


def threads_of_a_new_thread():
    """What torch uses from now on; a thread that already ran keeps its own number."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_number_of_workers_changes_no_byte_and_no_setting(tmp_path, request):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 20)
    )
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(3)
    for workers in (1, 2, 3):
        flat = wrap_backbone(model, 20, "convolution", image_size=SIDE)
        extract(
            flat, collection(broken=[5]), tmp_path / str(workers), workers=workers, batch_size=7
        )
        assert threads_of_a_new_thread() == torch.get_num_threads() == 3
    first, *others = (contents(tmp_path / str(workers)) for workers in (1, 2, 3))
    assert all(other == first for other in others)


@pytest.mark.parametrize(("terminal", "wanted"), [(True, True), (True, False), (False, True)])
def test_a_bar_only_on_a_terminal(terminal, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich would draw a bar into a file, too
    extract(backbone(), collection(), tmp_path, progress=wanted)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("extracting features" in err) == (terminal and wanted)


def test_the_public_names():
    assert extraction.__all__ == ["FeatureStore", "extract"]
