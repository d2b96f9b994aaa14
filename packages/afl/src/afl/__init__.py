"""One-round federated learning that equals pooling all data, without anybody sharing theirs."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afl.absolute_aggregation import aggregate_aa as aggregate_aa
    from afl.classifier import AFLClassifier as AFLClassifier
    from afl.client_stats import ClientStats as ClientStats
    from afl.federation import Federation as Federation
    from afl.fingerprint import feature_fingerprint as feature_fingerprint
    from afl.head import LinearHead as LinearHead
    from afl.partitions import dirichlet_partition as dirichlet_partition
    from afl.partitions import shard_partition as shard_partition

_HOME = {
    "AFLClassifier": "classifier",
    "ClientStats": "client_stats",
    "Federation": "federation",
    "LinearHead": "head",
    "aggregate_aa": "absolute_aggregation",
    "dirichlet_partition": "partitions",
    "feature_fingerprint": "fingerprint",
    "shard_partition": "partitions",
}
__version__ = version("lipogram-afl")
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
