"""Run a frozen backbone over images once and keep what it says."""

import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lipogram.analytic.backbones import Backbone
from lipogram.analytic.feature_store import (
    DTYPES,
    INDEX,
    FeatureStore,
    Index,
    Layout,
    verify,
    write_shard,
)
from lipogram.analytic.images import Images
from lipogram.console import say
from lipogram.errors import BrokenImage, FolderInUse, InvalidFeatures, InvalidSetting
from lipogram.progress import bar

__all__ = ["FeatureStore", "extract"]

PATIENCE = 3600.0
"""Seconds that a command waits for another that fills the same folder of the cache."""


def extract(
    backbone: Backbone,
    images: Images,
    folder: Path | str,
    *,
    batch_size: int = 16,
    shard_rows: int = 512,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    workers: int | None = None,
    progress: bool = True,
    wait_seconds: float = 0,
) -> FeatureStore:
    """Features of all images that can be decoded, kept in `folder`.

    A folder that holds them already is only checked and opened. One that holds the first shards
    (the process was killed) is finished, and ends byte-equal to an uninterrupted extraction with
    the same batch size. Images that cannot be decoded are left out and listed
    in `FeatureStore.skipped` with the reason.

    Args:
        backbone: what turns an image into a vector.
        images: what to turn.
        folder: made where it is not there.
        batch_size: images a call of the backbone; small batches stay in a processor's cache.
        shard_rows: images a file, the unit that survives a kill.
        dtype: how a feature is stored.
        workers: threads that decode and run the backbone, a batch each; None takes one a processor,
            at most 8.
        progress: show a bar on standard error, where that is a terminal.
        wait_seconds: how long to wait for another process that is extracting into `folder`; what
            it leaves is opened, or finished where it stopped.

    Raises:
        IncompatibleFeatures: `folder` holds features of another backbone, preparation, image
            collection, dtype or shard size.
        CorruptState: `folder` holds damaged files.
        InvalidFeatures: the backbone gave NaN or infinity, or `dtype` cannot hold its values.
        InvalidSetting: a size below 1 or an unknown dtype.
        FolderInUse: another process is extracting into `folder`, and was not done in time.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    for name, value in (
        ("batch_size", batch_size),
        ("shard_rows", shard_rows),
        ("workers", workers),
    ):
        if value < 1:
            raise InvalidSetting(f"{name} is {value}, it must be at least 1")
    if dtype not in DTYPES:
        raise InvalidSetting(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layout = Layout(
        backbone={
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "image_size": backbone.image_size,
            "transform": backbone.transform,
        },
        images={"name": images.name, "fingerprint": images.fingerprint, "n": len(images)},
        class_names=list(images.class_names),
        d=backbone.dim,
        dtype=dtype,
        shard_rows=shard_rows,
    )
    with _alone(folder, wait_seconds, progress):
        index = _resume(folder, layout)
        if not index.complete:
            _complete(index, backbone, images, folder, batch_size, workers, progress)
    return FeatureStore.open(folder)


@contextmanager
def _alone(folder: Path, wait_seconds: float, progress: bool) -> Iterator[None]:
    """No other process extracts into the folder meanwhile; the system frees it with the process."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait_seconds <= 0:
            raise FolderInUse(f"another process is extracting into {folder}") from None
        if progress:
            say(f"another process is extracting into {folder}: waiting for it")
        try:
            lock.acquire(timeout=wait_seconds, poll_interval=0.2)
        except Timeout:
            raise FolderInUse(
                f"another process has been extracting into {folder} for {wait_seconds:g} s"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _resume(folder: Path, layout: Layout) -> Index:
    """The index of an earlier extraction into `folder`, or a new one."""
    if not (folder / INDEX).exists():
        return Index(layout)
    index = Index.read(folder)
    index.layout.check(layout, folder)
    for shard in index.shards:
        verify(folder, shard)
    return index


def _complete(
    index: Index,
    backbone: Backbone,
    images: Images,
    folder: Path,
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    """Add the shards that are missing, the index after each."""
    n, rows = len(images), index.layout.shard_rows
    first = len(index.shards)
    shards = [range(start, min(start + rows, n)) for start in range(0, n, rows)]
    # Batches end with the shard, so that a resumed run makes the same ones.
    plan = [_cut(shard, batch_size) for shard in shards]
    with (
        _batches(
            backbone, images, [part for parts in plan[first:] for part in parts], workers
        ) as done,
        bar("extracting features", n, min(first * rows, n), wanted=progress) as advance,
    ):
        for i in range(first, len(shards)):
            kept: list[int] = []
            skipped: list[dict[str, str]] = []
            features = [torch.empty(0, backbone.dim)]
            for part in plan[i]:
                batch = next(done)
                features.append(batch.features)
                kept += batch.kept
                skipped += batch.skipped
                advance(len(part))
            x = _stored(torch.cat(features), index.layout.dtype)
            labels = np.ascontiguousarray(images.labels[kept], dtype=np.int64)
            ids = [images.ids[k] for k in kept]
            index.shards.append(write_shard(folder, i, x, labels, ids, skipped))
            index.write(folder)
    index.complete = True
    index.write(folder)


def _cut(indices: range, size: int) -> list[range]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _stored(features: Tensor, dtype: str) -> Tensor:
    """Features as the store keeps them, all finite."""
    if not features.isfinite().all():
        raise InvalidFeatures("the backbone gave NaN or infinity; nothing of this shard was kept")
    stored = features.to(DTYPES[dtype])
    if not stored.isfinite().all():
        raise InvalidFeatures(
            f"a feature of {features.abs().max():.3g} does not fit {dtype}; "
            "store bfloat16 or float32"
        )
    return stored


@dataclass(frozen=True)
class _Batch:
    features: Tensor
    kept: list[int]
    skipped: list[dict[str, str]]


def _run(backbone: Backbone, images: Images, indices: range) -> _Batch:
    """Decode and extract one batch."""
    prepared: list[Tensor] = []
    kept: list[int] = []
    skipped: list[dict[str, str]] = []
    for i in indices:
        try:
            prepared.append(backbone.prepare(images.load(i)))
            kept.append(i)
        except BrokenImage as error:
            reason = str(error).removeprefix(f"{images.ids[i]}: ")
            skipped.append({"id": images.ids[i], "reason": reason})
    features = backbone(torch.stack(prepared)) if prepared else torch.empty(0, backbone.dim)
    return _Batch(features, kept, skipped)


@contextmanager
def _batches(
    backbone: Backbone, images: Images, parts: list[range], workers: int
) -> Iterator[Iterator[_Batch]]:
    """The batches in order; each worker decodes and extracts a whole one by itself.

    One thread a batch keeps the processors busy without their waiting for each other within every
    layer, and makes the features independent of the number of workers.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "extract", initializer=torch.set_num_threads, initargs=(1,))

    def ahead() -> Iterator[_Batch]:
        waiting: deque[Future[_Batch]] = deque()
        for part in parts:
            waiting.append(pool.submit(_run, backbone, images, part))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; here they are refused by number of pixels and counted.
            warnings.filterwarnings("ignore", "Image size .* exceeds limit")
            yield ahead()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
