"""Lipogram: machine learning that does without. The ground under the ten packages."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lipogram")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"
