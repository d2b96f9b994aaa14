"""Whether files are the ones that were examined."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lipogram.assets.table import Asset, DebianPackage
from lipogram.errors import AssetMismatch


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path, wanted: Callable[[PurePosixPath], bool]) -> tuple[str, int]:
    """SHA-256 over sorted lines "path NUL sha256 LF" of the files below `folder`, and their number.

    Only files whose path in the folder is `wanted` count; a link counts as the file it leads to.
    """
    paths = {file: PurePosixPath(file.relative_to(folder).as_posix()) for file in folder.rglob("*")}
    lines = sorted(
        f"{path}\0{sha256(file)}\n".encode(errors="surrogateescape")
        for file, path in paths.items()
        if wanted(path) and file.is_file()
    )
    return hashlib.sha256(b"".join(lines)).hexdigest(), len(lines)


def verify(asset: Asset, place: Path) -> None:
    """Compare what lies at `place`, the asset's one file or its folder.

    Raises:
        AssetMismatch: naming the file, the hash it has and the hash it must have.
    """
    if asset.tree is not None:
        debian = asset.source if isinstance(asset.source, DebianPackage) else None
        found, n = tree_digest(place, debian.wanted if debian else lambda _: True)
        wanted, n_wanted = asset.tree
        if found != wanted:
            # What is pinned is what figures were measured on; another release is no attack.
            release = (
                f" (another release of {debian.package} than the ones examined, "
                f"{', '.join(debian.archives)}, may hold other files)"
                if debian
                else ""
            )
            raise AssetMismatch(
                f"{place}: {n} files with digest {found}, but {asset.name} has {n_wanted} files "
                f"with digest {wanted}{release}; delete the folder, or name your own copy where "
                "you need it"
            )
        return
    for name, wanted in asset.files.items():
        file = place / name if place.is_dir() else place
        if not file.is_file():
            raise AssetMismatch(f"{file} is missing; delete {place} to fetch {asset.name} again")
        found = sha256(file)
        if found != wanted:
            raise AssetMismatch(
                f"{file} has SHA-256 {found}, but {asset.name} must have {wanted}; "
                "delete the file to fetch it again"
            )
