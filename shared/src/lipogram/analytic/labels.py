"""Class labels: any integers or strings, in any order, at any time."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lipogram.errors import InvalidLabels, UnknownClass

Label = int | str | bool
Kind = Literal["int", "str", "bool"]


class LabelIndex:
    """The labels seen so far and the slot of each; slots are given in order of appearance.

    All labels of one index are of one kind: integers, strings or booleans. ``True`` and ``1``
    would otherwise share a slot, and ``"1"`` and ``1`` would not.
    """

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        array = as_labels(list(labels))
        self.labels: list[Label] = array.tolist()
        self._slot = {label: i for i, label in enumerate(self.labels)}
        if len(self._slot) != len(self.labels):
            raise InvalidLabels("a label occurs twice")
        self.kind: Kind | None = kind_of(array) if self.labels else None

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self._slot

    def copy(self) -> LabelIndex:
        """An independent copy."""
        return LabelIndex(self.labels)

    def slot(self, label: Label) -> int:
        """Slot of a label.

        Raises:
            UnknownClass: it was never seen; the message lists what was.
        """
        try:
            return self._slot[label]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self.labels[:10])) + (", …" if len(self) > 10 else "")
            raise UnknownClass(
                f"class {label!r} was never seen; known: {known or 'none'}"
            ) from None

    def plan(self, labels: Any) -> tuple[NDArray[np.int64], list[Label]]:
        """Slots (n,) of a batch of labels, and the labels that adding it would append.

        Nothing is added yet: call :meth:`extend` with the second part.

        Raises:
            InvalidLabels: labels that are no one-dimensional integers, strings or booleans, or of
                another kind than the ones before.
        """
        array = as_labels(labels)
        if not array.size:
            return np.empty(0, dtype=np.int64), []
        self._check_kind(kind_of(array))
        unique, first, inverse = np.unique(array, return_index=True, return_inverse=True)
        values = unique.tolist()
        appearance = dict(zip(values, first.tolist(), strict=True))  # not the order of size
        new = sorted((v for v in values if v not in self._slot), key=appearance.__getitem__)
        slot = {v: i for i, v in enumerate(new, start=len(self.labels))}
        slots = np.array([self._slot[v] if v in self._slot else slot[v] for v in values])
        return slots.astype(np.int64)[inverse.reshape(-1)], new

    def extend(self, labels: Sequence[Label]) -> None:
        """Append labels that are not there yet."""
        if not labels:
            return
        kind = kind_of(np.asarray(labels))
        self._check_kind(kind)
        self.kind = kind
        for label in labels:
            self._slot[label] = len(self.labels)
            self.labels.append(label)

    def remove(self, label: Label) -> int:
        """Take a label out, close the gap, and return the slot it had."""
        slot = self.slot(label)
        del self.labels[slot]
        self._slot = {label: i for i, label in enumerate(self.labels)}
        if not self.labels:
            self.kind = None
        return slot

    def array(self) -> NDArray[Any]:
        """The labels (k,) in slot order."""
        return np.asarray(self.labels) if self.labels else np.empty(0, dtype=np.int64)

    def _check_kind(self, kind: Kind) -> None:
        if self.kind is not None and kind != self.kind:
            raise InvalidLabels(
                f"labels of kind {kind}, the classes so far are of kind {self.kind}: convert them "
                "first"
            )


def as_labels(labels: Any) -> NDArray[Any]:
    """Labels as a one-dimensional array of integers, strings or booleans.

    Floats are taken when each is a whole number (1.0 is the class 1).

    Raises:
        InvalidLabels: anything else; the first offender is named.
    """
    array = _as_array(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidLabels(f"labels have shape {array.shape}, they must be one-dimensional (n,)")
    if array.dtype.kind in "bU":
        return array
    if array.dtype.kind == "f":
        array = array.astype(np.promote_types(array.dtype, np.float64), copy=False)
        bad = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if bad.size:
            raise InvalidLabels(
                f"Unknown label type: label {array[bad[0]]} in row {bad[0]} is no whole number; "
                "classes are integers or strings"
            )
    if array.dtype.kind in "iuf":
        return _as_int64(array)
    if array.dtype.kind in "OT":
        values = array.tolist()
        if all(isinstance(v, str) for v in values):
            return np.asarray(values, dtype=np.str_)
        if all(isinstance(v, (bool, np.bool_)) for v in values):
            return np.asarray(values, dtype=np.bool_)
        if all(isinstance(v, numbers.Integral) and not isinstance(v, bool) for v in values):
            return _as_int64(array)
    raise InvalidLabels(
        f"Unknown label type: {array.dtype}; classes are integers or strings, of one kind"
    )


def _as_array(labels: Any) -> NDArray[Any]:
    if isinstance(labels, torch.Tensor):
        tensor = labels.detach().cpu()
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise InvalidLabels(f"labels are no one-dimensional array: {error}") from None
    # numpy turns [1, "a"] into strings and [True, 2] into integers without a word.
    if isinstance(labels, (list, tuple)) and array.ndim == 1 and array.dtype.kind in "Uiuf":
        strings = array.dtype.kind == "U"
        for row, value in enumerate(labels):
            if isinstance(value, str) != strings or isinstance(value, (bool, np.bool_)):
                raise InvalidLabels(
                    f"Unknown label type: label {value!r} in row {row} is of another kind than the "
                    "rest; classes are integers or strings, of one kind"
                )
    return array


def _as_int64(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind != "i":
        outside = np.flatnonzero((array >= 2**63) | (array < -(2**63)))
        if outside.size:
            row = outside[0]
            raise InvalidLabels(f"label {array[row]} in row {row} does not fit 64 bits")
    return array.astype(np.int64)


def kind_of(array: NDArray[Any]) -> Kind:
    """The kind of an array that :func:`as_labels` returned."""
    return {"b": "bool", "U": "str"}.get(array.dtype.kind, "int")  # type: ignore[return-value]
