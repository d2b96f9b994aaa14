"""Run a frozen backbone over images once and keep what it says."""

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
from lipogram.errors import BrokenImage, FolderInUse, InvalidFeatures, InvalidSetting

__all__ = ["FeatureStore", "extract"]


def extract(
    backbone: Backbone,
    images: Images,
    folder: Path | str,
    *,
    batch_size: int = 32,
    shard_rows: int = 512,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    workers: int | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Features of all images that can be decoded, kept in `folder`.

    A folder that holds them already is only checked and opened. One that holds the first shards
    (the process was killed) is finished, and ends byte-equal to an uninterrupted extraction with
    the same batch size and number of threads. Images that cannot be decoded are left out and listed
    in `FeatureStore.skipped` with the reason.

    Args:
        backbone: what turns an image into a vector.
        images: what to turn.
        folder: made where it is not there.
        batch_size: images a call of the backbone; small batches stay in a processor's cache.
        shard_rows: images a file, the unit that survives a kill.
        dtype: how a feature is stored.
        workers: threads that decode; None takes one a processor, at most 8.
        progress: show a bar on standard error, where that is a terminal.

    Raises:
        IncompatibleFeatures: `folder` holds features of another backbone, preparation, image
            collection, dtype or shard size.
        CorruptState: `folder` holds damaged files.
        InvalidFeatures: the backbone gave NaN or infinity, or `dtype` cannot hold its values.
        InvalidSetting: a size below 1 or an unknown dtype.
        FolderInUse: another process is extracting into `folder`.
    """
    from filelock import FileLock, Timeout

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
    try:
        with FileLock(folder / ".lock", timeout=0):
            index = _resume(folder, layout)
            if not index.complete:
                _complete(index, backbone, images, folder, batch_size, workers, progress)
    except Timeout as error:
        raise FolderInUse(f"another process is extracting into {folder}") from error
    return FeatureStore.open(folder)


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
    rows = index.layout.shard_rows
    first = len(index.shards)
    with (
        _decoder(
            backbone, images, range(first * rows, len(images)), workers, batch_size
        ) as decoded,
        _bar(len(images), first * rows, progress) as advance,
    ):
        for i in range(first, -(-len(images) // rows)):
            kept: list[int] = []
            skipped: list[dict[str, str]] = []
            batch: list[Tensor] = []
            features: list[Tensor] = []
            # Batches end with the shard, so that a resumed run makes the same ones.
            for k in range(i * rows, min((i + 1) * rows, len(images))):
                image = next(decoded)
                advance()
                if isinstance(image, BrokenImage):
                    reason = str(image).removeprefix(f"{images.ids[k]}: ")
                    skipped.append({"id": images.ids[k], "reason": reason})
                    continue
                kept.append(k)
                batch.append(image)
                if len(batch) == batch_size:
                    features.append(backbone(torch.stack(batch)))
                    batch = []
            if batch:
                features.append(backbone(torch.stack(batch)))
            x = _stored(torch.cat([torch.empty(0, backbone.dim), *features]), index.layout.dtype)
            labels = np.ascontiguousarray(images.labels[kept], dtype=np.int64)
            ids = [images.ids[k] for k in kept]
            index.shards.append(write_shard(folder, i, x, labels, ids, skipped))
            index.write(folder)
    index.complete = True
    index.write(folder)


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


@contextmanager
def _decoder(
    backbone: Backbone, images: Images, indices: range, workers: int, batch_size: int
) -> Iterator[Iterator[Tensor | BrokenImage]]:
    """Prepared images in order, decoded by threads a few batches ahead."""

    def prepared(i: int) -> Tensor | BrokenImage:
        try:
            return backbone.prepare(images.load(i))
        except BrokenImage as error:
            return error

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def ahead() -> Iterator[Tensor | BrokenImage]:
        waiting: deque[Future[Tensor | BrokenImage]] = deque()
        for i in indices:
            waiting.append(pool.submit(prepared, i))
            if len(waiting) > 2 * batch_size + workers:
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


@contextmanager
def _bar(total: int, done: int, wanted: bool) -> Iterator[Callable[[], None]]:
    """What to call after each image; draws on standard error if that is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("extracting features", total=total, completed=done)
        yield lambda: bar.advance(task)
