"""Bergamot's models as a backend: what Firefox translates with, opened up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound
from psfuture.bergamot_network import BergamotNetwork
from psfuture.marian_file import read_marian

HEADS = 8
ENCODED_AT_ONCE = 4096


@dataclass(frozen=True)
class BergamotState:
    """Decoder states of B rows.

    Attributes:
        cells: (B, L, d) the recurrent cells.
        encodings: the rows' sources, (S_i, d) each.
        context: keys and values of the padded sources, a pair a layer.
        mask: (B, 1, 1, S), true where a source has a token.
        lengths: target inputs that each row has seen.
    """

    cells: Tensor
    context: list[tuple[Tensor, Tensor]]
    mask: Tensor
    lengths: Tensor

    def select(self, rows: Sequence[int]) -> BergamotState:
        """The states of these rows, in this order."""
        at = torch.as_tensor(rows, dtype=torch.long, device=self.cells.device)
        longest = int(self.mask[at].sum(-1).max()) if len(rows) else 0
        return BergamotState(
            self.cells[at],
            [(k[at, :, :longest], v[at, :, :longest]) for k, v in self.context],
            self.mask[at, :, :, :longest],
            self.lengths[at],
        )


class BergamotBackend:
    """A Bergamot (Marian) model with an SSRU decoder; see :class:`psfuture.backend.Backend`.

    Args:
        network: with its weights.
        vocabulary: SentencePiece model file of both languages.
        name: what identifies the weights.
        device: where to compute.

    Raises:
        CorruptState: the vocabulary is no SentencePiece model, or not of the network's size.
    """

    max_source: int | None = None

    def __init__(
        self, network: BergamotNetwork, vocabulary: Path, *, name: str, device: str = "cpu"
    ):
        from sentencepiece import SentencePieceProcessor

        try:
            self.pieces = SentencePieceProcessor(model_file=str(vocabulary))
        except (RuntimeError, OSError) as error:
            raise CorruptState(f"{vocabulary} is no SentencePiece model: {error}") from None
        if self.pieces.vocab_size() != network.vocab_size:
            raise CorruptState(
                f"{vocabulary} has {self.pieces.vocab_size()} pieces, "
                f"the model {network.vocab_size}: they do not belong together"
            )
        self.network = network.to(device).eval()
        self.name, self.device = name, torch.device(device)
        self.vocab_size = network.vocab_size
        self.eos, self.unknown = self.pieces.eos_id(), self.pieces.unk_id()

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> BergamotBackend:
        """The model in a folder that holds one `*.bin` and one `*.spm`.

        Raises:
            ModelNotFound: the folder does not hold just one of each.
            CorruptState: see :func:`~psfuture.marian_file.read_marian`.
            InvalidSetting: a network of another kind, by its options.
        """
        models = sorted(p for p in folder.glob("*.bin") if not p.name.startswith("lex."))
        vocabularies = sorted(folder.glob("*.spm"))
        if len(models) != 1 or len(vocabularies) != 1:
            raise ModelNotFound(
                f"{folder} must hold one *.bin model and one *.spm vocabulary; "
                f"it holds {len(models)} and {len(vocabularies)}"
            )
        weights, options = read_marian(models[0])
        if (cell := options.get("transformer-decoder-autoreg", "rnn")) != "rnn":
            raise InvalidSetting(f"{models[0].name} has a decoder of kind {cell!r}, not an SSRU")
        heads = options.get("transformer-heads", str(HEADS))
        if not heads.isdigit() or not int(heads):
            raise CorruptState(f"{models[0].name} claims {heads!r} heads")
        digest = hashlib.sha256(models[0].read_bytes()).hexdigest()[:8]
        name = f"bergamot:{models[0].name.split('.')[1]}@{digest}"
        network = BergamotNetwork(weights, heads=int(heads))
        return cls(network, vocabularies[0], name=name, device=device)

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        ids: list[int] = self.pieces.encode(" ".join(words))
        return [*ids, self.eos] if closed else ids

    def target_text(self, tokens: Sequence[int]) -> str:
        held = [t for t in tokens if t not in (self.eos, self.unknown)]
        text: str = self.pieces.decode(held)
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    @torch.inference_mode()
    def encode(self, sources: Sequence[Sequence[int]]) -> list[Tensor]:
        found: list[Tensor] = [torch.empty(0)] * len(sources)
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        while order:
            # Padded to the longest: rows of like lengths go together.
            count, longest = 0, 1
            while count < len(order):
                longest = max(longest, len(sources[order[count]]))
                if count and longest * (count + 1) > ENCODED_AT_ONCE:
                    break
                count += 1
            rows, order = order[:count], order[count:]
            lengths = torch.tensor([len(sources[i]) for i in rows], device=self.device)
            ids = pad_sequence(
                [torch.tensor(sources[i], dtype=torch.long) for i in rows], batch_first=True
            ).to(self.device)
            kept = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            for i, states in zip(rows, self.network.encode(ids, kept), strict=True):
                found[i] = states[: len(sources[i])].clone()
        return found

    @torch.inference_mode()
    def begin(
        self, encodings: Sequence[Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[BergamotState, Tensor]:
        sources = pad_sequence(list(encodings), batch_first=True)
        lengths = torch.tensor([len(e) for e in encodings], device=self.device)
        mask = (torch.arange(sources.shape[1], device=self.device) < lengths[:, None])[:, None, None]
        context = self.network.context(sources)
        before = torch.tensor([len(t) for t in targets], device=self.device)
        ids = pad_sequence([torch.tensor(t, dtype=torch.long) for t in targets], batch_first=True)
        inputs = _zero_first(self.network.embed(ids.to(self.device)), self.network.width)
        inputs = inputs + self.network.positions(inputs.shape[1])
        cells = inputs.new_zeros(len(targets), self.network.decoder_layers, self.network.width)
        hidden, after = self.network.decode(inputs, cells, context, mask)
        rows = torch.arange(len(targets), device=self.device)
        state = BergamotState(after[rows, before], context, mask, before + 1)
        return state, self._logits(hidden[rows, before])

    @torch.inference_mode()
    def step(self, state: BergamotState, tokens: Sequence[int]) -> tuple[BergamotState, Tensor]:
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)
        table = self.network.positions(int(state.lengths.max()) + 1)
        inputs = (self.network.embed(ids) + table[state.lengths])[:, None]
        hidden, after = self.network.decode(inputs, state.cells, state.context, state.mask)
        grown = BergamotState(after[:, 0], state.context, state.mask, state.lengths + 1)
        return grown, self._logits(hidden[:, 0])

    def join(self, states: Sequence[BergamotState]) -> BergamotState:
        longest = max(s.mask.shape[-1] for s in states)

        def wide(x: Tensor, axis_from_end: int) -> Tensor:
            short = longest - x.shape[-axis_from_end]
            return torch.nn.functional.pad(x, (0, 0) * (axis_from_end - 1) + (0, short))

        context = [
            (torch.cat([wide(k, 2) for k, _ in pairs]), torch.cat([wide(v, 2) for _, v in pairs]))
            for pairs in zip(*(s.context for s in states), strict=True)
        ]
        return BergamotState(
            torch.cat([s.cells for s in states]),
            context,
            torch.cat([wide(s.mask, 1) for s in states]),
            torch.cat([s.lengths for s in states]),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.network.logits(hidden).float()
        logits[:, self.unknown] = -torch.inf
        return logits


def _zero_first(embedded: Tensor, width: int) -> Tensor:
    """(B, T, d) to (B, T + 1, d): the decoder's first input is the zero vector."""
    return torch.cat([embedded.new_zeros(len(embedded), 1, width), embedded], 1)
