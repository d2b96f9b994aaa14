"""How much each span of a text matters: the attention that its tokens receive from an encoder.

Computed on the client, of the full text; what is computed here is never sent. Source: attention-
aware weighted aggregation of PrivacyRestore (arXiv 2406.01394, section 4.3). Unlike the authors'
code: tokens are found by their offsets, special ones counted; all occurrences of a span count; and
a text longer than the encoder goes through it in overlapping windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.hub import hub_folder

Mode = Literal["awa", "awa-normalised", "uniform"]

_LEAST = 1e-300
"""A weight is never 0, or a span would look as if it were not there."""

_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer")
"""Encoders whose positions begin after that of padding."""


class Located(Protocol):
    """Where a span is: characters `start` to `end` of the text, and its type."""

    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def span_id(self) -> int: ...  # noqa: D102


class Weigher(Protocol):
    """Gives each span type of a text its share of the signal."""

    def weights(self, text: str, spans: Sequence[Located]) -> dict[int, float]:
        """A positive weight for each span type among `spans`; together 1. {} for no spans."""


class UniformWeigher:
    """Equal weights; no model."""

    def weights(self, text: str, spans: Sequence[Located]) -> dict[int, float]:
        """1/J for each of J span types, repeated ones once."""
        kinds = _kinds(text, spans)
        return dict.fromkeys(kinds, 1 / len(kinds)) if kinds else {}


class AwaWeigher:
    """Weights by the attention that an encoder pays to each span.

    With A the attention of a layer and head, T(s) the tokens of all occurrences of span type s,
    a_s = mean over layers and heads of Σ_i Σ_{j∈T(s)} A_ij. In a text of several windows a token
    receives the mean over the windows that it is in.

    Args:
        model: a folder or hub id of an encoder, or one in memory, which is switched to evaluation
            mode and eager attention, since no other kernel keeps A.
        tokenizer: of a model in memory; None for the one beside the weights.
        mode: "awa", softmax of a (the paper's); "awa-normalised", a/Σa, which does not grow
            steeper with the spans' lengths; "uniform", equal weights, the model unused.

    Raises:
        InvalidSetting: an unknown mode, a tokenizer without offsets, or none for a model in memory.
        ModelNotFound, UnsafeCheckpoint: as `lipogram.llm.load_model`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, mode: Mode = "awa"):
        if mode not in get_args(Mode):
            raise InvalidSetting(f"mode {mode!r}: one of {', '.join(get_args(Mode))}")
        self.mode = mode
        if isinstance(model, str | Path):
            model, found = _loaded(model)
            tokenizer = tokenizer or found
        if tokenizer is None or not tokenizer.is_fast:
            raise InvalidSetting("weighing needs the encoder's tokenizer, one that gives offsets")
        model.set_attn_implementation("eager")
        self._model, self._tokenizer = model.eval(), tokenizer
        self._content = window_length(model, tokenizer) - tokenizer.num_special_tokens_to_add()
        if self._content < 2:
            raise InvalidSetting("the encoder has no room for two tokens of a text")

    def weights(self, text: str, spans: Sequence[Located]) -> dict[int, float]:
        """A positive weight for each span type among `spans`; together 1. {} for no spans.

        Args:
            text: q, with all spans.
            spans: every occurrence of each.

        Raises:
            InvalidSetting: a span outside the text, or a model that gives no attention.
            NotFinite: the encoder's attention is NaN.
        """
        kinds = _kinds(text, spans)
        if not kinds:
            return {}
        if self.mode == "uniform":
            return dict.fromkeys(kinds, 1 / len(kinds))
        received, offsets = self._received(text)
        found = []
        for places in kinds.values():
            inside = torch.zeros(len(offsets), dtype=torch.bool)
            for start, end in places:
                inside |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
            found.append(received[inside].sum())
        a = torch.stack(found)
        shares = a.softmax(0) if self.mode == "awa" else a.clamp(min=_LEAST) / a.sum().clamp(_LEAST)
        shares = shares.clamp(min=_LEAST)
        return dict(zip(kinds, (shares / shares.sum()).tolist(), strict=True))

    def _received(self, text: str) -> tuple[Tensor, Tensor]:
        """What each token of the text receives, [t] float64, and its characters, [t, 2]."""
        overlap = self._content // 4
        windows = self._tokenizer(
            text,
            truncation=True,
            max_length=self._content + self._tokenizer.num_special_tokens_to_add(),
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        names = [name for name in self._tokenizer.model_input_names if name in windows]
        last = len(windows["input_ids"]) - 1
        step = self._content - overlap
        count = step * last + windows["special_tokens_mask"][last].count(0)
        total, seen = torch.zeros(count, dtype=torch.float64), torch.zeros(count)
        offsets = torch.zeros(count, 2, dtype=torch.long)
        for number, special in enumerate(windows["special_tokens_mask"]):
            inputs = {name: torch.tensor([windows[name][number]]) for name in names}
            own = self._attention(inputs)
            text_tokens = torch.tensor(special) == 0
            places = torch.arange(int(text_tokens.sum())) + step * number
            total[places] += own[text_tokens]
            seen[places] += 1
            offsets[places] = torch.tensor(windows["offset_mapping"][number])[text_tokens]
        return total / seen.clamp(min=1), offsets

    def _attention(self, inputs: dict[str, Tensor]) -> Tensor:
        """Σ_i A_ij of one window's tokens j, mean over layers and heads, [t] float64."""
        inputs = {name: value.to(self._model.device) for name, value in inputs.items()}
        with torch.no_grad():
            layers = self._model(**inputs, output_attentions=True).attentions
        if not layers:
            raise InvalidSetting(f"{type(self._model).__name__} gives no attention to weigh by")
        found = torch.stack([layer[0].double().sum(1).mean(0).cpu() for layer in layers]).mean(0)
        if not bool(torch.isfinite(found).all()):
            raise NotFinite("the encoder's attention is not finite: its weights are broken")
        return found


def _kinds(text: str, spans: Sequence[Located]) -> dict[int, list[tuple[int, int]]]:
    """The places of each span type, types in the order of the text's spans."""
    kinds: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        if not 0 <= span.start <= span.end <= len(text):
            raise InvalidSetting("a span lies outside the text")  # and no word of which or where
        kinds.setdefault(span.span_id, []).append((span.start, span.end))
    return kinds


def window_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the encoder takes, special ones included."""
    longest = int(model.config.max_position_embeddings)
    if model.config.model_type in _PADDED_POSITIONS:
        longest -= int(model.config.pad_token_id) + 1
    return min(longest, int(tokenizer.model_max_length))


def _loaded(spec: str | Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = Path(spec) if Path(spec).is_dir() else hub_folder(str(spec))[0]
    model = AutoModel.from_pretrained(folder, use_safetensors=True, attn_implementation="eager")
    return model, AutoTokenizer.from_pretrained(folder)
