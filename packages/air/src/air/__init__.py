"""AIR: a closed-form classifier head for streams with rare classes."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from air.classifier import AIRClassifier as AIRClassifier
    from air.weighting import class_weights as class_weights

__version__ = version("lipogram-air")
__all__ = ["AIRClassifier", "class_weights"]


def __getattr__(name: str) -> Any:  # torch is imported when a name is used, not before
    if name == "AIRClassifier":
        from air.classifier import AIRClassifier

        return AIRClassifier
    if name == "class_weights":
        from air.weighting import class_weights

        return class_weights
    raise AttributeError(f"module 'air' has no attribute {name!r}")
