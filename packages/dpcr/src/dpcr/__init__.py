"""One sentence: what dpcr does, and what it does without."""

from importlib.metadata import version

__version__ = version("lipogram-dpcr")
__all__ = ["__version__"]
