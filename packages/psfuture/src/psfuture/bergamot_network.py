"""Marian's transformers in PyTorch: Bergamot's tiny models with SSRU decoders, and plain ones.

Vaswani et al. 2017, as Marian has it: no norm at the ends of the stacks unless its options ask for
one, a vector of zeros as the decoder's first input, one embedding matrix for all if so tied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from psfuture.bergamot_decoder import DecoderLayer
from psfuture.bergamot_layers import Around, Attention, Cache, FeedForward, Named, Weights
from psfuture.marian_options import MarianOptions

POSITIONS = 512


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part; see :class:`DecoderLayer`."""

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__()
        self.attention = Attention(weights, options, f"{name}_self")
        self.on = FeedForward(weights, options, f"{name}_ffn")

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, d) to (B, S, d); `mask` is true where the source has a token."""
        attention = self.attention
        mixed = attention.mix(x, attention.queries(x), attention.keys_values(x), mask)
        found: Tensor = self.on(mixed)
        return found


class BergamotNetwork(Named):
    """An encoder, a decoder, and the embeddings and output around them.

    Args:
        weights: as :func:`psfuture.marian_file.read_marian` gives them.
        options: likewise.

    Attributes:
        width: d.
        vocab_size: V of the target.
        source_size: of the source; the same where they share their embeddings.

    Raises:
        InvalidSetting: a network of another kind, by its options or its weights.
        CorruptState: a weight is missing or of the wrong shape.
    """

    source_table: Tensor
    own_target_table: Tensor
    output: Tensor
    output_bias: Tensor | None
    table: Tensor

    def __init__(self, weights: Mapping[str, Tensor], options: Mapping[str, str]):
        super().__init__()
        kind = MarianOptions.read(options)
        self.options, self.kind, self.width = dict(options), kind, kind.width
        left = Weights(weights)
        self.source_size = left.rows(kind.source_table)
        self.vocab_size = left.rows(kind.target_table)
        self.own("source_table", left, kind.source_table, self.source_size, self.width)
        self.shared = kind.target_table == kind.source_table
        if not self.shared:
            self.own("own_target_table", left, kind.target_table, self.vocab_size, self.width)
        if not kind.tied_output:
            self.own("output", left, "decoder_ff_logit_out_W", self.width, self.vocab_size)
        if kind.output_bias:
            self.own("output_bias", left, "decoder_ff_logit_out_b", self.vocab_size)
        else:
            self.output_bias = None
        self.ends = nn.ModuleDict(
            {
                side: Around(
                    left, kind, (f"{side}_emb", kind.before_all), (f"{side}_top", kind.after_all)
                )
                for side in ("encoder", "decoder")
            }
        )
        self.encoder = nn.ModuleList()
        for number in range(1, kind.encoder_layers + 1):
            self.encoder.append(EncoderLayer(left, kind, f"encoder_l{number}"))
        self.decoder = nn.ModuleList()
        for number in range(1, kind.decoder_layers + 1):
            self.decoder.append(DecoderLayer(left, kind, f"decoder_l{number}"))
        left.finish()
        self.register_buffer("table", sinusoids(POSITIONS, self.width), persistent=False)

    @property
    def target_table(self) -> Tensor:
        """(V, d), the target's embeddings."""
        return self.source_table if self.shared else self.own_target_table

    def weights(self) -> dict[str, Tensor]:
        """All weights, detached, under the file's names; of use to the constructor again."""
        return {
            name: cast(Tensor, getattr(module, attribute)).detach()
            for module in self.modules()
            if isinstance(module, Named)
            for attribute, name in module.names.items()
        }

    def teacher_forced(self, ids: Tensor, kept: Tensor, targets: Tensor) -> Tensor:
        """Logits of each target token after those before it; gradients reach every weight.

        There is no dropout: a model's file does not say how it was trained.

        Args:
            ids: (B, S) source tokens, padded at the right with any token.
            kept: (B, S), true where there is a token.
            targets: (B, T) target tokens, the end of sentence among them, padded likewise.

        Returns:
            (B, T, V); column t of `targets` is what place t should predict.
        """
        mask = kept[:, None, None, :]
        context = self.context(self.encode(ids, kept))
        hidden, _, _ = self.replay(targets[:, :-1], context, mask)
        return self.logits(hidden)

    def encode(self, ids: Tensor, kept: Tensor | None) -> Tensor:
        """Encoder states.

        Args:
            ids: (B, S) source tokens, padded at the right.
            kept: (B, S), true where there is a token; None where all are.

        Returns:
            (B, S, d).
        """
        first = self._embed(self.source_table, ids) + self.positions(ids.shape[1])
        mask = None if kept is None else kept[:, None, None, :]
        x = self._around("encoder").enter(first)
        for layer in self.encoder:
            x = layer(x, mask)
        return self._around("encoder").leave(x, first)

    def context(self, encodings: Tensor) -> tuple[Cache, ...]:
        """Keys and values of the decoder's attention, a pair a layer; fixed for one source."""
        return tuple(layer.context.keys_values(encodings) for layer in self._layers())

    def replay(
        self,
        tokens: Tensor,
        context: Sequence[Cache],
        mask: Tensor | None,
        ends: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Cache, ...], Tensor]:
        """Run the decoder over inputs that are all known: a zero vector, then the tokens.

        Args:
            tokens: (B, T - 1), padded at the right.
            context: of :meth:`context`.
            mask: (B, 1, 1, S), true where the source has a token; None where all have.
            ends: (B) of each row's last input, if nothing else is wanted; None for all T.

        Returns:
            Hidden states (B, T, d), the layers' caches, and the queries (B, heads, T, d / heads) of
            the last layer's attention to the source. With `ends` T is 1, and the caches are those
            after it; without, they are of no use.
        """
        embedded = nn.functional.pad(self._embed(self.target_table, tokens), (0, 0, 1, 0))
        first = embedded + self.positions(embedded.shape[1])
        x = self._around("decoder").enter(first)
        caches = []
        for number, layer in enumerate(self._layers(), 1):
            x, cache = layer.back.replay(x, ends)
            caches.append(cache)
            if ends is not None and number == len(self.decoder):
                rows = torch.arange(len(x), device=x.device)
                x, first = x[rows, ends][:, None], first[rows, ends][:, None]
            x, queries = layer.over(x, context[number - 1], mask)
        return self._around("decoder").leave(x, first), tuple(caches), queries

    def step(
        self,
        tokens: Tensor,
        caches: Sequence[Cache],
        lengths: Tensor,
        context: Sequence[Cache],
        mask: Tensor | None,
    ) -> tuple[Tensor, tuple[Cache, ...], Tensor]:
        """One more token (B) a row, after `lengths` (B) inputs; as :meth:`replay` with `ends`."""
        self.positions(int(lengths.max()) + 1)
        first = (self._embed(self.target_table, tokens) + self.table[lengths])[:, None]
        x = self._around("decoder").enter(first)
        grown = []
        for layer, cache, looked_at in zip(self._layers(), caches, context, strict=True):
            x, after = layer.back.step(x, cache, lengths)
            grown.append(after)
            x, queries = layer.over(x, looked_at, mask)
        return self._around("decoder").leave(x, first), tuple(grown), queries

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d) to (…, V)."""
        weight = self.target_table if self.kind.tied_output else self.output.T
        return nn.functional.linear(hidden, weight, self.output_bias)

    def positions(self, length: int) -> Tensor:
        """(length, d) of what the first positions add to embeddings."""
        if length > len(self.table):
            with torch.inference_mode(False):
                self.table = sinusoids(2 * length, self.width).to(self.table)
        return self.table[:length]

    def _embed(self, table: Tensor, tokens: Tensor) -> Tensor:
        return math.sqrt(self.width) * nn.functional.embedding(tokens, table)

    def _around(self, side: str) -> Around:
        return cast(Around, self.ends[side])

    def _layers(self) -> Sequence[DecoderLayer]:
        return cast(Sequence[DecoderLayer], self.decoder)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines, then cosines, of frequencies 10000^(-i / (width/2 - 1))."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
