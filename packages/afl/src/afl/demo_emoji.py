"""The demonstration's second part: one client per vendor of emoji, who draw in different styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afl.baselines import FedAvg, accuracy, standardised, train_by_rounds
from afl.classifier import AFLClassifier
from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.head import LinearHead
from afl.page_emoji import draw_examples
from afl.partitions import Positions
from afl.simulation import simulate
from lipogram.analytic.emoji import EmojiFeatures, emoji_features
from lipogram.errors import MissingAsset
from lipogram.runs import Run


@dataclass(frozen=True, kw_only=True)
class EmojiSettings:
    """What the part on emoji runs.

    Attributes:
        image_size: side in pixels.
        test_share: share of the emoji of each group that no vendor trains on.
        rounds: of FedAvg.
        seed: of the split and of FedAvg.
    """

    image_size: int = 112
    test_share: float = 0.25
    rounds: int = 20
    seed: int = 0


def run_emoji(
    run: Run, settings: EmojiSettings, *, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """:func:`compare_vendors` on the real drawings, with a picture of some in the run's folder.

    Args:
        run: where the picture goes.
        settings: what to run.
        progress: told what is being worked on.

    Returns:
        The comparison; where the drawings or the backbone are not to be had, ``{"note": why}``.

    Raises:
        AssetMismatch: drawings other than those that were examined.
    """
    try:
        features = emoji_features(
            image_size=settings.image_size,
            test_share=settings.test_share,
            seed=settings.seed,
            progress=progress,
        )
    except MissingAsset as error:
        note = " ".join(str(error).split())
        progress(f"the part on emoji is left out: {note}")
        return {"note": note}
    progress("one client per vendor of emoji")
    draw_examples(features, run.figure("emoji"))
    return compare_vendors(features, settings)


def compare_vendors(features: EmojiFeatures, settings: EmojiSettings) -> dict[str, Any]:
    """Each vendor's own head, the federation's and FedAvg's, tested on every vendor's drawings.

    Every closed-form head chooses its γ by generalised cross-validation, from the sums that it is
    solved from.

    Args:
        features: of the same emoji by all vendors.
        settings: of FedAvg.

    Returns:
        ``vendors`` and ``class_names``; ``train_rows`` and ``test_rows`` of each vendor;
        ``n_features``; ``accuracy``, by method one value for each vendor it is tested on; ``gamma``
        of the closed-form heads; ``own`` and ``strange``, the mean accuracy of the vendors' own
        heads on their own and on the others' drawings, and ``joint``, that of the federation's head
        on all; ``left_out``, the accuracy on each vendor of the head that the
        other vendors make together; ``different_predictions`` and ``off_pooled``, what the
        federation's head and one fitted on all rows at once differ in, the latter relative;
        ``megabytes`` sent; ``error``, the largest standard error of these accuracies.
    """
    train, test = features.rows[:, ~features.held_out], features.rows[:, features.held_out]
    y, expected = features.labels[~features.held_out], features.labels[features.held_out]
    v, n, d = train.shape
    rows, labels = train.reshape(v * n, d), np.tile(y, v)
    parts: Positions = list(np.arange(v * n).reshape(v, n))
    stats = [ClientStats.compute(each, y, space=features.space) for each in train]
    done = simulate(rows, labels, parts, gamma="gcv", space=features.space, names=features.vendors)
    heads = {
        f"{name} alone": _head([each], [name])
        for name, each in zip(features.vendors, stats, strict=True)
    }
    heads["AFL"] = done.head
    accuracies = {
        name: [head.accuracy(drawn, expected) for drawn in test] for name, head in heads.items()
    }
    accuracies["FedAvg"] = _fedavg(rows, labels, parts, test, expected, features, settings)
    left_out = []
    for number, drawn in enumerate(test):
        others = [u for u in range(v) if u != number]
        head = _head([stats[u] for u in others], [features.vendors[u] for u in others])
        left_out.append(head.accuracy(drawn, expected))
    pooled = AFLClassifier(gamma=done.head.gamma).fit(rows, labels)
    oracle = pooled.coef_.T
    everything = test.reshape(-1, d)
    shares = np.array([*accuracies.values(), left_out])
    alone, own = shares[:v], np.eye(v, dtype=bool)
    return {
        "vendors": list(features.vendors),
        "class_names": list(features.class_names),
        "train_rows": n,
        "test_rows": len(expected),
        "n_features": d,
        "accuracy": accuracies,
        "gamma": {name: head.gamma for name, head in heads.items()},
        "own": float(alone[own].mean()),
        "strange": float(alone[~own].mean()),
        "joint": float(np.mean(accuracies["AFL"])),
        "left_out": left_out,
        "different_predictions": int(
            (done.head.predict(everything) != pooled.predict(everything)).sum()
        ),
        "off_pooled": float(np.abs(done.head.weight.numpy() - oracle).max() / np.abs(oracle).max()),
        "megabytes": done.uploaded / 1e6,
        "error": float(np.sqrt(shares * (1 - shares) / len(expected)).max()),
    }


def headline_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The comparison in three figures, or that it was left out.

    Args:
        summary: what :func:`run_emoji` returned.
    """
    if "note" in summary:
        return {"emoji, one client per vendor": "left out, the report says why"}
    return {
        "emoji, a vendor's own head on its own drawings": summary["own"],
        "emoji, a vendor's own head on the others' drawings": summary["strange"],
        "emoji, one head of all vendors, on all drawings": summary["joint"],
    }


def _head(stats: Sequence[ClientStats], names: Sequence[str]) -> LinearHead:
    federation = Federation(minimum_rows=1)
    for name, each in zip(names, stats, strict=True):
        federation.add(name, each)
    return federation.solve("gcv")


def _fedavg(
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    parts: Positions,
    test: NDArray[np.float64],
    expected: NDArray[np.int64],
    features: EmojiFeatures,
    settings: EmojiSettings,
) -> list[float]:
    """Accuracy on each vendor's test rows (v, m, d) of a head trained by rounds."""
    train, tested = standardised(rows, test.reshape(-1, test.shape[2]))
    weight = train_by_rounds(
        train,
        labels,
        parts,
        len(features.class_names),
        FedAvg(rounds=settings.rounds, seed=settings.seed),
    )
    return [accuracy(weight, drawn, expected) for drawn in tested.reshape(test.shape)]
