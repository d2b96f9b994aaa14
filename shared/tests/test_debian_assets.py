import gzip
import hashlib
import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lipogram import assets
from lipogram.assets import Asset, DebianPackage, archives, locate, table
from lipogram.assets import fetch as fetching
from lipogram.assets.verify import tree_digest
from lipogram.errors import AssetMismatch, MissingAsset

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
def clips(tmp_path, monkeypatch):
    """An asset of Debian, installed nowhere."""
    source = DebianPackage("toy-clips", str(tmp_path / "usr/share/clips"), ".png", {})
    asset = Asset("clips", "Clips", "MIT", source, 1, tree=(tree_of(PICTURES), len(PICTURES)))
    monkeypatch.setattr(locate, "ASSETS", {"clips": asset})
    return asset


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
        archives.unpack_deb(
            tmp_path / "toy.deb", clips.source.folder, clips.source.wanted, tmp_path / "out"
        )
    monkeypatch.setattr(archives.shutil, "which", lambda name: "/usr/bin/dpkg-deb")
    archives.unpack_deb(
        tmp_path / "toy.deb", clips.source.folder, clips.source.wanted, tmp_path / "out"
    )
    assert tree_digest(tmp_path / "out", clips.source.wanted) == (tree_of(PICTURES), 3)


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
    assert tree_digest(assets.get("clips"), pinned.source.wanted)[1] == 3


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
        archives.unpack_deb(path, clips.source.folder, clips.source.wanted, target)
    assert {file for file in tmp_path.rglob("*") if not file.is_relative_to(target)} == before
    assert not any(file.is_symlink() for file in target.rglob("*"))


@pytest.mark.parametrize("cut", [0, 5, 70, 200])
def test_a_truncated_deb_is_refused(cut, clips, tmp_path):
    path = deb(tmp_path / "cut.deb", PICTURES, inside=clips.source.folder)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AssetMismatch, match=r"cut\.deb"):
        archives.unpack_deb(path, clips.source.folder, clips.source.wanted, tmp_path / "out")


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


def test_of_a_package_only_the_folders_that_are_wanted_are_kept_and_counted(clips, monkeypatch):
    kept = {name: data for name, data in PICTURES.items() if not name.startswith("c/")}
    part = replace(
        clips, source=replace(clips.source, keep=("a",)), tree=(tree_of(kept), len(kept))
    )
    monkeypatch.setattr(locate, "ASSETS", {"clips": part})
    files = {**PICTURES, "ab/four.png": b"4"}
    inside = clips.source.folder
    deliver(monkeypatch, lambda folder: deb(folder / "toy-clips_1_all.deb", files, inside=inside))
    place = assets.get("clips")
    assert {
        file.relative_to(place).as_posix(): file.read_bytes()
        for file in place.rglob("*")
        if file.is_file()
    } == kept
    for name, content in files.items():  # installed, the package lies there as a whole
        (Path(inside) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(inside) / name).write_bytes(content)
    assert assets.find("clips") == Path(inside)
    (Path(inside) / "a" / "b" / "two.png").write_bytes(b"23")
    with pytest.raises(AssetMismatch, match="2 files with digest"):
        assets.find("clips")


def test_another_release_is_told_the_ones_that_were_examined(clips, monkeypatch):
    pinned = replace(clips, source=replace(clips.source, archives={"1:2.0": "0" * 64}))
    monkeypatch.setattr(locate, "ASSETS", {"clips": pinned})
    (Path(clips.source.folder) / "a").mkdir(parents=True)
    (Path(clips.source.folder) / "a" / "one.png").write_bytes(b"another drawing")
    with pytest.raises(AssetMismatch, match=r"another release of toy-clips.*1:2\.0.*your own copy"):
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
