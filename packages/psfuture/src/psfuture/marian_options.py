"""What kind of network a Marian model is, by the options that it carries in `special:model.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lipogram.errors import CorruptState, InvalidSetting

ACTIVATIONS = ("relu", "swish", "gelu")
BEFORE, AFTER = "dn", "dan"
ONLY = {
    "type": ("transformer",),
    "input-types": ("[]",),
    "layer-normalization": ("false",),
    "lemma-dim-emb": ("0",),
    "right-left": ("false",),
    "transformer-no-projection": ("false",),
    "transformer-pool": ("false",),
    "transformer-rnn-projection": ("false",),
    "transformer-tied-layers": ("[]",),
    "transformer-train-position-embeddings": ("false",),
    "transformer-train-positions": ("false",),
    "ulr": ("false",),
}


@dataclass(frozen=True)
class MarianOptions:
    """Options of a transformer, under what they mean here.

    Attributes:
        encoder_layers: number of them.
        decoder_layers: number of them.
        width: d.
        heads: of every attention.
        inner: width inside the feed-forward parts.
        feed_forwards: affine maps of one feed-forward part.
        activation: between them.
        recurrent: the decoder has SSRUs in place of self-attention.
        before: before each sub-layer; n is a norm, d dropout (of training, nothing here).
        after: after each; a adds the sub-layer's input.
        before_all: after the embeddings.
        after_all: after the last layer; a adds the embeddings.
        source_table: name of the source's embeddings.
        target_table: name of the target's.
        tied_output: the output's weights are the target's embeddings.
        output_bias: the output has a bias.
    """

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    inner: int
    feed_forwards: int
    activation: str
    recurrent: bool
    before: str
    after: str
    before_all: str
    after_all: str
    source_table: Literal["Wemb", "encoder_Wemb"]
    target_table: Literal["Wemb", "decoder_Wemb"]
    tied_output: bool
    output_bias: bool

    @classmethod
    def read(cls, options: Mapping[str, str]) -> MarianOptions:
        """From options as :func:`psfuture.marian_file.read_marian` gives them.

        Raises:
            InvalidSetting: an option with a value that is not supported; the message names both.
            CorruptState: an option without which nothing can be read is missing or no number.
        """
        recurrent = _one_of(
            options, "transformer-decoder-autoreg", ("self-attention", "rnn"), "self-attention"
        )
        if recurrent == "rnn":
            _one_of(options, "dec-cell", ("ssru",), "gru")
        for name, allowed in ONLY.items():
            _one_of(options, name, allowed, allowed[0])
        width, heads = _number(options, "dim-emb"), _number(options, "transformer-heads")
        if width % 2 or width < 4 or width % heads:
            raise CorruptState(
                f"a width of {width} (dim-emb) must be even, at least 4 and a multiple of "
                f"the {heads} heads"
            )
        tied_all = _flag(options, "tied-embeddings-all")
        shared = tied_all or _flag(options, "tied-embeddings-src")
        return cls(
            encoder_layers=_number(options, "enc-depth"),
            decoder_layers=_number(options, "dec-depth"),
            width=width,
            heads=heads,
            inner=_number(options, "transformer-dim-ffn"),
            feed_forwards=_number(options, "transformer-ffn-depth", "2"),
            activation=_one_of(options, "transformer-ffn-activation", ACTIVATIONS, "swish"),
            recurrent=recurrent == "rnn",
            before=_steps(options, "transformer-preprocess", BEFORE, ""),
            after=_steps(options, "transformer-postprocess", AFTER, "dan"),
            before_all=_steps(options, "transformer-postprocess-emb", BEFORE, "d"),
            after_all=_steps(options, "transformer-postprocess-top", AFTER, ""),
            source_table="Wemb" if shared else "encoder_Wemb",
            target_table="Wemb" if shared else "decoder_Wemb",
            tied_output=tied_all or _flag(options, "tied-embeddings"),
            output_bias=not _flag(options, "output-omit-bias"),
        )


def _one_of(options: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = options.get(name, default)
    if value not in allowed:
        raise InvalidSetting(
            f"the model's option {name} is {value!r}; supported: {', '.join(map(repr, allowed))}"
        )
    return value


def _flag(options: Mapping[str, str], name: str) -> bool:
    return _one_of(options, name, ("false", "true"), "false") == "true"


def _number(options: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = options.get(name, default)
    if value is None or not (
        value.isascii() and value.isdigit() and len(value) < 10 and int(value)
    ):
        raise CorruptState(f"the model's option {name} is {value!r}, it must be a whole number > 0")
    return int(value)


def _steps(options: Mapping[str, str], name: str, allowed: str, default: str) -> str:
    value = options.get(name, default)
    if not set(value) <= set(allowed):
        raise InvalidSetting(
            f"the model's option {name} is {value!r}; supported: letters of {allowed!r}"
        )
    return value.replace("d", "")
