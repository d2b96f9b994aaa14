"""The two ways in which a Marian decoder looks back on what it has written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psfuture.bergamot_layers import Affine, Around, Attention, Cache, FeedForward, Weights
from psfuture.marian_options import MarianOptions


class SSRU(nn.Module):
    """Simpler simple recurrent unit (Kim et al. 2019, section 3.2), and what surrounds it.

        f_t = sigmoid(x_t W_f + b_f),  c_t = f_t * c_(t-1) + (1 - f_t) * (x_t W),  h_t = relu(c_t)

    Its cache is the cell (B, d).

    Args:
        weights: to take its weights from.
        options: of the model.
        name: such as "decoder_l1".
    """

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__()
        d, name = options.width, f"{name}_rnn"
        self.new = Affine(weights, (f"{name}_W", ""), d, d)
        self.forget = Affine(weights, (f"{name}_Wf", f"{name}_bf"), d, d)
        self.around = Around(
            weights, options, (name, options.before), (f"{name}_ffn", options.after)
        )

    def replay(self, x: Tensor, ends: Tensor | None) -> tuple[Tensor, Cache]:
        """Outputs (B, T, d) of all inputs, and the cache after the inputs at `ends` (B)."""
        entered = self.around.enter(x)
        forget = torch.sigmoid(self.forget(entered)).unbind(1)
        new = self.new(entered).unbind(1)
        cell, course = torch.zeros_like(new[0]), []
        for f, n in zip(forget, new, strict=True):
            cell = torch.lerp(n, cell, f)
            course.append(cell)
        cells = torch.stack(course, 1)
        after = () if ends is None else (cells[torch.arange(len(x), device=x.device), ends],)
        return self.around.leave(cells.relu(), x), after

    def step(self, x: Tensor, cache: Cache, lengths: Tensor) -> tuple[Tensor, Cache]:
        """Output (B, 1, d) of one more input after `lengths` (B) of them."""
        entered = self.around.enter(x)
        cell = torch.lerp(self.new(entered), cache[0][:, None], torch.sigmoid(self.forget(entered)))
        return self.around.leave(cell.relu(), x), (cell[:, 0],)


class SelfAttention(Attention):
    """Attention to the inputs so far; its cache is their keys and values.

    Both are (B, heads, T, d / heads); what a row has after its own length means nothing.
    """

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__(weights, options, f"{name}_self")

    def replay(self, x: Tensor, ends: Tensor | None) -> tuple[Tensor, Cache]:
        """See :meth:`SSRU.replay`."""
        cache = self.keys_values(x)
        return self.mix(x, self.queries(x), cache, causal=True), cache

    def step(self, x: Tensor, cache: Cache, lengths: Tensor) -> tuple[Tensor, Cache]:
        """See :meth:`SSRU.step`."""
        places = int(lengths.max()) + 1
        rows = torch.arange(len(x), device=x.device)
        grown = []
        for old, new in zip(cache, self.keys_values(x), strict=True):
            wide = old.new_zeros(*old.shape[:2], places, old.shape[3])
            held = min(places, old.shape[2])
            wide[:, :, :held] = old[:, :, :held]
            wide[rows, :, lengths] = new[:, :, 0]
            grown.append(wide)
        mask = torch.arange(places, device=x.device) <= lengths[:, None]
        return self.mix(x, self.queries(x), tuple(grown), mask[:, None, None]), tuple(grown)


class DecoderLayer(nn.Module):
    """One layer: back to the target, over to the source, and on.

    Args:
        weights: to take its weights from.
        options: of the model.
        name: such as "decoder_l1".
    """

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__()
        kind = SSRU if options.recurrent else SelfAttention
        self.back: SSRU | SelfAttention = kind(weights, options, name)
        self.context = Attention(weights, options, f"{name}_context")
        self.on = FeedForward(weights, options, f"{name}_ffn")

    def over(self, x: Tensor, context: Cache, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output (B, T, d), and the queries (B, heads, T, d / heads) that looked at the source."""
        queries = self.context.queries(x)
        return self.on(self.context.mix(x, queries, context, mask)), queries
