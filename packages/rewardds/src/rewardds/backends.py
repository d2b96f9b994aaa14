"""What writes text at the server: one interface, whichever engine is behind it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lipogram.errors import InvalidSetting

Turns = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A conversation that an assistant's turn is to be added to.

    Attributes:
        key: names it; what is drawn for it depends on the key and on its turns, and on nothing that
            it is drawn beside.
        turns: at least one, each with "role" and "content".
    """

    key: str
    turns: Turns


@dataclass(frozen=True)
class Drawing:
    """How turns are drawn.

    Attributes:
        max_new_tokens: of each, at most.
        temperature: 0 is the most probable token.
        top_p: share of the probability that is drawn from, in (0, 1].
        seed: of all draws.

    Raises:
        InvalidSetting: a value outside its range.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidSetting(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise InvalidSetting(f"temperature is {self.temperature}: it must be finite and >= 0")
        if not 0 < self.top_p <= 1:
            raise InvalidSetting(f"top_p is {self.top_p}: it must be in (0, 1]")


DRAWING = Drawing()
"""As the authors draw questions: temperature 1, top-p 0.7, 512 tokens."""


@dataclass(frozen=True)
class Completion:
    """A turn that was drawn.

    Attributes:
        text: without special tokens.
        finish: "stop" where the model ended it, "length" where it was cut at `max_new_tokens`, and
            "context" where the prompt and `max_new_tokens` exceed the model's context, so that
            nothing was drawn.
    """

    text: str
    finish: Literal["stop", "length", "context"]

    @property
    def ended(self) -> bool:
        """Whether the model itself ended it."""
        return self.finish == "stop"


class Backend(Protocol):
    """An engine with a model in it."""

    def generate(
        self, prompts: Sequence[Prompt], n: int = 1, drawing: Drawing = DRAWING
    ) -> list[tuple[Completion, ...]]:
        """Draw n turns for each prompt, those of one prompt together, in the prompts' order.

        Raises:
            InvalidSetting: n below 1, or several draws at temperature 0, which are all the same.
        """
        ...


def check_draws(n: int, drawing: Drawing) -> None:
    """Raises InvalidSetting unless n >= 1 and n draws can differ."""
    if n < 1:
        raise InvalidSetting(f"n is {n}: at least one turn must be drawn")
    if n > 1 and drawing.temperature == 0:
        raise InvalidSetting(f"n = {n} turns at temperature 0 are all the same: draw one")


def draw_seed(key: str, draw: int, seed: int) -> int:
    """The seed, 0 to 2⁶³ − 1, of one draw of one prompt: a hash, so that no two share a stream."""
    digest = hashlib.sha256(f"{seed}\0{draw}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def turn_end(tokenizer: Any) -> int | None:
    """The special token that ends an assistant's turn in the chat template; None for no such one.

    Models that were trained on a template end with it, whatever their end of sequence is.
    """
    from lipogram.llm.chat import encode_chat

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    encoded = encode_chat(turns, tokenizer, system="")
    said = [token for token, ours in zip(encoded.ids, encoded.assistant, strict=True) if ours]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return said[-1] if said and said[-1] in special else None


def make_backend(name: str, model: Any, **options: Any) -> Backend:
    """A backend by its engine's name.

    Args:
        name: "hf" for :class:`rewardds.hf_backend.HFBackend`, "vllm" for
            :class:`rewardds.vllm_backend.VLLMBackend`.
        model: what its class takes first.
        options: of its class.

    Raises:
        InvalidSetting: another name.
        MissingExtra: "vllm" where it is not installed.
    """
    if name == "hf":
        from rewardds.hf_backend import HFBackend

        return HFBackend(model, **options)
    if name == "vllm":
        from rewardds.vllm_backend import VLLMBackend

        return VLLMBackend(model, **options)
    raise InvalidSetting(f"there is no backend {name!r}: hf, vllm")
