"""Class statistics as named tensors and a JSON description, and back with everything checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lipogram.analytic.buffer import Buffer, buffer_from_settings
from lipogram.analytic.class_sums import POOL, Pool
from lipogram.analytic.gram import Gram, PackedGram, from_lower, from_tensor
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.settings import flag, one_of, positive, whole
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import CorruptState, LipogramError

HELD = ("dense", "packed", "memmap", "factor")  # storages of one matrix
WIDEST = 2**24
LARGEST = 1e300


def describe(
    statistics: ClassStatistics, prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (their names under ``prefix``) and JSON description of statistics."""
    statistics.flush()
    held, pool = statistics.store, statistics._pool
    tensors = {
        "counts": torch.from_numpy(statistics.counts),
        "mass": torch.from_numpy(statistics._mass),
        "sums": statistics._sums,
        "pool/row_sum": pool.row_sum,
        **{f"gram/{slot}": gram.tensor() for slot, gram in held.grams.items()},
        **{f"own/{name}": tensor for name, tensor in statistics.own_tensors().items()},
    }
    described: dict[str, Any] = {
        "n_features": statistics.n_features,
        "pooled": statistics.pooled,
        "storage": held.storage,
        "accumulate": held.accumulate,
        "memory_budget": held.memory_budget,
        "chunk_rows": statistics.chunk_rows,
        "space": statistics.space,
        "classes": statistics.index.array().tolist(),
        "grams": {str(slot): gram.storage for slot, gram in held.grams.items()},
        "frozen": {str(slot): weight for slot, weight in statistics.frozen.items()},
        "pool": {"mass": pool.mass, "energy": pool.energy},
        "feature_map": None,
    }
    feature_map = statistics.feature_map
    if feature_map is not None:
        settings = {**feature_map.settings(), "fingerprint": feature_map.fingerprint}
        described["feature_map"] = settings
        tensors |= {f"map/{name}": value for name, value in feature_map.tensors().items()}
    return {prefix + name: value for name, value in tensors.items()}, described


def restore(
    tensors: Mapping[str, Tensor],
    described: Any,
    prefix: str = "",
    *,
    device: torch.device | str = "cpu",
    folder: str | None = None,
    feature_map: Buffer | None = None,
    make: Callable[..., ClassStatistics] = ClassStatistics,
) -> ClassStatistics:
    """The statistics that :func:`describe` described.

    Args:
        tensors: as read; those under ``prefix`` are used.
        described: its JSON description.
        prefix: as in :func:`describe`.
        device: where the sums shall live.
        folder: where files of memory-mapped storage go.
        feature_map: a map that is built already and serves if its fingerprint is the described one.
        make: makes empty statistics from a width and settings; of a derived class where it was one.

    Raises:
        CorruptState: a shape, a dtype, a sign or a count that no statistics can have, or a feature
            map that does not come out as it was.
    """
    named = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    try:
        return _restore(named, described, torch.device(device), folder, feature_map, make)
    except CorruptState:
        raise
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptState(f"the statistics in the file do not fit together: {error!r}") from None


def _restore(
    tensors: Mapping[str, Tensor],
    described: Mapping[str, Any],
    device: torch.device,
    folder: str | None,
    feature_map: Buffer | None,
    make: Callable[..., ClassStatistics],
) -> ClassStatistics:
    d = whole("n_features", described["n_features"], most=WIDEST)
    labels = _labels(described["classes"])
    k = len(labels)
    # The file has to hold what is allocated for it, so its tensors are looked at first.
    counts, mass = _take(tensors, "counts", (k,), torch.int64), _take(tensors, "mass", (k,))
    sums, row_sum = _take(tensors, "sums", (k, d)), _take(tensors, "pool/row_sum", (d,))
    _require(bool((counts >= 0).all()), "a count is negative")
    _require(_non_negative(mass), "a summed weight is negative")
    budget, space = described["memory_budget"], described["space"]
    _require(isinstance(space, str), f"the space is {space!r}")
    statistics = make(
        d,
        pooled=flag("pooled", described["pooled"]),
        storage=described["storage"],
        accumulate=described["accumulate"],
        memory_budget=None if budget is None else whole("memory_budget", budget, least=0),
        chunk_rows=whole("chunk_rows", described["chunk_rows"], most=2**31),
        space=space,
        feature_map=_feature_map(tensors, described["feature_map"], d, feature_map),
        folder=folder,
        device=device,
    )
    statistics.index = LabelIndex(labels)
    statistics.counts, statistics._mass = counts.numpy().copy(), mass.numpy().copy()
    statistics._sums = sums.to(device, copy=True)
    pool_sums = [_finite(described["pool"][name]) for name in ("mass", "energy")]
    _require(_non_negative(torch.tensor(pool_sums)), "the pool's sums are negative")
    statistics._pool = Pool(row_sum.to(device, copy=True), *pool_sums)
    slots = {str(slot): slot for slot in range(POOL, k)}
    statistics.frozen = {
        slots[key]: positive("a folded class's weight", weight)
        for key, weight in described["frozen"].items()
    }
    _require(not (statistics.pooled and statistics.frozen), "pooled classes cannot be folded")
    _require(POOL not in statistics.frozen, "the pool itself cannot be folded")
    for key, storage in described["grams"].items():
        slot = slots[key]
        one_of("the storage of a matrix", storage, HELD)
        shape = {"dense": (d, d), "factor": (-1, d)}.get(storage, (d * (d + 1) // 2,))
        gram = _gram(_take(tensors, f"gram/{key}", shape), statistics, storage)
        _require(_non_negative(gram.diagonal()), f"the diagonal of matrix {slot} is negative")
        statistics.store.grams[slot] = gram
    opened = {s for s in range(k) if statistics.counts[s] and s not in statistics.frozen}
    expected = set() if statistics.pooled else opened
    expected |= {POOL} if statistics.frozen or (statistics.pooled and opened) else set()
    _require(expected <= set(statistics.store.grams), "the matrix of a class is missing")
    own = {name.removeprefix("own/"): t for name, t in tensors.items() if name.startswith("own/")}
    statistics.take_own(own)
    return statistics


def _gram(tensor: Tensor, statistics: ClassStatistics, storage: str) -> Gram:
    d, held = statistics.n_features, statistics.store
    if held.device.type != "cpu" and storage in ("packed", "memmap"):
        return from_lower(PackedGram(d, tensor).lower().to(held.device), "dense")
    return from_tensor(tensor.to(held.device), d, storage, held.folder)


def _feature_map(
    tensors: Mapping[str, Tensor], described: Any, n_features: int, built: Buffer | None
) -> Buffer | None:
    if described is None:
        return None
    fingerprint = described["fingerprint"]
    if built is None or built.fingerprint != fingerprint:
        settings = {name: value for name, value in described.items() if name != "fingerprint"}
        if settings["kind"] == "random":
            _require(settings["out_features"] == n_features, "the feature map has another width")
        held = {k.removeprefix("map/"): t for k, t in tensors.items() if k.startswith("map/")}
        built = buffer_from_settings(settings, held)
    _require(
        built.fingerprint == fingerprint,
        "the feature map drawn from its seed is not the one the state was made with "
        "(another generator, or a changed file)",
    )
    return built


def _labels(described: Any) -> list[Label]:
    _require(isinstance(described, list), "the classes are no list")
    kinds = {type(label) for label in described}
    _require(len(kinds) <= 1 and kinds <= {int, str, bool}, "the classes are of several kinds")
    _require(
        kinds != {int} or all(-(2**63) <= x < 2**63 for x in described), "a label is too large"
    )
    return list(described)


def _finite(value: Any) -> float:
    _require(type(value) in (int, float) and abs(value) <= LARGEST, f"{value!r} is no number")
    return float(value)


def _non_negative(values: Tensor) -> bool:
    # Forgetting rows leaves rounding behind, on either side of 0.
    return not values.numel() or bool(values.min() >= -1e-9 * (1 + values.abs().max()))


def _take(
    tensors: Mapping[str, Tensor],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    tensor = tensors[name]
    fits = tensor.ndim == len(shape) and all(
        w in (-1, h) for w, h in zip(shape, tensor.shape, strict=True)
    )
    _require(
        fits and tensor.dtype == dtype, f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}"
    )
    return tensor


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CorruptState(f"damaged or hostile state: {message}")
