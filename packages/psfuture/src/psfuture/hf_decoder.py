"""The decoder of a model of transformers, one pass at a time, with caches that belong to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from lipogram.errors import InvalidSetting
from psfuture.hf_attention import HFAttention
from psfuture.hf_state import Layers, source_mask

_AGREE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest logit; halves: 5 %
_COARSE = 0.05


class HFDecoder:
    """Decoder and head of an `AutoModelForSeq2SeqLM`, taken apart.

    The head is applied where a next token is wanted and nowhere else. transformers marks
    cross-attention caches as filled and would use them for another source too; here a cache is made
    for one source and leaves with its rows.

    Args:
        model: of transformers, in evaluation mode.

    Attributes:
        attention: of its last layer to the source.

    Raises:
        InvalidSetting: the model has no decoder and head to take apart.
    """

    def __init__(self, model: Any):
        self.model = model
        self.scale = 1.0
        try:
            self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        except AttributeError as error:
            raise InvalidSetting(f"{type(model).__name__} is no encoder-decoder: {error}") from None
        if self.decoder is None or self.head is None:
            raise InvalidSetting(f"{type(model).__name__} has no decoder with an output layer")
        self.attention = HFAttention(self.decoder)
        self.vocab_size: int = self.head.weight.shape[0]

    def replay(
        self, ids: Tensor, encodings: Tensor, sources: Sequence[int]
    ) -> tuple[Tensor, Tensor | None, Layers, Layers]:
        """Run over inputs from the first one on, with caches of their own.

        Args:
            ids: (B, T) inputs, padded at the right with any token.
            encodings: (B, S, d), padded at the right.
            sources: tokens of each row's source.

        Returns:
            Hidden states (B, T, d), queries of the last cross-attention (B, T, …) if they can be
            had, self-attention caches, cross-attention caches.
        """
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        mask = source_mask(sources, ids.device)
        hidden, queries = self._run(ids, encodings, mask, cache)
        own, cross = _layers(cache.self_attention_cache), _layers(cache.cross_attention_cache)
        return hidden, queries, own, cross

    def append(
        self, ids: Tensor, own: Layers, cross: Layers, sources: Sequence[int]
    ) -> tuple[Tensor, Tensor | None, Layers]:
        """Run over inputs that follow those in the caches, which stay as they are.

        Args:
            ids: (B, T) inputs, padded at the right with any token.
            own: self-attention caches, every place filled.
            cross: cross-attention caches.
            sources: tokens of each row's source.

        Returns:
            Hidden states (B, T, d), queries as of :meth:`replay`, and the self-attention caches
            with T more places.
        """
        cache = EncoderDecoderCache(cache_over(own), cache_over(cross))
        places = cross[0][0].shape[2]
        # Only its shape is looked at; should a model read more, it reads NaN.
        absent = cross[0][0].new_full((1, 1, 1), torch.nan).expand(len(ids), places, 1)
        mask = source_mask(sources, ids.device)[:, :places]
        hidden, queries = self._run(ids, absent, mask, cache)
        return hidden, queries, _layers(cache.self_attention_cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, d) to (B, V), float32."""
        logits: Tensor = self.head(hidden * self.scale if self.scale != 1 else hidden)
        bias = getattr(self.model, "final_logits_bias", None)
        return (logits if bias is None else logits + bias).float()

    def calibrate(self, source: Sequence[int], inputs: Sequence[int]) -> None:
        """On one row, try the caches and find how hidden states are scaled before the head.

        Whether attention can be told is found out, too.

        Args:
            source: source tokens.
            inputs: three decoder inputs or more, start tokens first.

        Raises:
            InvalidSetting: the parts give other logits than the model as a whole.
        """
        ids = torch.tensor([source], device=self.model.device)
        fed = torch.tensor([inputs], device=self.model.device)
        mask = torch.ones_like(ids)
        known = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=fed)
        wanted = known.logits[0, -1].float()
        try:
            encoder = self.model.get_encoder()
            encodings = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            with self.attention.mixtures() as mixed:
                _, queries, own, cross = self.replay(fed[:, :-2], encodings, [len(source)])
            self.attention.check(queries, mixed, cross[-1])
            hidden, _, _ = self.append(fed[:, -2:], own, cross, [len(source)])
            width = hidden.shape[-1]
            tried = {}
            for self.scale in (1.0, width**-0.5):  # T5 scales where embeddings are tied
                off = (self.logits(hidden[:, -1])[0] - wanted).abs().max()
                tried[self.scale] = float(off / wanted.abs().max().clamp_min(1e-12))
        except (AttributeError, TypeError, IndexError, ValueError, RuntimeError) as error:
            raise InvalidSetting(self._cannot(str(error))) from error
        self.scale, off = min(tried.items(), key=lambda pair: pair[1])
        if not off <= _AGREE.get(self.model.dtype, _COARSE):
            raise InvalidSetting(
                self._cannot(f"its logits are off by {off:.1e} when its caches are reused")
            )

    def _cannot(self, why: str) -> str:
        return f"a model of type {self.model.config.model_type!r} cannot be run step by step: {why}"

    def _run(
        self, ids: Tensor, encodings: Tensor, mask: Tensor, cache: Any
    ) -> tuple[Tensor, Tensor | None]:
        with self.attention.queries() as queries:
            hidden: Tensor = self.decoder(
                input_ids=ids,
                encoder_hidden_states=encodings,
                encoder_attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        return hidden, queries[0] if queries else None


def cache_over(layers: Sequence[tuple[Tensor, Tensor]]) -> Cache:
    """A cache over these tensors, without a copy; growing it makes new ones."""
    held: list[Any] = []
    for keys, values in layers:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        held.append(layer)
    return Cache(layers=held)


def _layers(cache: Any) -> Layers:
    return tuple((layer.keys, layer.values) for layer in cache.layers)
