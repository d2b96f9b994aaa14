"""Bergamot's models as a backend: what Firefox translates with, opened up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.backend import State
from psfuture.bergamot_folder import digest_of, find_vocabularies, read_folder, write_folder
from psfuture.bergamot_network import BergamotNetwork
from psfuture.bergamot_state import BergamotState, join_states, source_mask
from psfuture.hf_batches import length_batches

# Padded tokens: what fits a processor's cache, and what keeps an accelerator busy.
ENCODED_ON_CPU, ENCODED_ELSEWHERE = 256, 8192


class BergamotBackend:
    """A Marian transformer, of Bergamot with its SSRU decoder or a plain one.

    See :class:`psfuture.backend.Backend`. It attends: see :meth:`attention`.

    Args:
        network: with its weights.
        vocabularies: SentencePiece model files of the source and of the target, or one of both.
        label: the first part of its name.
        device: where to compute.

    Raises:
        CorruptState: a vocabulary is no SentencePiece model, not of the network's size, or without
            an end of sentence.
    """

    attends = True
    max_source: int | None = None

    def __init__(
        self,
        network: BergamotNetwork,
        vocabularies: Path | tuple[Path, Path],
        *,
        label: str,
        device: str = "cpu",
    ):
        if isinstance(vocabularies, Path):
            vocabularies = vocabularies, vocabularies
        self.vocabularies = vocabularies[0].read_bytes(), vocabularies[1].read_bytes()
        self.source_pieces = _pieces(vocabularies[0], self.vocabularies[0], network.source_size)
        self.pieces = _pieces(vocabularies[1], self.vocabularies[1], network.vocab_size)
        self.network = network.to(device).eval()
        self.label, self.device = label, torch.device(device)
        self.name = f"bergamot:{label}@{digest_of(network.weights())[:8]}"
        self.vocab_size = network.vocab_size
        self.eos: int = self.pieces.eos_id()
        self.unknown: int = self.pieces.unk_id()

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> BergamotBackend:
        """The model in a folder that holds one `*.bin` or `*.npz` and its `*.spm`, or a saved one.

        Raises:
            ModelNotFound: the folder does not hold just one of each.
            CorruptState: see :func:`~psfuture.marian_file.read_marian`.
            InvalidSetting: a network of another kind, by its options.
        """
        network, label = read_folder(folder)
        return cls(network, find_vocabularies(folder), label=label, device=device)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), options and vocabularies; :meth:`load` reads them.

        Raises:
            OSError: the folder cannot be written.
        """
        write_folder(folder, self.network, self.label, self.vocabularies)

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids of whole source words; they end with the end of sentence if `closed`.

        Words that leave nothing give the end of sentence alone, for an encoder needs something to
        attend to. What is no Unicode text (a lone surrogate) becomes a question mark.
        """
        text = " ".join(words).encode("utf-8", "replace").decode()
        ids: list[int] = self.source_pieces.encode(text)
        return [*ids, self.source_pieces.eos_id()] if closed or not ids else ids

    def target_text(self, tokens: Sequence[int]) -> str:
        """Text of target tokens, without special ones; an unfinished character is held back."""
        held = [t for t in tokens if t not in (self.eos, self.unknown)]
        text: str = self.pieces.decode(held)
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    @torch.inference_mode()
    def encode(self, sources: Sequence[Sequence[int]]) -> list[Tensor]:
        """Encoder states, one (tokens, d) tensor a source.

        Raises:
            InvalidSetting: a source that is empty or holds a token that the model does not have.
        """
        for source in sources:
            if not source:
                raise InvalidSetting("a source without tokens: there is nothing to attend to")
            _check(source, self.network.source_size, "source")
        found: list[Tensor] = [torch.empty(0)] * len(sources)
        at_once = ENCODED_ON_CPU if self.device.type == "cpu" else ENCODED_ELSEWHERE
        for rows in length_batches([len(source) for source in sources], at_once):
            mask = source_mask([len(sources[i]) for i in rows], self.device)
            kept = None if mask is None else mask[:, 0, 0]
            ids = self._padded([sources[i] for i in rows])
            for i, states in zip(rows, self.network.encode(ids, kept), strict=True):
                found[i] = states[: len(sources[i])].clone()
        return found

    @torch.inference_mode()
    def begin(
        self, encodings: Sequence[Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[BergamotState, Tensor]:
        """Replay committed target tokens in one teacher-forced pass.

        Args:
            encodings: of :meth:`encode`, B of them.
            targets: committed tokens of each row.

        Returns:
            The state after them and the logits (B, V), float32, of the next token.

        Raises:
            InvalidSetting: no rows, or a token that the model does not have.
        """
        if not targets or len(encodings) != len(targets):
            raise InvalidSetting(f"{len(encodings)} encodings and {len(targets)} targets")
        for target in targets:
            _check(target, self.vocab_size, "target")
        sources = tuple(len(states) for states in encodings)
        context = self.network.context(pad_sequence(list(encodings), batch_first=True))
        ends = torch.tensor([len(target) for target in targets], device=self.device)
        hidden, caches, queries = self.network.replay(
            self._padded(targets), context, source_mask(sources, self.device), ends
        )
        state = BergamotState(caches, context, queries[:, :, 0], sources, ends + 1)
        return state, self._logits(hidden[:, 0])

    @torch.inference_mode()
    def step(self, state: State, tokens: Sequence[int]) -> tuple[BergamotState, Tensor]:
        """Append one token a row; the state that is passed stays as it is.

        Returns:
            As :meth:`begin`.

        Raises:
            InvalidSetting: a token that the model does not have, or another number than of rows.
        """
        state = _ours(state)
        if len(tokens) != len(state.sources):
            raise InvalidSetting(f"{len(tokens)} tokens for {len(state.sources)} rows")
        _check(tokens, self.vocab_size, "target")
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)
        hidden, caches, queries = self.network.step(
            ids, state.caches, state.lengths, state.context, state.mask
        )
        grown = BergamotState(
            caches, state.context, queries[:, :, 0], state.sources, state.lengths + 1
        )
        return grown, self._logits(hidden[:, 0])

    def join(self, states: Sequence[State]) -> BergamotState:
        """One state of all the states' rows."""
        return join_states([_ours(state) for state in states])

    @torch.inference_mode()
    def attention(self, state: State) -> Tensor:
        """Where the last input of each row looked: (B, S) over source tokens, padded with 0.

        Of the decoder's last layer, a mean over its heads; a row sums to 1.
        """
        return _ours(state).attention()

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        return pad_sequence(tensors, batch_first=True).to(self.device)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.network.logits(hidden)
        if self.unknown >= 0:
            logits[:, self.unknown] = -torch.inf
        return logits


def convert_bergamot(source: Path, out: Path) -> None:
    """Write the model in a folder as safetensors with its options and vocabularies.

    Raises:
        ModelNotFound, CorruptState, InvalidSetting: see :meth:`BergamotBackend.load`; then nothing
            is written.
        OSError: the folder cannot be written.
    """
    BergamotBackend.load(source).save(out)


def _pieces(path: Path, content: bytes, size: int) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError) as error:
        raise CorruptState(f"{path} is no SentencePiece model: {error}") from None
    if pieces.vocab_size() != size:
        raise CorruptState(
            f"{path} has {pieces.vocab_size()} pieces, "
            f"the model {size}: they do not belong together"
        )
    if pieces.eos_id() < 0:
        raise CorruptState(f"{path} has no end of sentence")
    return pieces


def _check(tokens: Sequence[int], size: int, side: str) -> None:
    wrong = [token for token in tokens if not 0 <= token < size]
    if wrong:
        raise InvalidSetting(f"{side} token {wrong[0]} is none of the model's {size}")


def _ours(state: State) -> BergamotState:
    if not isinstance(state, BergamotState):
        raise InvalidSetting(f"a {type(state).__name__} is no state of a Marian model")
    return state
