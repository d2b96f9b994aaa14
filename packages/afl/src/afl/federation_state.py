"""A federation as one file, and back with everything checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from afl.client_stats import ROUNDING, ClientStats
from afl.errors import TooFewClients
from afl.exact_total import ExactTotal
from afl.federation import Federation
from afl.ledger import Ledger
from lipogram.analytic.buffer import buffer_from_settings
from lipogram.analytic.settings import whole
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, LipogramError


def write_federation(held: Federation, path: str | Path) -> Path:
    """See :meth:`Federation.save`."""
    if held._total is None:
        raise TooFewClients("no client is in the sum: there is nothing to save")
    like = held._total.like
    tensors = held._total.tensors()
    described: dict[str, Any] = {
        "package": "lipogram-afl",
        "kind": "federation",
        "minimum_rows": held.minimum_rows,
        "minimum_clients": held.minimum_clients,
        "minimum_cohort": held.minimum_cohort,
        "rounding": held._rounding,
        "released": None if held._released is None else sorted(held._released),
        "n_features": like.n_features,
        "clip": like.clip,
        "per_class": like.per_class,
        "space": like.space,
        "feature_map": None if like.feature_map is None else like.feature_map.settings(),
        "total": held._total.describe(),
        "ledger": held.ledger.describe(),
        "last_entry": held.ledger.entries[-1].hash,
    }
    if like.feature_map is not None:
        tensors |= {f"map/{name}": t for name, t in like.feature_map.tensors().items()}
    return write_state(path, tensors, described)


def read_federation(path: str | Path) -> Federation:
    """See :meth:`Federation.load`."""
    tensors, described = read_state(path)
    if described.get("kind") != "federation":
        raise CorruptState(f"{path} holds no federation: it is {described.get('kind')!r}")
    try:
        return _restored(tensors, described)
    except CorruptState as error:
        raise CorruptState(f"{path}: {error}") from None
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptState(f"{path} does not fit together: {error}") from None


def _restored(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> Federation:
    made = Federation(
        minimum_rows=described["minimum_rows"],
        minimum_clients=described["minimum_clients"],
        minimum_cohort=described["minimum_cohort"],
    )
    settings = described["feature_map"]
    maps = {n.removeprefix("map/"): t for n, t in tensors.items() if n.startswith("map/")}
    like = ClientStats(
        whole("n_features", described["n_features"], most=2**20),
        clip=described["clip"],
        per_class=described["per_class"],
        feature_map=None if settings is None else buffer_from_settings(settings, maps),
        space=described["space"],
    )
    made._total = ExactTotal(like)
    made._total.restore(tensors, described["total"])
    made.ledger = Ledger.restore(described["ledger"])
    if described["rounding"] not in ROUNDING:
        raise CorruptState(f"rounding {described['rounding']!r}")
    made._rounding = described["rounding"]
    if described["released"] is not None:
        made._released = frozenset(described["released"])
    if not made.ledger.entries or made.ledger.entries[-1].total != made.digest:
        raise CorruptState("the sum is not the one that its ledger ends with")
    if made.ledger.entries[-1].hash != described["last_entry"]:
        raise CorruptState("the ledger does not end with the entry that was written last")
    made.privacy.spent  # noqa: B018 - what the ledger says about privacy fits together, or it raises
    return made
