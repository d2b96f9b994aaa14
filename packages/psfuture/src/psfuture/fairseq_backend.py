"""fairseq's translation models as a backend, without fairseq."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lipogram.errors import CorruptState, InvalidSetting, NotFinite
from psfuture.fairseq_dictionary import BOS, EOS, PAD, UNK, FairseqDictionary
from psfuture.fairseq_files import PIECES, SEGMENTED, FairseqFiles
from psfuture.fairseq_network import FairseqNetwork
from psfuture.fairseq_segmentation import (
    SEPARATOR,
    SPACE,
    Segmentation,
    Segmented,
    SentencePieces,
    SubwordNMT,
    joined,
)
from psfuture.fairseq_state import FairseqState, join_states
from psfuture.hf_batches import length_batches

if TYPE_CHECKING:
    from psfuture.backend import State

ENCODED_AT_ONCE = 8192
"""Padded source tokens of one encoder pass."""

_MADE_UP = re.compile(r"madeupword\d{4}")  # they fill a dictionary up to a round number


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
    attends = True

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
                    f"the {which} dictionary has {len(dictionary)} symbols and the model "
                    f"{symbols}: they do not belong together"
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
        """The model in a checkpoint of fairseq 0.6 to 0.12, or in a folder of `convert_fairseq`.

        Nothing that is in a checkpoint is run, and no folder is unpickled; a folder brings its
        dictionaries and codes.

        fairseq's own tokenizer (Moses') is not applied: words are taken as they are.

        Args:
            path: the checkpoint, or the folder.
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
        path = Path(path)
        if path.is_dir():
            if any(given is not None for given in (src_dict, tgt_dict, bpe, causal_encoder)):
                raise InvalidSetting(
                    f"{path} is a converted model, which brings its dictionaries and codes: leave "
                    "out src_dict, tgt_dict, bpe and causal_encoder"
                )
            files = FairseqFiles.restore(path)
        else:
            files = FairseqFiles.find(
                path,
                src_dict=src_dict,
                tgt_dict=tgt_dict,
                bpe=bpe,
                causal_encoder=causal_encoder,
            )
        return cls.made_of(files, dtype=dtype, device=device)

    @classmethod
    def made_of(
        cls,
        files: FairseqFiles,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
    ) -> FairseqBackend:
        """The model that some files make; see :meth:`load`."""
        from lipogram.llm.precision import resolve_dtype

        source = FairseqDictionary.load(files.source)
        target = FairseqDictionary.load(files.target)
        network = FairseqNetwork(files.settings, files.weights)
        for name, weight in files.weights.items():
            if not bool(torch.isfinite(weight).all()):
                raise NotFinite(
                    f"{name} holds NaN or infinity: the model has diverged or is damaged"
                )
        if device in (None, "auto"):
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(device or "cpu")
        size = sum(weight.numel() for weight in network.parameters())
        return cls(
            network,
            source,
            target,
            _segmentation(source, files.bpe),
            name=files.name,
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
        hidden, asking, own = self.network.decode(ids, places, None, context, kept)
        last = torch.arange(len(inputs)), torch.tensor(lengths) - 1
        state = FairseqState(own, context, asking[last], lengths, sources)
        return state, self._logits(hidden[last])

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
        hidden, asking, own = self.network.decode(ids, places, state.own, state.context, kept)
        grown = FairseqState(own, state.context, asking[:, 0], lengths, state.sources)
        return grown, self._logits(hidden[:, 0])

    def join(self, states: Sequence[State]) -> FairseqState:
        """One state of all the states' rows."""
        return join_states([_ours(state) for state in states])

    @torch.inference_mode()
    def attention(self, state: State) -> Tensor:
        """Attention of the last decoder input of each row to its source: last layer, mean of heads.

        Returns:
            (B, S), float32; rows sum to 1, with zeros after each source's end.
        """
        state = _ours(state)
        source = _filled(state.sources, self.device)[:, None, None]
        return self.network.attention(state.asking, state.context[-1][0], source)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.network.logits(hidden).float().index_fill(1, self._never_at, -torch.inf)


def _ours(state: State) -> FairseqState:
    if not isinstance(state, FairseqState):
        raise InvalidSetting(f"a {type(state).__name__} is no state of a model of fairseq")
    return state


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
    return SentencePieces(path) if path.suffix in PIECES else SubwordNMT(path)
