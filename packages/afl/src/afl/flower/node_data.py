"""What a node holds, and what its owner lets out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl.client_rows import labelled_rows
from afl.errors import Declined
from afl.partitions import dirichlet_partition, iid_partition
from lipogram.errors import InvalidSetting

Rows = tuple[NDArray[Any], NDArray[Any], str]
RELEASES = ("sums", "noisy", "masked")


def node_name(config: Mapping[str, Any], node_id: int) -> str:
    """The owner's name for the node; of a simulated one, its number."""
    if "name" in config:
        return str(config["name"])
    if "partition-id" in config:
        return f"node-{int(config['partition-id']):04d}"
    return f"node-{node_id}"


def rows_of(config: Mapping[str, Any], asked: Mapping[str, Any], key: str = "data") -> Rows:
    """Rows (n, d), labels (n,) and identity of the features of this node.

    Args:
        config: the node's own configuration; ``data`` names what it holds. Simulated nodes have
            ``partition-id`` and ``num-partitions`` instead, and share what the run names.
        asked: the run's facts; used by simulated nodes only.
        key: ``data``, or ``test`` for held-out rows.

    Raises:
        InvalidSetting: the node was started without data.
        FileNotFoundError, InvalidFeatures, InvalidLabels: see
            :func:`afl.client_rows.labelled_rows`.
    """
    if key in config:
        return labelled_rows(
            str(config[key]),
            backbone=str(config.get("backbone", "effnet-lite0")),
            image_size=int(config.get("image-size", 96)),
            progress=False,
        )
    if key != "data" or "partition-id" not in config or not asked.get("data"):
        raise InvalidSetting(
            f"this node was started without {key}: start it by `afl join … --{key} PATH`"
        )
    rows, labels, space = labelled_rows(str(asked["data"]), progress=False)
    number, count = int(config["partition-id"]), int(config["num-partitions"])
    if asked["split"] == "iid":
        parts = iid_partition(labels, count, seed=asked["seed"])
    else:
        parts = dirichlet_partition(labels, count, asked["alpha"], seed=asked["seed"], min_size=0)
    mine = np.asarray(parts[number])
    return rows[mine], labels[mine], space


def check_consent(config: Mapping[str, Any], *, masked: bool, epsilon: float) -> None:
    """Refuse what the node's owner has not allowed.

    Args:
        config: the node's; ``release`` is the protection that its sums must have: ``sums`` (none,
            the default), ``noisy`` or ``masked``; ``most-epsilon`` bounds ε.
        masked: whether the server will see the sum of a cohort only.
        epsilon: of the noise, 0 for none.

    Raises:
        Declined: the run asks for more than that.
        InvalidSetting: the node was started with an unknown word.
    """
    least = str(config.get("release", "sums"))
    if least not in RELEASES:
        raise InvalidSetting(f"release is {least!r}, it must be one of {', '.join(RELEASES)}")
    if (least == "masked" and not masked) or (least == "noisy" and not epsilon):
        raise Declined(f"the owner of this node lets out {least} statistics only")
    most = float(config.get("most-epsilon", "inf"))
    if epsilon > most:
        raise Declined(f"the owner of this node allows ε {most:g}, the run asks for {epsilon:g}")
