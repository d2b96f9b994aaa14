"""What fairseq's settings say about a transformer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lipogram.errors import CorruptState, InvalidSetting

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu_squared": lambda x: functional.relu(x).square(),
    "gelu": functional.gelu,
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_accurate": lambda x: functional.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "linear": lambda x: x,
}
Part = Literal["encoder", "decoder"]

# What changes the network without leaving a weight behind.
_UNREAD = (
    "adaptive_input",
    "adaptive_softmax_cutoff",
    "base_layers",
    "char_inputs",
    "cross_self_attention",
    "decoder_layers_to_keep",
    "encoder_layers_to_keep",
    "no_cross_attention",
)
# fairseq's and attn2d's models whose encoder looks at no later word.
_CAUSAL = re.compile(r"(legacy_)?waitk_transformer.*|transformer_(unidirectional|monotonic).*")


@dataclass(frozen=True)
class Half:
    """One half of the network.

    Attributes:
        layers: blocks.
        heads: of each attention.
        pre_norm: each block normalises its input, not its output.
    """

    layers: int
    heads: int
    pre_norm: bool


@dataclass(frozen=True)
class FairseqSettings:
    """A transformer as fairseq's command line describes it.

    Attributes:
        encoder: its encoder.
        decoder: its decoder.
        activation: between the layers of each feed-forward part; a key of `ACTIVATIONS`.
        scaled: embeddings are multiplied by the root of their width.
        positions: there are position embeddings.
        causal_encoder: a source token attends to no later one.
        shared: target embeddings are the output layer.
        max_source: source tokens, the end of sentence included, that it was trained for.
        max_target: decoder inputs that it was trained for.
    """

    encoder: Half
    decoder: Half
    activation: str
    scaled: bool
    positions: bool
    causal_encoder: bool
    shared: bool
    max_source: int
    max_target: int

    @classmethod
    def read(
        cls, settings: Mapping[str, Any], *, causal_encoder: bool | None = None
    ) -> FairseqSettings:
        """The network of some settings.

        Args:
            settings: :attr:`psfuture.fairseq_checkpoint.FairseqCheckpoint.model`.
            causal_encoder: whether a source token attends to no later one; None reads it from the
                settings (`encoder_unidirectional`) or the architecture's name (`waitk_transformer`,
                `transformer_unidirectional`, `transformer_monotonic`).

        Raises:
            CorruptState: a setting is missing or of the wrong type.
            InvalidSetting: a network of a kind that is not read; the message names the setting.
        """
        unread = [name for name in _UNREAD if settings.get(name)]
        if unread:
            raise InvalidSetting(
                f"a fairseq model with {unread[0]}={settings[unread[0]]!r} is not read here"
            )
        crossing = settings.get("encoder_decoder_attention_heads")  # attn2d's
        if crossing not in (None, settings.get("decoder_attention_heads")):
            raise InvalidSetting(
                f"a model with encoder_decoder_attention_heads={crossing!r} is not read here"
            )
        activation = settings.get("activation_fn", "relu")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise InvalidSetting(f"activation_fn {activation!r} is none of {known}")
        if causal_encoder is None:
            named = str(settings.get("arch") or settings.get("_name") or "")
            causal_encoder = _CAUSAL.fullmatch(named) is not None or any(
                bool(settings.get(name)) for name in ("encoder_unidirectional", "unidirectional")
            )
        both = settings.get("max_positions", 1024)
        return cls(
            encoder=_half(settings, "encoder"),
            decoder=_half(settings, "decoder"),
            activation=activation,
            scaled=not settings.get("no_scale_embedding", False),
            positions=not settings.get("no_token_positional_embeddings", False),
            causal_encoder=causal_encoder,
            shared=bool(
                settings.get("share_decoder_input_output_embed", False)
                or settings.get("share_all_embeddings", False)
            ),
            max_source=_whole(settings, "max_source_positions", both),
            max_target=_whole(settings, "max_target_positions", both),
        )

    @classmethod
    def restore(cls, held: Any) -> FairseqSettings:
        """Settings from what `dataclasses.asdict` made of them.

        Raises:
            CorruptState: they are not complete, or not of their types.
        """
        halves = {"encoder", "decoder"}
        if not isinstance(held, Mapping) or not _typed(held, cls, halves):
            raise CorruptState(f"these are no settings of a transformer: {held!r:.200}")
        if not all(isinstance(held[p], Mapping) and _typed(held[p], Half, set()) for p in halves):
            raise CorruptState(f"these are no settings of a transformer: {held!r:.200}")
        if held["activation"] not in ACTIVATIONS:
            raise CorruptState(f"the activation {held['activation']!r} is not known")
        return cls(**{**held, **{part: Half(**held[part]) for part in halves}})


_TYPES: dict[Any, type] = {"int": int, "bool": bool, "str": str}  # as annotations are kept


def _typed(held: Mapping[str, Any], of: Any, but: set[str]) -> bool:
    """Whether a mapping has the fields of a dataclass, of their types; counts are 1 or more."""
    named = {field.name: field.type for field in fields(of)}
    if held.keys() != named.keys():
        return False
    plain = {name: _TYPES[kind] for name, kind in named.items() if name not in but}
    return all(
        type(held[name]) is kind and (kind is not int or held[name] > 0)
        for name, kind in plain.items()
    )


def _half(settings: Mapping[str, Any], part: Part) -> Half:
    return Half(
        layers=_whole(settings, f"{part}_layers"),
        heads=_whole(settings, f"{part}_attention_heads"),
        pre_norm=bool(settings.get(f"{part}_normalize_before", False)),
    )


def _whole(settings: Mapping[str, Any], name: str, default: Any = None) -> int:
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CorruptState(f"the checkpoint's setting {name} is {value!r}: a count is needed")
    return value
