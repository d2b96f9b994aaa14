"""The sum over clients as integers: what a federation keeps instead of the clients' statistics."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afl.client_stats import ClientStats, class_order
from afl.exact_sum import ExactSum
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.errors import CorruptState, InvalidFeatures, NotSeen

POOLED = ""
FINEST = 2.0**-16


class ExactTotal:
    """Exact sums of clients' statistics, in memory for one client's whatever their number.

    Args:
        like: statistics whose width, features, clip and layout the total has.
    """

    def __init__(self, like: ClientStats) -> None:
        self.like = like.like()
        self.like.noise = None
        # A power of two near the clip brings every total into the range of an exact sum.
        self.scale = 1.0 if like.clip is None else 2.0 ** -math.frexp(like.clip)[1]
        self.classes: list[Label] = []
        self.rows: dict[Label, int] = {}
        self.grams: dict[Label, ExactSum] = {}
        self.sums: dict[Label, ExactSum] = {}

    @property
    def n_rows(self) -> int:
        """Rows counted."""
        return sum(self.rows.values())

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(16 * held.whole.size for held in (*self.grams.values(), *self.sums.values()))

    @property
    def digest(self) -> str:
        """SHA-256 of the integers; classes without rows do not count."""
        sha = hashlib.sha256()
        for label in class_order(self.classes):
            if self.rows[label]:
                sha.update(json.dumps([label, self.rows[label]]).encode())
                self.sums[label].update_digest(sha)
        for key in class_order([k for k in self.grams if k != POOLED or self.like.per_class]):
            if self.rows.get(key):
                self.grams[key].update_digest(sha)
        if not self.like.per_class and self.n_rows:
            self.grams[POOLED].update_digest(sha)
        return sha.hexdigest()

    def add(self, stats: ClientStats) -> None:
        """Add a client's statistics, all or nothing.

        Raises:
            InvalidLabels: classes of another kind.
            InvalidFeatures: numbers that the total cannot hold.
        """
        mean = stats.trace * self.scale**2 / max(stats.n_rows, 1)
        if stats.n_rows and stats.noise is None and 0 < mean < FINEST:
            raise InvalidFeatures(
                f"the rows have a mean squared norm of {mean:.1e}, where exact sums lose digits: "
                "scale the features up, or name their bound with clip"
            )
        slots = LabelIndex(self.classes)
        _, new = slots.plan(stats.index.array())
        undo: list[tuple[ExactSum, Any]] = []
        for label in new:
            self._open(label)
        try:
            for held, values in self._parts(stats):
                held.add(values)
                undo.append((held, values))
        except BaseException:
            for held, values in undo:
                held.subtract(values)
            for label in new:
                self._close(label)
            raise
        for label, n in zip(stats.classes, stats.counts.tolist(), strict=True):
            self.rows[label] += n

    def subtract(self, stats: ClientStats) -> None:
        """Take a client's statistics out, all or nothing.

        Raises:
            NotSeen: more rows of a class than there are.
        """
        for label, n in zip(stats.classes, stats.counts.tolist(), strict=True):
            if n > self.rows.get(label, 0):
                raise NotSeen(
                    f"{n} rows of class {label!r} to take out, the total has "
                    f"{self.rows.get(label, 0)}"
                )
        absent = [label for label in stats.classes if label not in self.rows]
        for label in absent:
            self._open(label)
        for held, values in self._parts(stats):
            held.subtract(values)
        for label, n in zip(stats.classes, stats.counts.tolist(), strict=True):
            self.rows[label] -= n
        for label in absent:
            self._close(label)

    def stats(self) -> ClientStats:
        """The total as statistics, rounded to float64 once; classes in the agreed order.

        A class of which nothing is there, or nothing any more, is left out, as its head would say
        0 for every row and win where all others are below.
        """
        labels = class_order([c for c in self.classes if not self.sums[c].is_zero])
        d = self.like.n_features
        size = d * (d + 1) // 2
        parts = [self.sums[label].value() for label in labels]
        both = np.stack(parts) if parts else np.zeros((0, d + 1))
        if self.like.per_class:
            grams = [self.grams[label].value() for label in labels]
            gram = np.stack(grams) if grams else np.zeros((0, size))
        else:
            gram = self.grams[POOLED].value() if self.grams else np.zeros(size)
        return ClientStats.from_parts(
            torch.from_numpy(gram / self.scale**2),
            torch.from_numpy(both[:, :d] / self.scale).T,
            [self.rows[label] for label in labels],
            labels,
            n_features=d,
            mass=both[:, d],
            space=self.like.space,
            clip=self.like.clip,
            feature_map=self.like.feature_map,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that adds up, as int64 tensors for :func:`exact_total_of`."""
        made: dict[str, Tensor] = {}
        for name, held in self._named():
            made[f"{name}/whole"] = torch.from_numpy(held.whole)
            made[f"{name}/fraction"] = torch.from_numpy(held.fraction)
        return made

    def describe(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        return {"classes": self.classes, "rows": [self.rows[label] for label in self.classes]}

    def restore(self, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
        """Take over what :meth:`tensors` and :meth:`describe` of another total gave.

        Raises:
            CorruptState: parts that are missing or of another size.
        """
        for label, n in zip(described["classes"], described["rows"], strict=True):
            if type(n) is not int or n < 0:
                raise CorruptState("a number of rows is negative")
            self._open(label)
            self.rows[label] = n
        for name, held in self._named():
            whole, fraction = tensors[f"{name}/whole"], tensors[f"{name}/fraction"]
            if whole.shape != fraction.shape or whole.shape != held.whole.shape:
                raise CorruptState("the total has another width than it says")
            if bool(((fraction < 0) | (fraction >= 2**62)).any()):
                raise CorruptState("the total holds a fraction of 1 or more")
            restored = ExactSum.of(whole.numpy().copy(), fraction.numpy().copy())
            vars(held).update(vars(restored))

    # ------------------------------------------------------------------ inside

    def _named(self) -> list[tuple[str, ExactSum]]:
        named = [(f"sum/{i}", self.sums[label]) for i, label in enumerate(self.classes)]
        if self.like.per_class:
            return named + [(f"gram/{i}", self.grams[c]) for i, c in enumerate(self.classes)]
        return named + [("gram", held) for held in self.grams.values()]

    def _parts(self, stats: ClientStats) -> list[tuple[ExactSum, Any]]:
        """Each exact sum with what a client adds to it."""
        sums, mass = stats.sums.cpu().numpy() * self.scale, stats.mass
        gram = stats.gram_packed.numpy()
        if self.scale != 1.0:
            gram = gram * self.scale**2
        parts: list[tuple[ExactSum, Any]] = [
            (self.sums[label], np.append(sums[slot], mass[slot]))
            for slot, label in enumerate(stats.classes)
        ]
        if stats.per_class:
            return parts + [(self.grams[c], gram[slot]) for slot, c in enumerate(stats.classes)]
        if stats.classes and POOLED in self.grams:
            parts.append((self.grams[POOLED], gram))
        return parts

    def _open(self, label: Label) -> None:
        d = self.like.n_features
        self.classes.append(label)
        self.rows[label] = 0
        self.sums[label] = ExactSum(d + 1)
        if self.like.per_class:
            self.grams[label] = ExactSum(d * (d + 1) // 2)
        elif POOLED not in self.grams:
            self.grams[POOLED] = ExactSum(d * (d + 1) // 2)

    def _close(self, label: Label) -> None:
        self.classes.remove(label)
        del self.rows[label], self.sums[label]
        if self.like.per_class:
            del self.grams[label]
        elif not self.classes:
            self.grams.clear()
