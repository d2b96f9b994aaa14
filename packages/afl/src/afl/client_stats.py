"""What a client sends: the class statistics of its rows, and nothing else.

``G = Σ z zᵀ``, one sum of rows a class, and the counts (He et al., AFL, CVPR 2025, without the
inverse and without γ, which the server adds when it solves). It is the workspace's one object for
closed-form learning, pooled over classes, with row clipping and a check that honest sums pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from afl.claims import Claim, joint_claim
from afl.errors import RejectedUpload
from lipogram.analytic.blas import pack
from lipogram.analytic.buffer import Buffer
from lipogram.analytic.class_sums import POOL, Pool
from lipogram.analytic.gram import PackedGram
from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.settings import positive
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidSetting

ROUNDING = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-8}


class ClientStats(ClassStatistics):
    """Mergeable, removable statistics of one client's rows.

    Args:
        n_features: width d of the rows that enter the sums.
        clip: rows of a larger Euclidean norm (after the feature map) are scaled down to it; None
            leaves them. A bound that everybody knows is what privacy and plausibility checks need.
        per_class: one second moment a class, for class weights after the fact; k times the bytes.
        feature_map: a random map that all clients draw from one seed.
        space: identity of the incoming features, :func:`afl.feature_fingerprint`.
        device: where the sums live.
        noise: what randomised sums claim (:mod:`afl.noisy_stats`); None claims nothing.

    Raises:
        InvalidSetting: a clip that is no positive number.
    """

    def __init__(
        self,
        n_features: int,
        *,
        clip: float | None = None,
        per_class: bool = False,
        feature_map: Buffer | None = None,
        space: str = "",
        device: torch.device | str = "cpu",
        noise: dict[str, Any] | None = None,
    ) -> None:
        cpu = torch.device(device).type == "cpu"
        super().__init__(
            n_features,
            pooled=not per_class,
            # Never rows: a factor would be the features themselves.
            storage="packed" if cpu else "dense",
            feature_map=feature_map,
            space=space,
            device=device,
        )
        self.clip = None if clip is None else positive("clip", clip)
        self.noise = noise
        self.rounding = "float64"

    @classmethod
    def compute(
        cls,
        X: Any,
        y: Any,
        *,
        classes: Any = None,
        clip: float | None = None,
        per_class: bool = False,
        feature_map: Buffer | None = None,
        space: str = "",
        device: torch.device | str = "cpu",
    ) -> Self:
        """Statistics of rows X (n, d_in) with labels y (n,); n = 0 is allowed.

        Args:
            X: rows of any float width.
            y: integers or strings.
            classes: labels that get a slot even without a row.
            clip: see the class, as for the rest.
            per_class: one second moment a class.
            feature_map: random map of the rows.
            space: identity of the features.
            device: where the sums live.

        Raises:
            InvalidFeatures, InvalidLabels: see there.
        """
        width = np.shape(X)[1] if np.ndim(X) == 2 else 0
        made = cls(
            feature_map.out_features if feature_map is not None else max(width, 1),
            clip=clip,
            per_class=per_class,
            feature_map=feature_map,
            space=space,
            device=device,
        )
        if classes is not None:
            made.declare(classes)
        return made.update(X, y)

    @classmethod
    def from_parts(
        cls,
        gram_packed: Tensor,
        cross: Tensor,
        counts: Any,
        classes: Sequence[Label],
        *,
        n_features: int,
        mass: Any = None,
        space: str = "",
        clip: float | None = None,
        feature_map: Buffer | None = None,
        noise: dict[str, Any] | None = None,
    ) -> Self:
        """Statistics from sums made elsewhere.

        Args:
            gram_packed: (d(d+1)/2,) rectangular full packed; (k, d(d+1)/2) for one a class.
            cross: (d, k).
            counts: (k,) rows of each class.
            classes: k labels.
            n_features: d.
            mass: (k,) summed weights, the counts by default.
            space: see the class, as for the rest.
            clip: bound on the rows' norm.
            feature_map: random map of the rows.
            noise: how the sums were randomised.

        Raises:
            RejectedUpload: shapes that do not fit together.
        """
        d, k = n_features, len(classes)
        size, per_class = d * (d + 1) // 2, gram_packed.ndim == 2
        counted = np.asarray(counts, dtype=np.int64)
        shapes = tuple(gram_packed.shape), tuple(cross.shape), counted.shape
        if shapes != (((k, size) if per_class else (size,)), (d, k), (k,)):
            raise RejectedUpload(f"sums of shapes {shapes} are not those of {k} classes, {d} wide")
        made = cls(
            d, clip=clip, per_class=per_class, feature_map=feature_map, space=space, noise=noise
        )
        made.index = LabelIndex(classes)
        made.counts = counted
        made._mass = counted.astype(float) if mass is None else np.asarray(mass, dtype=float)
        made._sums = cross.T.to(torch.float64, copy=True).contiguous()
        packed = gram_packed.to(torch.float64, copy=True)
        if per_class:
            for slot in range(k):
                made.store.grams[slot] = PackedGram(d, packed[slot].clone())
        else:
            made.store.grams[POOL] = PackedGram(d, packed)
            total = float(made._mass.sum())
            made._pool = Pool(made._sums.sum(0), total, total)
        return made

    # ------------------------------------------------------------------ what it holds

    @property
    def per_class(self) -> bool:
        """Whether each class has its own second moment."""
        return not self.pooled

    @property
    def gram_packed(self) -> Tensor:
        """``G`` (d(d+1)/2,) float64, rectangular full packed; (k, …) with one a class."""
        if self.pooled:
            return self._packed(POOL)
        empty = torch.zeros(0, self.n_features * (self.n_features + 1) // 2, dtype=torch.float64)
        return (
            torch.stack([self._packed(s) for s in range(len(self.index))]) if self.index else empty
        )

    @property
    def cross(self) -> Tensor:
        """``Q = Σ z yᵀ`` (d, k) float64; column j belongs to ``classes[j]``."""
        return self.sums.T.contiguous()

    @property
    def trace(self) -> float:
        """``tr G``, the summed squared norms of the rows."""
        self.flush()
        return float(sum(float(gram.diagonal().sum()) for gram in self.store.grams.values()))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that adds up, independent of the order of the classes."""
        described = {
            "d": self.n_features,
            "clip": self.clip,
            "per_class": self.per_class,
            "space": self.space,
            "map": None if self.feature_map is None else self.feature_map.fingerprint,
        }
        sha = hashlib.sha256(json.dumps(described).encode())
        gram, mass, sums = self.gram_packed, self.mass, self.sums
        if not self.per_class:
            sha.update(gram.numpy().data)
        for slot in sorted(range(len(self.classes)), key=lambda s: str(self.classes[s])):
            if self.counts[slot] or mass[slot]:
                sha.update(json.dumps([self.classes[slot], int(self.counts[slot])]).encode())
                sha.update(mass[slot].tobytes() + sums[slot].cpu().numpy().tobytes())
                sha.update(gram[slot].numpy().data if self.per_class else b"")
        return sha.hexdigest()

    def __add__(self, other: ClientStats) -> Self:
        return self.copy().merge(other)

    def __sub__(self, other: ClientStats) -> Self:
        return self.copy().remove(other)

    def update(self, features: Any, labels: Any, **settings: Any) -> Self:
        """Add rows, see :meth:`ClassStatistics.update`.

        Raises:
            InvalidSetting: the sums are randomised; further rows would not be hidden.
        """
        if self.noise is not None:
            raise InvalidSetting(
                "these sums are randomised: make statistics of the further rows and randomise those"
            )
        return super().update(features, labels, **settings)

    def merge(self, other: ClassStatistics) -> Self:
        """Add another client's sums, see :meth:`ClassStatistics.merge`.

        The result claims privacy only where both sides do, and for the same unit: for different
        rows (or clients, where these are hidden) the larger ε and δ.
        """
        self.check_same_features(other)
        claimed = _joint(self, other)
        super().merge(other)
        self.noise = claimed
        return self

    def remove(self, other: ClassStatistics) -> Self:
        """Subtract another client's sums, see :meth:`ClassStatistics.remove`.

        The result claims privacy only where both sides do.
        """
        self.check_same_features(other)
        claimed = _joint(self, other)
        super().remove(other)
        self.noise = claimed
        return self

    def check_same_features(self, other: ClassStatistics, name: str = "the other side") -> None:
        """Raise IncompatibleFeatures unless the two add up; ``name`` is theirs in the message."""
        theirs = getattr(other, "clip", None)
        mine, yours = (_facts(side) for side in (self, other))
        if theirs != self.clip:
            mine, yours = {"clip": self.clip}, {"clip": theirs}
        for fact, value in mine.items():
            if value != yours[fact]:
                raise IncompatibleFeatures(
                    f"{name} has {fact} {_short(yours[fact])}, this side has {_short(value)}: "
                    "statistics add up only when every client uses the same backbone, "
                    "preparation and settings"
                )

    # ------------------------------------------------------------------ plausibility

    def verify(self) -> Self:
        """Check that some rows can have these sums.

        The within-class scatter ``G − Σ_y c_y c_yᵀ / m_y`` of any rows is positive semi-definite,
        and ``tr G ≤ n·clip²``. Randomised sums are only checked for finite values.

        Raises:
            RejectedUpload: the sums of no rows; what contradicts what is named.
        """
        self.flush()
        gram, mass = self.gram_packed, self._mass
        if not bool(torch.isfinite(gram).all()) or not bool(torch.isfinite(self._sums).all()):
            raise RejectedUpload("the sums hold NaN or infinity")
        if not np.isfinite(mass).all() or (mass < 0).any() or (self.counts < 0).any():
            raise RejectedUpload("a count or a summed weight is negative or not finite")
        if self.noise is not None:
            return self
        silent = mass == 0
        if bool((self._sums[torch.from_numpy(silent)] != 0).any()):
            raise RejectedUpload("a class without rows has a sum that is not zero")
        trace = self.trace
        slack = 1e-9 + 16 * ROUNDING[self.rounding]
        if self.clip is not None and trace > float(mass.sum()) * self.clip**2 * (1 + slack):
            raise RejectedUpload(
                f"trace {trace:g} of {int(self.counts.sum())} rows passes n·clip² = "
                f"{float(mass.sum()) * self.clip**2:g}: counts and sums contradict each other"
            )
        for slots in self._groups():
            self._verify_scatter(slots, slack)
        return self

    def _groups(self) -> list[list[int]]:
        everyone = list(range(len(self.index)))
        return [everyone] if self.pooled else [[slot] for slot in everyone]

    def _verify_scatter(self, slots: list[int], slack: float) -> None:
        gram = self.store.grams.get(POOL if self.pooled else slots[0])
        held = [slot for slot in slots if self._mass[slot] > 0]
        if gram is None:
            if held:
                raise RejectedUpload("rows are counted, but there is no second moment")
            return
        scatter = gram.lower()
        trace = float(scatter.diagonal().sum())
        if not held and trace != 0:
            raise RejectedUpload(f"no row is counted, but the second moment has trace {trace:g}")
        for slot in held:
            row = self._sums[slot]
            scatter.addr_(row, row, alpha=-1.0 / float(self._mass[slot]))
        scatter.diagonal().add_(slack * max(trace, 1e-300))
        if held and int(torch.linalg.cholesky_ex(scatter).info):
            raise RejectedUpload(
                "the second moment is not that of the counted rows (it less the class means is not "
                "positive semi-definite): the upload is damaged, or its counts are wrong"
            )

    # ------------------------------------------------------------------ inside

    def _mapped(self, rows: Tensor) -> Tensor:
        mapped = super()._mapped(rows)
        if self.clip is None:
            return mapped
        norms = torch.linalg.vector_norm(mapped, dim=1, keepdim=True)
        return mapped * (self.clip / norms.clamp(min=self.clip))

    def _packed(self, slot: int) -> Tensor:
        self.flush()
        gram = self.store.grams.get(slot)
        if gram is None:
            size = self.n_features * (self.n_features + 1) // 2
            return torch.zeros(size, dtype=torch.float64)
        return gram.tensor() if isinstance(gram, PackedGram) else pack(gram.lower().cpu())


def _joint(one: ClassStatistics, other: ClassStatistics) -> Claim | None:
    return joint_claim(getattr(side, "noise", None) for side in (one, other))


def _facts(side: ClassStatistics) -> dict[str, Any]:
    return {
        "width": side.n_features,
        "features": side.space,
        "random map": None if side.feature_map is None else side.feature_map.fingerprint,
        "one second moment a class": not side.pooled,
    }


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 16 else repr(value)


def class_order(labels: Sequence[Label]) -> list[Label]:
    """Labels in the order that every machine agrees on: numbers by size, strings by code point."""
    array: NDArray[Any] = LabelIndex(labels).array()
    ordered: list[Label] = np.sort(array).tolist()
    return ordered
