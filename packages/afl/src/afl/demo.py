"""The demonstration: a thousand clients, any split, one round, and one client that leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from afl.baselines import FedAvg, accuracy, standardised, train_by_rounds
from afl.classifier import AFLClassifier
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.page import write_page
from afl.partitions import Positions, dirichlet_partition, iid_partition
from afl.simulation import client_name, simulate
from lipogram.analytic.buffer import RandomBuffer
from lipogram.analytic.sources import Features, features_of
from lipogram.errors import MissingAsset
from lipogram.runs import Run

LATE = 100  # of a thousand


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


DIGITS = DemoSettings(dataset="digits", clients=100, width=0, gamma=1.0)


def run_demo(
    folder: Path,
    *,
    dataset: str = "fashion-mnist",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The same head from every split, baselines beside it, and a client that joins and leaves.

    Where Fashion-MNIST or the backbone cannot be had, scikit-learn's digits take their place.

    Args:
        folder: of the run.
        dataset: see :class:`DemoSettings`.
        progress: told what is being worked on.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        InvalidSetting: an unknown data set.
        RunMismatch: ``folder`` holds a run with other settings.
    """
    settings, note = DIGITS if dataset == "digits" else DemoSettings(dataset=dataset), ""
    try:
        features = _features(settings, progress)
    except MissingAsset as error:
        note = str(error)
        progress(f"{dataset} is not to be had: {note}")
        settings = DIGITS
        features = _features(settings, progress)
    run = Run.create(folder, settings, package="lipogram-afl")
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
    timeline = _timeline(features, splits[f"α = {settings.alphas[0]:g}"], settings)
    summary = {
        "note": note,
        "dataset": features.name,
        "train_rows": len(X),
        "test_rows": len(features.test),
        "n_features": X.shape[1],
        "splits": results,
        "timeline": timeline,
        "headline": _headline(results, timeline, settings),
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


def _timeline(features: Features, parts: Positions, settings: DemoSettings) -> dict[str, Any]:
    """Most clients first, the rest late, one leaves; then a federation that never had it."""
    X, y = features.train, features.train_labels

    def stats(number: int) -> ClientStats:
        return ClientStats.compute(X[parts[number]], y[parts[number]], space=features.space)

    busy = [number for number, part in enumerate(parts) if len(part)]
    late = busy[-max(1, len(busy) * LATE // 1000) :]
    leaver = max(busy[: -len(late)], key=lambda number: len(parts[number]))
    points: list[dict[str, Any]] = []

    def look(event: str, federation: Federation) -> None:
        head = federation.solve(settings.gamma)
        points.append(
            {
                "event": event,
                "clients": len(federation.clients),
                "rows": federation.n_rows,
                "accuracy": head.accuracy(features.test, features.test_labels),
                "total": federation.digest,
            }
        )

    federation = Federation(minimum_rows=1)
    for number in busy[: -len(late)]:
        federation.add(client_name(number), stats(number))
    look("begin", federation)
    for number in late:
        federation.add(client_name(number), stats(number))
    look(f"{len(late)} join late", federation)
    entry = federation.remove(client_name(leaver), stats(leaver))
    look(f"{client_name(leaver)} leaves", federation)
    never = Federation(minimum_rows=1)
    for number in reversed(busy):  # and in another order
        if number != leaver:
            never.add(client_name(number), stats(number))
    same = bool(
        torch.equal(federation.solve(settings.gamma).weight, never.solve(settings.gamma).weight)
    )
    federation.ledger.verify()
    return {
        "points": points,
        "leaver": client_name(leaver),
        "leaver_rows": len(parts[leaver]),
        "ledger_entries": len(federation.ledger),
        "ledger_hash": entry.hash,
        "total_after": federation.digest,
        "total_without": never.digest,
        "bitwise_equal": federation.digest == never.digest and same,
    }


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
