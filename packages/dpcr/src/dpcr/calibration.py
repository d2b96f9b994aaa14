"""Class statistics moved into the feature space of the network that was trained on.

``Φ_c ← W_cᵀ Φ_c W_c`` and ``c_c ← W_cᵀ c_c``, with ``W_c = P`` or, category-wise, ``W_c = P Π_c``
(DPCR, He et al., ICML 2025, §3.2). The counts stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from dpcr.projectors import Projector, Rule, class_projector
from dpcr.shift_map import ShiftMap
from lipogram.analytic.blas import matmul
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import one_of
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures, InvalidSetting, UnknownClass

CategoryProjection = Literal["none", "rank", "soft", "official"]
RULES: dict[str, Rule] = {"rank": "relative", "soft": "soft", "official": "positive"}


def calibrate(
    bank: ClassStatistics,
    shift: ShiftMap,
    *,
    cip: CategoryProjection = "none",
    projectors: Mapping[Label, Projector] | None = None,
) -> ClassStatistics:
    """Statistics of old classes as the new network would have given them; ``bank`` stays.

    With ``cip="none"`` and pooled or folded statistics this is one product ``PᵀΦP``, whatever the
    number of classes; with rows kept as factors it is ``F ← F P``. Where the map knows by what it
    misses old classes, ``n_c Σ`` is added: ``E[x_new x_newᵀ] = PᵀE[x xᵀ]P + Σ``.

    Args:
        bank: second moments, sums and counts in the old feature space.
        shift: from the old space to the new one.
        cip: category-wise projection: ``"none"``; ``"rank"``, the row space up to rounding;
            ``"soft"``, directions kept by their strength; ``"official"``, all singular values that
            are positive in float32, which is the released code and keeps them all as a rule.
        projectors: Π of each class, where they are known; by default they are computed from
            ``bank``.

    Raises:
        IncompatibleFeatures: the map starts from another width or space; or ``cip`` with a map that
            changes the width, has an offset or knows its noise, since a projector of old features
            says nothing about the new ones then.
        ClosedClass: ``cip`` with pooled or folded classes, which have no row space of their own.
        UnknownClass: projectors for some of the classes only.
        InvalidSetting: an unknown ``cip``, or projectors without one.
    """
    check_cip(cip)
    _check_space(bank, shift)
    if cip == "none":
        if projectors is not None:
            raise InvalidSetting('projectors are given, but cip is "none": nothing would use them')
        moved = bank.transport(shift.matrix, offset=shift.offset, space=shift.new_space)
        return moved if shift.noise is None else moved.widen(shift.noise)
    if shift.noise is not None:
        raise IncompatibleFeatures(
            f"cip={cip!r} keeps old classes in their row space, which this map's noise leaves: "
            'use cip="none", or a map with another eps than "classes"'
        )
    if shift.in_features != shift.out_features or shift.offset is not None:
        kind = f"from {shift.in_features} features to {shift.out_features}"
        kind += "" if shift.offset is None else " with an offset"
        raise IncompatibleFeatures(
            f"cip={cip!r} projects on the row space of the old features, which a map {kind} does "
            'not keep: use cip="none"'
        )
    if projectors is None:
        projectors = {c: class_projector(bank, c, rule=RULES[cip]) for c in bank.classes}
    missing = [label for label in bank.classes if label not in projectors]
    if missing:
        raise UnknownClass(f"there is no projector for class {missing[0]!r}")
    operators = {}
    for label in bank.classes:
        left, right = projectors[label].factors()
        operators[label] = (matmul(shift.matrix, left), right)
    return bank.transport(operators, space=shift.new_space)


def check_cip(cip: object) -> None:
    """Raise InvalidSetting for an unknown category-wise projection."""
    one_of("cip", cip, get_args(CategoryProjection))


def _check_space(bank: ClassStatistics, shift: ShiftMap) -> None:
    if bank.n_features != shift.in_features:
        raise IncompatibleFeatures(
            f"the statistics hold {bank.n_features} features, the map takes {shift.in_features}"
        )
    if bank.space and shift.old_space and bank.space != shift.old_space:
        raise IncompatibleFeatures(
            f"the statistics are of space {bank.space!r}, the map starts from {shift.old_space!r}"
        )
