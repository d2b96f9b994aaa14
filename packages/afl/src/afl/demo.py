"""The demonstration: a thousand clients, any split, one round, and one client that leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from afl.baselines import FedAvg, accuracy, standardised, train_by_rounds
from afl.classifier import AFLClassifier
from afl.demo_emoji import EmojiSettings, headline_of, run_emoji
from afl.page import write_page
from afl.partitions import Positions, dirichlet_partition, iid_partition
from afl.simulation import simulate
from afl.timeline import timeline
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.sources import Features, features_of
from lipogram.errors import MissingAsset
from lipogram.runs import Run
from lipogram.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demonstration runs.

    Attributes:
        dataset: ``"fashion-mnist"`` or ``"digits"``.
        clients: number of clients.
        alphas: concentrations of the Dirichlet splits.
        width: features after a random projection that all clients draw from one seed; 0 for none.
        image_size: side in pixels.
        per_class: training and test images of each class.
        gamma: ridge γ.
        rounds: of the baselines.
        mu: of FedProx.
        seed: of splits, projection and baselines.
        emoji: of the part on emoji; None leaves it out.
    """

    dataset: str = "fashion-mnist"
    clients: int = 1000
    alphas: tuple[float, ...] = (0.01, 0.1, 1.0)
    width: int = 256
    image_size: int = 64
    per_class: tuple[int, int] = (2000, 500)
    gamma: float = 10.0
    rounds: int = 20
    mu: float = 0.01
    seed: int = 0
    emoji: EmojiSettings | None = field(default_factory=EmojiSettings)


DIGITS = DemoSettings(dataset="digits", clients=100, width=0, gamma=1.0, emoji=None)


def run_demo(
    folder: Path,
    *,
    dataset: str = "fashion-mnist",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The same head from every split, baselines beside it, and a client that joins and leaves.

    Where Fashion-MNIST or the backbone cannot be had, scikit-learn's digits take their place. A
    part on emoji follows, one client per vendor, unless ``dataset`` is ``"digits"``; where the
    drawings cannot be had, the summary says why.

    Args:
        folder: of the run.
        dataset: see :class:`DemoSettings`.
        progress: told what is being worked on.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        InvalidSetting: an unknown data set.
        RunMismatch: ``folder`` holds a run with other settings.
        AssetMismatch: a data set other than the one that was examined.
    """
    settings, note = DIGITS if dataset == "digits" else DemoSettings(dataset=dataset), ""
    try:
        features = _features(settings, progress)
    except MissingAsset as error:
        note = str(error)
        progress(f"{dataset} is not to be had: {note}")
        settings = replace(DIGITS, emoji=settings.emoji)
        features = _features(settings, progress)
    run = Run.create(folder, settings, package="lipogram-afl")
    with one_thread():
        return summarise(run, features, settings, note=note, progress=progress)


def summarise(
    run: Run,
    features: Features,
    settings: DemoSettings,
    *,
    note: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the demonstration on features at hand, write summary and page, return the summary."""
    X, y = features.train, features.train_labels
    pooled = AFLClassifier(gamma=settings.gamma).fit(X, y)
    expected = pooled.predict(features.test)
    splits: dict[str, Positions] = {"IID": iid_partition(y, settings.clients, seed=settings.seed)}
    for alpha in settings.alphas:
        splits[f"α = {alpha:g}"] = dirichlet_partition(
            y, settings.clients, alpha, seed=settings.seed, min_size=0
        )
    results: dict[str, dict[str, Any]] = {}
    for name, parts in splits.items():
        progress(f"{settings.clients} clients, {name}")
        done = simulate(X, y, parts, gamma=settings.gamma, space=features.space)
        # The pooled head has its classes in the same, sorted order.
        oracle = torch.from_numpy(pooled.coef_.T.copy())
        results[name] = {
            "accuracy": done.head.accuracy(features.test, features.test_labels),
            "different_predictions": int((done.head.predict(features.test) != expected).sum()),
            "off_pooled": float((done.head.weight - oracle).abs().max() / oracle.abs().max()),
            "megabytes": done.uploaded / 1e6,
            "server_seconds": done.server_seconds,
            "empty_clients": sum(not len(part) for part in parts),
            "mixtures": [np.bincount(y[part], minlength=10).tolist() for part in parts[:20]],
            **_baselines(features, parts, settings),
        }
        run.log("split", split=name, **{k: v for k, v in results[name].items() if k != "mixtures"})
    progress("clients that come late, and one that leaves")
    parts = splits[f"α = {settings.alphas[0]:g}"]
    events = timeline(features, parts, gamma=settings.gamma)
    emoji = None if settings.emoji is None else run_emoji(run, settings.emoji, progress=progress)
    summary = {
        "note": note,
        "dataset": features.name,
        "train_rows": len(X),
        "test_rows": len(features.test),
        "n_features": X.shape[1],
        "splits": results,
        "timeline": events,
        "emoji": emoji,
        "headline": _headline(results, events, settings)
        | (headline_of(emoji) if emoji is not None else {}),
    }
    run.summary(summary)
    write_page(run, summary, settings=asdict(settings))
    return summary


def _features(settings: DemoSettings, progress: Callable[[str], None]) -> Features:
    progress(f"features of {settings.dataset}")
    loaded = features_of(
        settings.dataset,
        image_size=settings.image_size,
        per_class=settings.per_class,
        seed=settings.seed,
    )
    if not settings.width:
        return loaded
    buffer = RandomBuffer(
        loaded.train.shape[1],
        settings.width,
        init="orthogonal",
        activation="identity",
        seed=settings.seed,
    )
    train, test = (
        buffer(torch.from_numpy(np.asarray(rows, dtype=np.float64))).numpy()
        for rows in (loaded.train, loaded.test)
    )
    return replace(loaded, train=train, test=test, space=f"{loaded.space} {buffer.fingerprint}")


def _baselines(
    features: Features, parts: Positions, settings: DemoSettings
) -> dict[str, list[float]]:
    train, test = standardised(features.train, features.test)
    curves: dict[str, list[float]] = {}
    for name, mu in (("fedavg", 0.0), ("fedprox", settings.mu)):
        curve: list[float] = []

        def look(weight: NDArray[np.float64], curve: list[float] = curve) -> None:
            curve.append(accuracy(weight, test, features.test_labels))

        train_by_rounds(
            train,
            features.train_labels,
            parts,
            len(features.class_names),
            FedAvg(rounds=settings.rounds, mu=mu, seed=settings.seed),
            after_round=look,
        )
        curves[name] = curve
    return curves


def _headline(
    results: Mapping[str, Mapping[str, Any]], timeline: Mapping[str, Any], settings: DemoSettings
) -> dict[str, Any]:
    extreme = f"α = {settings.alphas[0]:g}"
    return {
        "clients": settings.clients,
        "accuracy, every split": results[extreme]["accuracy"],
        "test predictions that differ from the pooled head's, all splits": sum(
            result["different_predictions"] for result in results.values()
        ),
        "largest difference from the pooled head": max(r["off_pooled"] for r in results.values()),
        "FedAvg, IID": results["IID"]["fedavg"][-1],
        f"FedAvg, {extreme}": results[extreme]["fedavg"][-1],
        f"FedProx, {extreme}": results[extreme]["fedprox"][-1],
        "a client that left, against never having had it": (
            "equal to the last bit" if timeline["bitwise_equal"] else "DIFFERENT"
        ),
    }
