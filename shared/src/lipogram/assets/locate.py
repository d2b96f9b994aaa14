"""Where an asset is on this machine."""

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lipogram.assets.fetch import fetch, remedy
from lipogram.assets.table import ASSETS, Asset, DebianPackage, Wheel
from lipogram.assets.verify import verify
from lipogram.errors import InvalidSetting, MissingAsset


def cache_folder() -> Path:
    """Where fetched assets and features are kept: LIPOGRAM_CACHE, else the platform's cache."""
    if named := os.environ.get("LIPOGRAM_CACHE"):
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("lipogram", appauthor=False)


def find(name: str) -> Path | None:
    """Where the asset is installed or cached, verified; None where it is nowhere. No network.

    A file for an asset of the Python index that is one file, else a folder.

    Raises:
        InvalidSetting: there is no asset of that name.
        AssetMismatch: it is there, with other contents.
    """
    asset = _asset(name)
    for place in _places(asset):
        if place.exists():
            verify(asset, place)
            return place
    return None


def get(name: str, *, download: bool = True) -> Path:
    """Where the asset is, fetched into the cache first if need be.

    Args:
        name: key of `ASSETS`.
        download: False never touches the network.

    Raises:
        InvalidSetting: there is no asset of that name.
        MissingAsset: it is nowhere and could not be fetched; the message lists what was tried and
            ends with the command that helps.
        AssetMismatch: what was found or fetched has other contents; the cache is untouched.
    """
    if (found := find(name)) is not None:
        return found
    asset = _asset(name)
    tried = [f"{place} is not there" for place in _places(asset)]
    if not download:
        tried.append("downloading was not allowed")
        raise _missing(asset, tried)
    try:
        return _into_cache(asset)
    except MissingAsset as error:
        raise _missing(asset, [*tried, str(error)]) from error
    except OSError as error:
        tried.append(f"{cache_folder()} cannot be written ({error}); LIPOGRAM_CACHE names another")
        raise _missing(asset, tried) from error


def _into_cache(asset: Asset) -> Path:
    """Fetch, verify, and only then put the asset where `find` looks."""
    from filelock import FileLock

    home = _cached(asset)
    root = home.parent
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        if (found := find(asset.name)) is not None:  # another process was faster
            return found
        for left in root.glob(".part-*"):  # of a process that was killed
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=root))
        try:
            content = part / home.name
            content.mkdir()
            fetch(asset, content)
            verify(asset, _place(asset, content))
            os.replace(content, home)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return _place(asset, home)


def _places(asset: Asset) -> list[Path]:
    """Where the asset may lie, the installed package before the cache."""
    places = []
    if isinstance(asset.source, Wheel):
        try:
            # By metadata alone: the package's code is never imported.
            installed = distribution(asset.source.distribution)
            places.append(Path(str(installed.locate_file(asset.source.member))))
        except PackageNotFoundError:
            pass
    elif isinstance(asset.source, DebianPackage):
        places.append(Path(asset.source.folder))
    return [*places, _place(asset, _cached(asset))]


def _cached(asset: Asset) -> Path:
    """The asset's folder in the cache, named by the contents it must have."""
    digest = asset.tree[0] if asset.tree else "".join(asset.files.values())
    return cache_folder() / "assets" / asset.name / digest[:16]


def _place(asset: Asset, folder: Path) -> Path:
    """What stands for the asset in `folder`: its one file, or the folder itself."""
    return folder / next(iter(asset.files)) if asset.is_file else folder


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise InvalidSetting(f"no asset is called {name!r}; there are {', '.join(ASSETS)}")
    return ASSETS[name]


def _missing(asset: Asset, tried: list[str]) -> MissingAsset:
    extra = (
        f", or the extra {asset.source.extra} of lipogram"
        if isinstance(asset.source, Wheel) and asset.source.extra
        else ""
    )
    return MissingAsset(
        f"{asset.name} ({asset.title}, {asset.megabytes} MB) was found nowhere:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + f"This brings it: {remedy(asset)}{extra}"
    )
