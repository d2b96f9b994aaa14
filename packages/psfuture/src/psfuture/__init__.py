"""One sentence: what psfuture does, and what it does without."""

from importlib.metadata import version

__version__ = version("lipogram-psfuture")
__all__ = ["__version__"]
