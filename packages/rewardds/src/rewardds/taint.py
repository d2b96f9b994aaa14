"""The gate after the release: from here on no private object may come, and no private text.

What is computed from the released proxies and from public data costs no further privacy. A private
record that finds its way into a prompt, a filter or a training set after the release is outside
every accounted mechanism, and the stated epsilon would not hold. Synthetic rows are not compared
with the private set either: taking out those that resemble it would read the private set once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import types
from collections import deque
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from typing import Any

from lipogram.errors import InvalidSetting
from rewardds.errors import PrivateObject, PrivateText
from rewardds.private_ngrams import PrivateNgrams

_PRIVATE = {
    "rewardds.records": {"PrivateRecords", "PrivateRecord"},
    "rewardds.private_ngrams": {"PrivateNgrams"},
    "rewardds.text_overlap": {"PrivateGrams", "TextOverlap", "Hit"},
    "rewardds.canaries": {"Canaries"},
    "rewardds.rows": {"Sequence", "Row", "PackedBatch"},
    "rewardds.cached_features": {"CachedReward"},
    "rewardds.clipped_gradients": {"Tally"},
    "rewardds.baselines": {"NonPrivateBound"},
}
"""Private types by module, and with them their subclasses: what holds private texts, their tokens
or hashes, or was measured on them. By name, so that a server need not load how one trains."""

_MANY = (list, tuple, set, frozenset, deque, KeysView, ValuesView, ItemsView)
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), os.PathLike)


class ReleaseGate:
    """What everything passes that runs after the release.

    Args:
        ngrams: of the private set, where the client runs this itself. A server has none, and sees
            only what is of a private type: there, the client checks seeds before it sends them.
    """

    def __init__(self, ngrams: PrivateNgrams | None = None):
        self._ngrams = ngrams

    def admit(self, where: str, **objects: Any) -> None:
        """Let objects pass that are not private and hold nothing that is.

        Args:
            where: what they are for, for the message.
            objects: anything, by the names that the caller knows them by.

        Raises:
            PrivateObject: the first that is, by its name.
        """
        for name, value in objects.items():
            refuse_private(value, where, name)

    def seeds(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Let texts pass that examples in prompts are taken from.

        Args:
            texts: public or synthetic ones.

        Raises:
            PrivateObject: they are private by their type.
            PrivateText: one shares words with the private set; the message says its number.
            InvalidSetting: one that is no text, or a text where several belong.
        """
        refuse_private(texts, "seeds", "seeds")
        if isinstance(texts, str):
            raise InvalidSetting("seeds is one text: it must be a list of them")
        listed = tuple(texts)
        for number, text in enumerate(listed):
            refuse_private(text, "seeds", f"seed {number}")
            if not isinstance(text, str) or not text.strip():
                raise InvalidSetting(
                    f"seed {number} is {'empty' if isinstance(text, str) else type(text).__name__}"
                    ": it must be a text"
                )
            if self._ngrams is not None and (shared := self._ngrams.shared(text)):
                raise PrivateText(
                    f"seed {number} shares {shared} words in a row with the private set: seeds "
                    "must be public or synthetic; take it out, or write another. (Responses that "
                    "are names of labels are public: the client is told so by public_responses)"
                )
        return listed


def refuse_private(value: Any, where: str, name: str) -> None:
    """Raise where a value is private, or holds something that is, however deep.

    Containers, fields, attributes, and what functions have bound are looked into; tensors, models
    of torch, and iterators that have not run are not.

    Args:
        value: anything.
        where: what it is for.
        name: what the caller calls it.

    Raises:
        PrivateObject: it names the type found, and where it hung.
    """
    seen: dict[int, Any] = {}  # the values, too: the address of a freed one may be another's
    pending: list[tuple[Any, str]] = [(value, name)]
    while pending:
        item, path = pending.pop()
        kind = item if isinstance(item, type) else type(item)
        if _is_private(kind):
            raise PrivateObject(
                f"{where} was given {path}, which is of the private type {kind.__name__}: after "
                "the release only the proxies, public data and what was made of them may be used; "
                "read public data with read_records(..., private=False)"
            )
        if isinstance(item, _PLAIN) or id(item) in seen:
            continue
        seen[id(item)] = item
        pending += _held(item, path)


def _is_private(kind: type) -> bool:
    return any(base.__name__ in _PRIVATE.get(base.__module__, ()) for base in kind.__mro__)


def _held(item: Any, path: str) -> list[tuple[Any, str]]:
    """What a value holds, and how one gets there."""
    import numpy as np
    import torch

    if isinstance(item, (torch.Tensor, torch.nn.Module, type, types.ModuleType)):
        return []
    if isinstance(item, Mapping):
        keys = [(key, f"a key of {path}") for key in item]
        return keys + [(part, f"an item of {path}") for part in item.values()]
    if isinstance(item, np.ndarray) and item.dtype == object:
        item = item.ravel().tolist()
    if isinstance(item, _MANY):
        return [(part, f"an item of {path}") for part in item]
    if isinstance(item, functools.partial):
        return [(part, f"an argument of {path}") for part in (item.func, item.args, item.keywords)]
    held = [(part, f"a variable of {path}") for part in _variables(item)]
    if (bound := getattr(item, "__self__", None)) is not None:
        held.append((bound, f"the object of {path}"))
    if dataclasses.is_dataclass(item):
        names = [field.name for field in dataclasses.fields(item)]
        held += [(getattr(item, name, None), f"{path}.{name}") for name in names]
    slots = [name for base in type(item).__mro__ for name in vars(base).get("__slots__", ())]
    held += [(getattr(item, name, None), f"{path}.{name}") for name in slots]
    attributes = getattr(item, "__dict__", None)
    if isinstance(attributes, dict):
        held += [(part, f"{path}.{name}") for name, part in attributes.items()]
    return held


def _variables(item: Any) -> list[Any]:
    """What a function has bound, and the variables of its module that it names."""
    if not isinstance(item, types.FunctionType):
        return []
    bound = []
    for cell in item.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable that is not set yet
            bound.append(cell.cell_contents)
    named = [item.__globals__.get(name) for name in item.__code__.co_names]
    return bound + [part for part in named if not isinstance(part, types.FunctionType)]
