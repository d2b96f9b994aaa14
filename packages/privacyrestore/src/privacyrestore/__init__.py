"""One sentence: what privacyrestore does, and what it does without."""

from importlib.metadata import version

__version__ = version("lipogram-privacyrestore")
__all__ = ["__version__"]
