"""AEF-OCL: online continual learning on imbalanced streams, balanced by pseudo-features."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aefocl.clad import CladC as CladC
    from aefocl.classifier import AEFOCLClassifier as AEFOCLClassifier
    from aefocl.online import evaluate_online as evaluate_online
    from aefocl.stream import Stream as Stream
    from aefocl.stream_names import stream_of as stream_of

_HOME = {
    "AEFOCLClassifier": "classifier",
    "CladC": "clad",
    "Stream": "stream",
    "evaluate_online": "online",
    "stream_of": "stream_names",
}
__version__ = version("lipogram-aefocl")
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:  # torch is imported when a name is used, not before
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
