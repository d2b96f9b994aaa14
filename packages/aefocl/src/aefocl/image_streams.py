"""Streams of real pictures: Open Clip Art as it is, emoji vendor by vendor, and digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from aefocl.burst_order import burst_order, equal_segments
from aefocl.stream import Stream
from lipogram.analytic.scenarios import long_tailed
from lipogram.analytic.scenarios.task import tasks_of
from lipogram.analytic.sources import Features, features_of, held_out


def openclipart_stream(
    *,
    backbone: str = "effnet-lite0",
    image_size: int = 128,
    segments: int = 6,
    burst: float = 8.0,
    test_share: float = 0.25,
    seed: int = 0,
    folder: Path | None = None,
    progress: bool = True,
) -> Stream:
    """Open Clip Art's 44 sub-categories of 20 drawings or more, no class cut short.

    Before the test share is taken out, the largest class has 1,853 drawings and the smallest 21: a
    long tail that nobody made. Drawings come in runs of one class, in the order of their file
    names, so that an artist's series comes in one piece as frames of a video do.

    Args:
        backbone: registry name, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        segments: test points, at equal numbers of rows.
        burst: mean length of a run.
        test_share: share of each class that is tested on, at every point.
        seed: of the split and the runs.
        folder: of the drawings; None takes the asset.
        progress: show progress while features are extracted.

    Raises:
        MissingAsset: the drawings or the backbone's weights cannot be had.
        InvalidSetting: see :func:`aefocl.burst_order.burst_order` and ``held_out``.
    """
    from aefocl.kept_features import kept_features, undecoded
    from lipogram.analytic.backbones import load_backbone
    from lipogram.analytic.datasets import openclipart

    images = openclipart(cap=None, folder=folder)
    model = load_backbone(backbone, image_size=image_size)
    store = kept_features(images, model, progress=progress)
    tested = held_out(store.labels, test_share=test_share, seed=seed)
    rows = store.features()
    data = Features(
        rows[~tested],
        store.labels[~tested],
        rows[tested],
        store.labels[tested],
        tuple(store.class_names),
        "openclipart",
        model.fingerprint,
    )
    order, _ = burst_order(data.train_labels, burst, np.random.default_rng(seed))
    return Stream(
        data,
        equal_segments(order, data.train_labels, segments),
        remarks=undecoded(store.skipped, "drawings"),
    )


def emoji_stream(
    *,
    backbone: str = "effnet-lite0",
    image_size: int = 112,
    test_share: float = 0.25,
    seed: int = 0,
    folders: Mapping[str, Path] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Stream:
    """Emoji vendor by vendor: the same things drawn in another style in each segment.

    Within a segment emoji come in Unicode's order, so group after group. Tested on after each
    segment are the emoji that no vendor trains on, as all vendors draw them: the styles to come
    count, too.

    Args:
        backbone: registry name, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        test_share: share of each group that is tested on.
        seed: of the split.
        folders: where each vendor's drawings lie, by the vendor's name; None takes the assets.
        progress: told which vendor is worked on.

    Raises:
        MissingAsset: the drawings or the backbone's weights cannot be had.
    """
    from lipogram.analytic.emoji import emoji_features

    emoji = emoji_features(
        backbone=backbone,
        image_size=image_size,
        test_share=test_share,
        seed=seed,
        folders=folders,
        progress=progress,
    )
    n_vendors = len(emoji.vendors)
    learnt = int((~emoji.held_out).sum())
    data = Features(
        np.concatenate(emoji.rows[:, ~emoji.held_out]),
        np.tile(emoji.labels[~emoji.held_out], n_vendors),
        np.concatenate(emoji.rows[:, emoji.held_out]),
        np.tile(emoji.labels[emoji.held_out], n_vendors),
        emoji.class_names,
        "emoji",
        emoji.space,
    )
    chunks = [np.arange(v * learnt, (v + 1) * learnt) for v in range(n_vendors)]
    tasks = tasks_of(chunks, data.train_labels)
    return Stream(
        data,
        tuple(replace(task, name=name) for task, name in zip(tasks, emoji.vendors, strict=True)),
    )


def digits_stream(
    *,
    rho: float = 100.0,
    segments: int = 6,
    burst: float = 8.0,
    test_share: float = 0.25,
    seed: int = 0,
) -> Stream:
    """scikit-learn's digits, made long-tailed, in runs of one digit; for where nothing is fetched.

    Args:
        rho: the largest class over the smallest.
        segments: test points, at equal numbers of rows.
        burst: mean length of a run.
        test_share: share of each class that is tested on, at every point.
        seed: of the split, the choice of rows and the runs.
    """
    whole = features_of("digits", seed=seed, test_share=test_share)
    kept = long_tailed(whole.train_labels, rho=rho, order="shuffled", seed=seed)
    data = replace(whole, train=whole.train[kept], train_labels=whole.train_labels[kept])
    order, _ = burst_order(data.train_labels, burst, np.random.default_rng(seed))
    return Stream(data, equal_segments(order, data.train_labels, segments))
