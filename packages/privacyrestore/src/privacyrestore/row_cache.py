"""Keys and values of rows of different lengths, which join and leave between two tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lipogram.errors import UnsupportedArchitecture
from lipogram.llm.wrappers import unwrap

_ATTENTION = ("full_attention", "sliding_attention")


class RowCache:
    """A padded cache: every row ends in the last column, and the padding is on its left.

    A layer with a sliding window keeps all columns too. The model's mask then hides those outside
    of the window by their distance, which padding on the left does not change.

    Attributes:
        cache: what the model is called with; layers hold [b, heads, t, d].
        lengths: tokens of each row.
    """

    def __init__(self, lengths: Sequence[int]):
        self.cache = DynamicCache()
        self.lengths = list(lengths)

    @property
    def width(self) -> int:
        """Columns: the tokens of the longest row."""
        return max(self.lengths, default=0)

    def mask(self, device: torch.device) -> Tensor:
        """(b, t) int64, 0 on padding."""
        columns = torch.arange(self.width, device=device)
        starts = self.width - torch.tensor(self.lengths, device=device)
        return (columns >= starts[:, None]).long()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, and only the columns that one of them needs."""
        width, before = max((self.lengths[row] for row in rows), default=0), self.width
        self.lengths = [self.lengths[row] for row in rows]
        for layer in self._layers():
            index = torch.tensor(rows, dtype=torch.int64, device=layer.keys.device)  # also none
            for name in ("keys", "values"):
                kept = getattr(layer, name)[:, :, before - width :].index_select(0, index)
                setattr(layer, name, kept)

    def join(self, other: "RowCache") -> None:
        """Put the rows of another cache of the same model under the rows of this one."""
        if not self.lengths:
            self.cache, self.lengths = other.cache, other.lengths
            return
        widths = self.width, other.width
        joined = [
            [
                torch.cat([pad(held, (0, 0, max(widths) - width, 0)) for held, width in both])
                for both in (
                    [(mine.keys, widths[0]), (theirs.keys, widths[1])],
                    [(mine.values, widths[0]), (theirs.values, widths[1])],
                )
            ]
            for mine, theirs in zip(self._layers(), other._layers(), strict=True)
        ]
        for layer, (keys, values) in zip(self._layers(), joined, strict=True):  # all or none
            layer.keys, layer.values = keys, values
        self.lengths += other.lengths

    def _layers(self) -> list[Any]:
        """The layers that hold something; a layer that reads another's keys has none."""
        layers: list[Any] = self.cache.layers
        return [layer for layer in layers if layer.is_initialized]


def check_cache(model: Any) -> None:
    """Refuse a model whose rows keep more than keys and values, one column a token.

    Raises:
        UnsupportedArchitecture: recurrent states, chunked or indexed attention, or another cache.
    """
    config = unwrap(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - set(_ATTENTION)
    kinds |= {
        type(layer).__name__
        for layer in DynamicCache(config=config).layers
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
    }
    if kinds:
        raise UnsupportedArchitecture(
            config.model_type,
            _ATTENTION,
            f"layers of type {', '.join(sorted(kinds))} cannot be padded and joined in one batch",
        )
