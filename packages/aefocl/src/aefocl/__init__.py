"""One sentence: what aefocl does, and what it does without."""

from importlib.metadata import version

__version__ = version("lipogram-aefocl")
__all__ = ["__version__"]
