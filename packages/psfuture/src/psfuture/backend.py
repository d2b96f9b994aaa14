"""What a policy needs of a translation model: next-token distributions of any source prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class State(Protocol):
    """Decoder states of some rows, on the backend's device."""

    def select(self, rows: Sequence[int]) -> State:
        """The states of these rows, in this order."""


class Backend(Protocol):
    """A sequence-to-sequence model whose prefixes can be changed at will.

    Rows of different lengths are padded and masked inside; padding changes no row's logits by more
    than 1e-5. Tokens that must never be chosen have the logit -inf.

    Attributes:
        name: what identifies the weights in files.
        vocab_size: V, columns of the logits.
        eos: id of the target's end of sentence.
        device: where it computes.
        max_source: source tokens that it has positions for; None without a limit.
    """

    name: str
    vocab_size: int
    eos: int
    device: torch.device
    max_source: int | None

    @property
    def attends(self) -> bool:
        """Whether :meth:`attention` can be asked."""

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids of whole source words; they end with the end of sentence if `closed`."""

    def target_text(self, tokens: Sequence[int]) -> str:
        """Text of target tokens, without special ones; an unfinished character is held back."""

    def encode(self, sources: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Encoder states, one (tokens, d) tensor a source."""

    def begin(
        self, encodings: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[State, torch.Tensor]:
        """Replay committed target tokens in one teacher-forced pass.

        Returns:
            The state after them and the logits (B, V), float32, of the next token.
        """

    def step(self, state: State, tokens: Sequence[int]) -> tuple[State, torch.Tensor]:
        """Append one token a row; as :meth:`begin` returns."""

    def join(self, states: Sequence[State]) -> State:
        """One state of all the states' rows."""

    def attention(self, state: State) -> torch.Tensor:
        """(B, S) attention of each row's last input over its source, of the last decoder layer.

        Averaged over the heads; a row sums to 1, its padding is 0.
        """
