"""fairseq's translation models as a backend, without fairseq."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.fairseq_checkpoint import FairseqCheckpoint, read_fairseq
from psfuture.fairseq_dictionary import BOS, EOS, PAD, UNK, FairseqDictionary
from psfuture.fairseq_network import FairseqNetwork, KeysValues
from psfuture.fairseq_segmentation import (
    SEPARATOR,
    SPACE,
    Segmentation,
    Segmented,
    SentencePieces,
    SubwordNMT,
    joined,
)
from psfuture.fairseq_settings import FairseqSettings
from psfuture.hf_batches import length_batches

if TYPE_CHECKING:
    from psfuture.backend import State

ENCODED_AT_ONCE = 8192
"""Padded source tokens of one encoder pass."""

SEGMENTED = "segmented"
"""As `bpe`: the words that are given are pieces of the dictionary already."""

_MADE_UP = re.compile(r"madeupword\d{4}")  # they fill a dictionary up to a round number


@dataclass(frozen=True)
class FairseqState:
    """Decoder states of B rows.

    Attributes:
        own: self-attention caches, a pair a layer; row i fills the first `lengths[i]` places.
        context: keys and values of the padded sources, a pair a layer.
        lengths: decoder inputs that each row has seen.
        sources: source tokens of each row.
    """

    own: list[KeysValues]
    context: list[KeysValues]
    lengths: tuple[int, ...]
    sources: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> FairseqState:
        """The states of these rows, in this order."""
        if list(rows) == list(range(len(self.lengths))):
            return self
        lengths = tuple(self.lengths[row] for row in rows)
        sources = tuple(self.sources[row] for row in rows)
        at = torch.as_tensor(rows, dtype=torch.long, device=self.own[0][0].device)

        def taken(held: list[KeysValues], places: int) -> list[KeysValues]:
            return [(k[at, :, :places], v[at, :, :places]) for k, v in held]

        return FairseqState(
            taken(self.own, max(lengths, default=0)),
            taken(self.context, max(sources, default=0)),
            lengths,
            sources,
        )


class FairseqBackend:
    """A transformer of fairseq; see :class:`psfuture.backend.Backend`.

    Args:
        network: with its weights; set to evaluation mode.
        source: dictionary of the source.
        target: dictionary of the target.
        segmentation: of source words into symbols.
        name: what identifies the weights.
        device: where to compute.
        dtype: to compute in; logits are float32 in any case.

    Raises:
        CorruptState: a dictionary is not of the size of its embeddings.
    """

    eos = EOS

    def __init__(
        self,
        network: FairseqNetwork,
        source: FairseqDictionary,
        target: FairseqDictionary,
        segmentation: Segmentation,
        *,
        name: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        rows = (("source", source, network.source_symbols), ("target", target, network.vocab_size))
        for which, dictionary, symbols in rows:
            if len(dictionary) != symbols:
                raise CorruptState(
                    f"the {which} dictionary has {len(dictionary)} symbols and the model {symbols}: "
                    "they do not belong together"
                )
        self.network = network.to(device=device, dtype=dtype).eval()
        self.source, self.target, self.segmentation = source, target, segmentation
        self.name, self.device = name, torch.device(device)
        self.vocab_size = network.vocab_size
        self.max_source: int | None = network.limit("encoder")
        self._max_target = network.limit("decoder")
        self._spaces = _has_spaces(target)
        made_up = [i for i, symbol in enumerate(target.symbols) if _MADE_UP.fullmatch(symbol)]
        self.never = frozenset([BOS, PAD, UNK, *made_up])
        self._never_at = torch.tensor(sorted(self.never), device=self.device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        src_dict: str | Path | None = None,
        tgt_dict: str | Path | None = None,
        bpe: str | Path | None = None,
        causal_encoder: bool | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
    ) -> FairseqBackend:
        """The model in a checkpoint of fairseq 0.6 to 0.12; nothing that is in it is run.

        fairseq's own tokenizer (Moses') is not applied: words are taken as they are.

        Args:
            path: the checkpoint.
            src_dict: the source's `dict.xx.txt`; None looks for it beside the checkpoint, by the
                languages that the checkpoint names.
            tgt_dict: the target's, likewise.
            bpe: how source words are cut: a SentencePiece model (`.model`, `.spm`), or byte-pair
                codes of subword-nmt or fastBPE; "segmented" for words that are pieces already;
                None for dictionaries of whole words.
            causal_encoder: see :meth:`psfuture.fairseq_settings.FairseqSettings.read`.
            dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
            device: None or "auto" is CUDA where there is one, else the CPU.

        Raises:
            ModelNotFound: a file is not there.
            UnsafeCheckpoint: the checkpoint holds a type that is not read.
            CorruptState: a file is damaged, or they do not belong together.
            NotFinite: weights that are NaN or infinite.
            InvalidSetting: a network of another kind; a dictionary of pieces without `bpe`; no
                dictionary and no languages.
        """
        from lipogram.llm.checkpoint import check_finite
        from lipogram.llm.precision import resolve_dtype

        path = Path(path)
        checkpoint = read_fairseq(path)
        settings = FairseqSettings.read(checkpoint.model, causal_encoder=causal_encoder)
        source = FairseqDictionary.load(_dictionary(path, checkpoint, "source", src_dict))
        target = FairseqDictionary.load(_dictionary(path, checkpoint, "target", tgt_dict))
        network = FairseqNetwork(settings, checkpoint.weights)
        check_finite(network)
        if device in (None, "auto"):
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(device or "cpu")
        size = sum(weight.numel() for weight in network.parameters())
        return cls(
            network,
            source,
            target,
            _segmentation(source, bpe),
            name=f"fairseq:{path.stem}@{checkpoint.digest}",
            device=place,
            dtype=resolve_dtype(dtype, place, stored="float32", parameters=size),
        )

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids of whole source words; they end with the end of sentence if `closed`.

        Words that leave nothing give the end of sentence alone, for an encoder needs something to
        attend to. Special symbols that the words spell are unknown text.
        """
        ids = self.source.encode(self.segmentation.pieces(words))
        ids = [UNK if token in (BOS, PAD, EOS) else token for token in ids]
        return [*ids, EOS] if closed or not ids else ids

    def target_text(self, tokens: Sequence[int]) -> str:
        """Text of target tokens, without special ones; an unfinished character is held back."""
        return joined(self.target.decode(tokens), spaces=self._spaces)

    @torch.inference_mode()
    def encode(self, sources: Sequence[Sequence[int]]) -> list[Tensor]:
        """Encoder states, one (tokens, d) tensor a source.

        Raises:
            InvalidSetting: a source that is empty, longer than the model has positions, or holds a
                token that the model does not have.
        """
        for source in sources:
            if not source:
                raise InvalidSetting("a source without tokens: there is nothing to attend to")
            _check(source, self.max_source, len(self.source), "source")
        self.network.eval()
        found: list[Tensor] = [torch.empty(0)] * len(sources)
        for rows in length_batches([len(source) for source in sources], ENCODED_AT_ONCE):
            ids = _padded([sources[row] for row in rows]).to(self.device)
            kept = _filled([len(sources[row]) for row in rows], self.device)
            for row, states in zip(rows, self.network.encode(ids, kept), strict=True):
                found[row] = states[: len(sources[row])].clone()
        return found

    @torch.inference_mode()
    def begin(
        self, encodings: Sequence[Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[FairseqState, Tensor]:
        """Replay committed target tokens in one teacher-forced pass; the decoder starts from </s>.

        Returns:
            The state after them and the logits (B, V), float32, of the next token.

        Raises:
            InvalidSetting: no rows, a target longer than the model has positions, or a token that
                the model does not have.
        """
        if not targets or len(encodings) != len(targets):
            raise InvalidSetting(f"{len(encodings)} encodings and {len(targets)} targets")
        inputs = [[EOS, *target] for target in targets]
        for row in inputs:
            _check(row, self._max_target, self.vocab_size, "target")
        self.network.eval()
        sources = tuple(len(states) for states in encodings)
        lengths = tuple(len(row) for row in inputs)
        context = self.network.context(pad_sequence(list(encodings), batch_first=True))
        ids = _padded(inputs).to(self.device)
        places = torch.arange(ids.shape[1], device=self.device)
        kept = _filled(sources, self.device)[:, None, None]
        hidden, own = self.network.decode(ids, places, None, context, kept)
        last = hidden[torch.arange(len(inputs)), torch.tensor(lengths) - 1]
        return FairseqState(own, context, lengths, sources), self._logits(last)

    @torch.inference_mode()
    def step(self, state: State, tokens: Sequence[int]) -> tuple[FairseqState, Tensor]:
        """Append one token a row; the state that is passed stays as it is.

        Returns:
            As :meth:`begin`.

        Raises:
            InvalidSetting: see :meth:`begin`.
        """
        state = _ours(state)
        if len(tokens) != len(state.lengths):
            raise InvalidSetting(f"{len(tokens)} tokens for {len(state.lengths)} rows")
        _check(tokens, None, self.vocab_size, "target")
        lengths = tuple(length + 1 for length in state.lengths)
        if self._max_target is not None and max(lengths) > self._max_target:
            raise InvalidSetting(
                f"a target of {max(lengths)} tokens; the model has {self._max_target} positions"
            )
        self.network.eval()
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)[:, None]
        places = torch.tensor(state.lengths, device=self.device)[:, None]
        kept = _filled(state.sources, self.device)[:, None, None]
        hidden, own = self.network.decode(ids, places, state.own, state.context, kept)
        grown = FairseqState(own, state.context, lengths, state.sources)
        return grown, self._logits(hidden[:, 0])

    def join(self, states: Sequence[State]) -> FairseqState:
        """One state of all the states' rows."""
        ours = [_ours(state) for state in states]
        return FairseqState(
            _joined([state.own for state in ours]),
            _joined([state.context for state in ours]),
            sum((state.lengths for state in ours), ()),
            sum((state.sources for state in ours), ()),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.network.logits(hidden).float().index_fill(1, self._never_at, -torch.inf)


def _ours(state: State) -> FairseqState:
    if not isinstance(state, FairseqState):
        raise InvalidSetting(f"a {type(state).__name__} is no state of a model of fairseq")
    return state


def _joined(parts: Sequence[list[KeysValues]]) -> list[KeysValues]:
    places = max(part[0][0].shape[2] for part in parts)

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, places - x.shape[2]))

    return [
        (torch.cat([wide(k) for k, _ in layer]), torch.cat([wide(v) for _, v in layer]))
        for layer in zip(*parts, strict=True)
    ]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=PAD)


def _filled(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(B, longest), true where a row has a token."""
    each = torch.tensor(lengths, device=device)
    return torch.arange(max(lengths), device=device) < each[:, None]


def _check(tokens: Sequence[int], positions: int | None, symbols: int, which: str) -> None:
    if positions is not None and len(tokens) > positions:
        raise InvalidSetting(
            f"a {which} of {len(tokens)} tokens; the model has {positions} positions"
        )
    for token in (min(tokens), max(tokens)):
        if not 0 <= token < symbols:
            raise InvalidSetting(f"{which} token {token} is none of {symbols}")


def _has_spaces(dictionary: FairseqDictionary) -> bool:
    return any(symbol.startswith(SPACE) for symbol in dictionary.symbols)


def _dictionary(
    path: Path, checkpoint: FairseqCheckpoint, which: str, given: str | Path | None
) -> Path:
    if given is not None:
        return Path(given)
    language = checkpoint.task.get(f"{which}_lang")
    if not isinstance(language, str) or not re.fullmatch(r"[\w.@-]+", language):
        raise InvalidSetting(
            f"{path} does not name its {which} language: pass src_dict= and tgt_dict= with the "
            "dict.xx.txt of both"
        )
    return path.parent / f"dict.{language}.txt"


def _segmentation(source: FairseqDictionary, bpe: str | Path | None) -> Segmentation:
    if bpe == SEGMENTED:
        return Segmented()
    if bpe is None:
        if _has_spaces(source) or any(symbol.endswith(SEPARATOR) for symbol in source.symbols):
            raise InvalidSetting(
                "the source dictionary holds pieces of words: pass bpe= with the SentencePiece "
                f"model or the byte-pair codes, or bpe={SEGMENTED!r} for text that is cut already"
            )
        return Segmented()
    path = Path(bpe)
    return SentencePieces(path) if path.suffix in (".model", ".spm") else SubwordNMT(path)
