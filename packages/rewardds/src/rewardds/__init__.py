"""One sentence: what rewardds does, and what it does without."""

from importlib.metadata import version

__version__ = version("lipogram-rewardds")
__all__ = ["__version__"]
