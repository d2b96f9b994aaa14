"""fairseq's transformer in plain PyTorch (Vaswani et al. 2017), pre- or post-norm.

Weights keep fairseq's names. Positions count from `padding_idx + 1` = 2; sinusoids are sines, then
cosines, of frequencies 10000^(-i / (d/2 - 1)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.fairseq_dictionary import PAD
from psfuture.fairseq_settings import ACTIVATIONS, FairseqSettings, Half, Part

KeysValues = tuple[Tensor, Tensor]
"""Of one attention, each (B, heads, places, d / heads)."""

_FIRST_POSITION = PAD + 1


class FairseqNetwork(nn.Module):
    """Weights under fairseq's names, and the two halves of the forward pass.

    Args:
        settings: of the network.
        weights: :attr:`psfuture.fairseq_checkpoint.FairseqCheckpoint.weights`; copied, those that
            are one tensor under several names once.

    Raises:
        CorruptState: a weight is missing or does not fit the others.
        InvalidSetting: there are weights of something that is not read here.
    """

    def __init__(self, settings: FairseqSettings, weights: Mapping[str, Tensor]):
        super().__init__()
        self.settings = settings
        self.activation = ACTIVATIONS[settings.activation]
        held = dict(weights)
        if settings.shared and "decoder.embed_tokens.weight" in held:
            held.setdefault("decoder.output_projection.weight", held["decoder.embed_tokens.weight"])
        self.width = {part: _width(held, part) for part in ("encoder", "decoder")}
        for part in ("encoder", "decoder"):
            half: Half = getattr(settings, part)
            if half.layers > len(held):  # before they are counted through
                raise CorruptState(f"the checkpoint has no weights for {half.layers} layers")
            if self.width[part] % half.heads:
                raise CorruptState(
                    f"{half.heads} heads do not divide the {part}'s {self.width[part]}"
                )
        for name, value in held.items():
            if not value.ndim:
                raise CorruptState(f"{name} is one number, and a vector or matrix is needed")
        wanted = dict(self._shapes(held))
        if missing := sorted(wanted.keys() - held.keys()):
            raise CorruptState(f"the checkpoint lacks {len(missing)} weights, such as {missing[0]}")
        if others := sorted(held.keys() - wanted.keys()):
            raise InvalidSetting(
                f"the checkpoint holds {len(others)} weights of a network that is not read here, "
                f"such as {others[0]}"
            )
        for name, shape in wanted.items():
            if tuple(held[name].shape) != shape:
                raise CorruptState(f"{name} is {tuple(held[name].shape)}, and {shape} is needed")
        copies: dict[tuple[int, ...], nn.Parameter] = {}
        self.kept = nn.ParameterDict()
        for name in wanted:
            value = held[name]
            key = (value.data_ptr(), *value.shape, *value.stride())
            if key not in copies:
                copies[key] = nn.Parameter(value.detach().float().clone(), requires_grad=False)
            self.kept[name.replace(".", "/")] = copies[key]
        self.source_symbols = len(self._weight("encoder.embed_tokens.weight"))
        self.vocab_size = len(self._weight("decoder.output_projection.weight"))

    def limit(self, part: Part) -> int:
        """Tokens that one half takes: those it was trained for, and no more than were learnt."""
        settings = self.settings
        limit = settings.max_source if part == "encoder" else settings.max_target
        learnt = f"{part}/embed_positions/weight"
        return (
            min(limit, len(self.kept[learnt]) - _FIRST_POSITION) if learnt in self.kept else limit
        )

    def _shapes(self, held: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all the weights; optional ones where they are there."""
        source, target = self.width["encoder"], self.width["decoder"]
        for part, d in self.width.items():
            half: Half = getattr(self.settings, part)
            symbols = len(held[f"{part}.embed_tokens.weight"])
            yield f"{part}.embed_tokens.weight", (symbols, d)
            learnt = held.get(f"{part}.embed_positions.weight")
            if learnt is not None:
                yield f"{part}.embed_positions.weight", (len(learnt), d)
            norms = [f"{part}.layernorm_embedding"]
            # Older versions stop after the last block, whatever its norms (version < 3).
            norms += [f"{part}.layer_norm"] if half.pre_norm else []
            for norm in norms:
                if f"{norm}.weight" in held:
                    yield from _norm_shapes(norm, d)
            for number in range(half.layers):
                layer = f"{part}.layers.{number}"
                yield from _attention_shapes(f"{layer}.self_attn", d, d)
                yield from _norm_shapes(f"{layer}.self_attn_layer_norm", d)
                if part == "decoder":
                    yield from _attention_shapes(f"{layer}.encoder_attn", target, source)
                    yield from _norm_shapes(f"{layer}.encoder_attn_layer_norm", d)
                inner = len(held.get(f"{layer}.fc1.bias", torch.empty(0)))
                yield from _linear_shapes(f"{layer}.fc1", inner, d)
                yield from _linear_shapes(f"{layer}.fc2", d, inner)
                yield from _norm_shapes(f"{layer}.final_layer_norm", d)
        symbols = len(held["decoder.embed_tokens.weight"])
        yield "decoder.output_projection.weight", (symbols, target)

    def encode(self, ids: Tensor, kept: Tensor) -> Tensor:
        """Encoder states.

        Args:
            ids: (B, S) source tokens, padded at the right.
            kept: (B, S), true where there is a token.

        Returns:
            (B, S, d).
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self._embed("encoder", ids, places)
        mask = kept[:, None, None, :]
        if self.settings.causal_encoder:
            mask = mask & (places[:, None] >= places)
        for number in range(self.settings.encoder.layers):
            layer = f"encoder.layers.{number}"
            before = self._before("encoder", f"{layer}.self_attn_layer_norm", x)
            memory = self._keys_values("encoder", f"{layer}.self_attn", before)
            attended = self._attend("encoder", f"{layer}.self_attn", before, memory, mask)
            x = self._after("encoder", f"{layer}.self_attn_layer_norm", x + attended)
            x = self._feed_forward("encoder", layer, x)
        return self._last_norm("encoder", x)

    def context(self, encodings: Tensor) -> list[KeysValues]:
        """Keys and values of each layer's attention to the source; fixed for one source."""
        return [
            self._keys_values("decoder", f"decoder.layers.{number}.encoder_attn", encodings)
            for number in range(self.settings.decoder.layers)
        ]

    def decode(
        self,
        ids: Tensor,
        places: Tensor,
        own: list[KeysValues] | None,
        context: list[KeysValues],
        source: Tensor,
    ) -> tuple[Tensor, Tensor, list[KeysValues]]:
        """Run the decoder, over whole inputs or over one more token a row.

        Args:
            ids: (B, T) inputs, padded at the right; T is 1 where there are caches.
            places: (B, T) or (T,) places of the inputs in their rows, from 0 on.
            own: self-attention caches, a pair a layer, in which row i fills the places before
                `places[i, 0]`; they stay as they are. None starts anew.
            context: of :meth:`context`.
            source: (B, 1, 1, S), true where the source has a token.

        Returns:
            Hidden states (B, T, d), what the last layer's attention to the source is asked
            (B, T, d), and the caches with these inputs in their places.
        """
        asking = x = self._embed("decoder", ids, places)
        grown = []
        rows = torch.arange(len(ids), device=ids.device)
        length = ids.shape[1] if own is None else own[0][0].shape[2] + 1
        reach = torch.arange(length, device=ids.device) <= places[..., None]
        mask = reach if own is None else reach[:, None]
        for number in range(self.settings.decoder.layers):
            layer = f"decoder.layers.{number}"
            before = self._before("decoder", f"{layer}.self_attn_layer_norm", x)
            memory = self._keys_values("decoder", f"{layer}.self_attn", before)
            if own is not None:
                wide = [functional.pad(held, (0, 0, 0, 1)) for held in own[number]]
                for held, new in zip(wide, memory, strict=True):
                    held[rows, :, places[:, 0]] = new[:, :, 0]
                memory = (wide[0], wide[1])
            grown.append(memory)
            attended = self._attend("decoder", f"{layer}.self_attn", before, memory, mask)
            x = self._after("decoder", f"{layer}.self_attn_layer_norm", x + attended)
            asking = self._before("decoder", f"{layer}.encoder_attn_layer_norm", x)
            attended = self._attend(
                "decoder", f"{layer}.encoder_attn", asking, context[number], source
            )
            x = self._after("decoder", f"{layer}.encoder_attn_layer_norm", x + attended)
            x = self._feed_forward("decoder", layer, x)
        return self._last_norm("decoder", x), asking, grown

    def attention(self, asking: Tensor, keys: Tensor, source: Tensor) -> Tensor:
        """Attention of the last layer to the source, the mean of its heads.

        Args:
            asking: (B, d), of :meth:`decode`, one place a row.
            keys: (B, heads, S, d / heads), the last of :meth:`context`.
            source: (B, 1, 1, S), true where the source has a token.

        Returns:
            (B, S), float32; rows sum to 1.
        """
        last = f"decoder.layers.{self.settings.decoder.layers - 1}.encoder_attn"
        queries = self._heads("decoder", self._linear(f"{last}.q_proj", asking[:, None]))
        scores = (queries @ keys.transpose(2, 3)).float() / math.sqrt(keys.shape[-1])
        return scores.masked_fill(~source, -torch.inf).softmax(-1).mean(1)[:, 0]

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d) to (…, V)."""
        return functional.linear(hidden, self._weight("decoder.output_projection.weight"))

    def _embed(self, part: Part, ids: Tensor, places: Tensor) -> Tensor:
        d = self.width[part]
        x = functional.embedding(ids, self._weight(f"{part}.embed_tokens.weight"))
        x = x * math.sqrt(d) if self.settings.scaled else x
        if self.settings.positions:
            at = places + _FIRST_POSITION
            learnt = f"{part}/embed_positions/weight"
            x = x + (
                functional.embedding(at, self.kept[learnt])
                if learnt in self.kept
                else _sinusoids(at, d).to(x)
            )
        name = f"{part}.layernorm_embedding"
        return self._norm(name, x) if f"{part}/layernorm_embedding/weight" in self.kept else x

    def _keys_values(self, part: Part, name: str, x: Tensor) -> KeysValues:
        keys, values = (self._linear(f"{name}.{gate}_proj", x) for gate in "kv")
        return self._heads(part, keys), self._heads(part, values)

    def _attend(self, part: Part, name: str, x: Tensor, memory: KeysValues, mask: Tensor) -> Tensor:
        queries = self._heads(part, self._linear(f"{name}.q_proj", x))
        mixed = functional.scaled_dot_product_attention(queries, *memory, attn_mask=mask)
        return self._linear(f"{name}.out_proj", mixed.transpose(1, 2).flatten(2))

    def _feed_forward(self, part: Part, layer: str, x: Tensor) -> Tensor:
        norm = f"{layer}.final_layer_norm"
        inner = self.activation(self._linear(f"{layer}.fc1", self._before(part, norm, x)))
        return self._after(part, norm, x + self._linear(f"{layer}.fc2", inner))

    def _before(self, part: Part, norm: str, x: Tensor) -> Tensor:
        half: Half = getattr(self.settings, part)
        return self._norm(norm, x) if half.pre_norm else x

    def _after(self, part: Part, norm: str, x: Tensor) -> Tensor:
        half: Half = getattr(self.settings, part)
        return x if half.pre_norm else self._norm(norm, x)

    def _last_norm(self, part: Part, x: Tensor) -> Tensor:
        return (
            self._norm(f"{part}.layer_norm", x) if f"{part}/layer_norm/weight" in self.kept else x
        )

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return functional.layer_norm(x, scale.shape, scale, shift)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"))

    def _heads(self, part: Part, x: Tensor) -> Tensor:
        half: Half = getattr(self.settings, part)
        return x.unflatten(-1, (half.heads, -1)).transpose(1, 2)

    def _weight(self, name: str) -> Tensor:
        return self.kept[name.replace(".", "/")]


def _sinusoids(at: Tensor, width: int) -> Tensor:
    """(…, d) of positions (…), float32."""
    half = width // 2
    # In float32, as fairseq does it, so that late positions have its angles.
    rates = torch.exp(
        torch.arange(half, dtype=torch.float32, device=at.device)
        * -(math.log(10000) / max(half - 1, 1))
    )
    angles = at[..., None].float() * rates
    return functional.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, width % 2))


def _width(held: Mapping[str, Tensor], part: str) -> int:
    table = held.get(f"{part}.embed_tokens.weight")
    if table is None or table.ndim != 2:
        raise CorruptState(f"the checkpoint has no embeddings {part}.embed_tokens.weight")
    return table.shape[1]


def _linear_shapes(name: str, out: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, width)
    yield f"{name}.bias", (out,)


def _norm_shapes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _attention_shapes(name: str, width: int, memory: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear_shapes(f"{name}.q_proj", width, width)
    yield from _linear_shapes(f"{name}.k_proj", width, memory)
    yield from _linear_shapes(f"{name}.v_proj", width, memory)
    yield from _linear_shapes(f"{name}.out_proj", width, width)
