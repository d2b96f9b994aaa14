"""Sequence-to-sequence models of transformers as a backend: Marian, M2M100, NLLB, mBART, T5."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lipogram.errors import InvalidSetting
from psfuture.hf_batches import length_batches, replay_groups
from psfuture.hf_decoder import HFDecoder
from psfuture.hf_languages import direction
from psfuture.hf_state import HFState, Layers, join_states, scattered, source_mask, stacked

if TYPE_CHECKING:
    from psfuture.backend import State

ENCODED_AT_ONCE = 8192
"""Padded source tokens of one encoder pass."""

# What a decoder pass costs beside its tokens, in tokens: measured on one core for six layers of
# width 512 (14; 60 at width 64); on an accelerator a pass waits for its kernels, not for tokens.
_PASS_ON_CPU, _PASS_ELSEWHERE = 16.0, 1000.0


class HFBackend:
    """An `AutoModelForSeq2SeqLM` and its tokenizer; see :class:`psfuture.backend.Backend`.

    Target tokens are numbered as the model numbers them; the decoder's start and the language tag
    are no target tokens. A closed source is what the tokenizer makes of a sentence, an open one the
    same without its `</s>`: language tags stay where the tokenizer puts them.

    Args:
        model: set to evaluation mode.
        tokenizer: of the model.
        name: what identifies the weights; by default their digest.
        src_lang: source language of a multilingual model, as its tokenizer writes it.
        tgt_lang: target language, likewise.
        prefix: text before every source, of T5-like models; takes the place of the languages.

    Raises:
        InvalidSetting: a multilingual model without its languages (the message lists them); a model
            without end of sentence, padding or decoder start; one that cannot be run step by step.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
    ):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.device: torch.device = model.device
        generation = getattr(model, "generation_config", None)

        def setting(which: str) -> Any:
            found = getattr(generation, which, None)
            return getattr(model.config, which, None) if found is None else found

        ends = setting("eos_token_id")
        ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        if ends[0] is None or tokenizer.eos_token_id is None:
            raise InvalidSetting("the model has no end-of-sentence token (eos_token_id)")
        self.eos: int = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
        if setting("pad_token_id") is None or tokenizer.pad_token_id is None:
            raise InvalidSetting("the model has no padding token (pad_token_id)")
        self._pad: int = tokenizer.pad_token_id
        self.direction = direction(
            tokenizer,
            model.config,
            start=setting("decoder_start_token_id"),
            forced=setting("forced_bos_token_id"),
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            prefix=prefix,
        )
        self.decoder = HFDecoder(model)
        self.vocab_size = self.decoder.vocab_size
        self.max_source: int | None = getattr(model.config, "max_position_embeddings", None)
        single = [word[0] for word in setting("bad_words_ids") or [] if len(word) == 1]
        self.never = self._never({*single, *(setting("suppress_tokens") or []), *ends})
        self._never_at = torch.tensor(sorted(self.never), device=self.device)
        self._source_rows: int = model.get_encoder().get_input_embeddings().weight.shape[0]
        self.name = name or f"hf:{model.config.model_type}@{_digest(model)}"
        with torch.inference_mode():
            some = [t for t in range(self.vocab_size) if t not in self.never][:3]
            self.decoder.calibrate(
                self.source_ids(["a", "b"], closed=True), [*self.direction.start, *some]
            )

    @classmethod
    def load(
        cls,
        spec: str | Path,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        revision: str | None = None,
        bin_weights: bool = False,
    ) -> HFBackend:
        """The model in a folder or on a hub, from safetensors; no code of its own is run.

        Args:
            spec: folder, or hub id `org/name`, also `org/name@revision`.
            src_lang: see :class:`HFBackend`.
            tgt_lang: see :class:`HFBackend`.
            prefix: see :class:`HFBackend`.
            dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
            device: None or "auto" is CUDA where there is one, else the CPU.
            revision: branch, tag or commit of a hub id.
            bin_weights: also read `.bin` checkpoints, as plain tensors (`weights_only`).

        Raises:
            ModelNotFound, UnsafeCheckpoint, CorruptState, NotFinite: see
                :func:`lipogram.llm.loading.load_model`.
            InvalidSetting: as :class:`HFBackend`, or a type or model that does not fit.
        """
        from lipogram.llm.loading import load_model

        loaded = load_model(
            spec,
            task="seq2seq",
            dtype=dtype,
            device=None if device == "auto" else device,
            revision=revision,
            bin_weights=bin_weights,
        )
        commit = loaded.info.revision
        known = commit[:8] if commit else _digest(loaded.model)
        place = str(spec).partition("@")[0] if commit else Path(spec).resolve().name
        return cls(
            loaded.model,
            loaded.tokenizer,
            name=f"hf:{place}@{known}",
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            prefix=prefix,
        )

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids of whole source words; they end with the end of sentence if `closed`.

        An end of sentence or a padding token that the words spell becomes unknown text. Words that
        leave nothing give the end of sentence alone, for an encoder needs something to attend to.
        """
        tokenizer, wanted = self.tokenizer, self.direction.src_lang
        if wanted is not None and tokenizer.src_lang != wanted:
            tokenizer.src_lang = wanted
        eos: int = tokenizer.eos_token_id
        text = self.direction.prefix + " ".join(words)
        ids: list[int] = tokenizer(
            text, truncation=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        last = max((at for at, token in enumerate(ids) if token == eos), default=None)
        found = []
        for at, token in enumerate(ids):
            if at != last and token in (eos, self._pad):
                token = tokenizer.unk_token_id
            if token is not None and (closed or at != last):
                found.append(token)
        if (closed and last is None) or not found:
            found.append(eos)
        return found

    def target_text(self, tokens: Sequence[int]) -> str:
        """Text of target tokens, without special ones; an unfinished character is held back."""
        kept = [token for token in tokens if token not in self.never and token != self.eos]
        text: str = self.tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    @torch.inference_mode()
    def encode(self, sources: Sequence[Sequence[int]]) -> list[Tensor]:
        """Encoder states, one (tokens, d) tensor a source.

        Raises:
            InvalidSetting: a source that is empty, longer than the model has positions, or holds a
                token that the model does not have.
        """
        for source in sources:
            self._check_source(source)
        self.model.eval()
        encoder = self.model.get_encoder()
        found: list[Tensor] = [torch.empty(0)] * len(sources)
        for rows in length_batches([len(source) for source in sources], ENCODED_AT_ONCE):
            tensors = [torch.tensor(sources[row], dtype=torch.long) for row in rows]
            ids = pad_sequence(tensors, batch_first=True, padding_value=self._pad).to(self.device)
            lengths = torch.tensor([len(sources[row]) for row in rows], device=self.device)
            mask = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            for row, state in zip(rows, states, strict=True):
                found[row] = state[: len(sources[row])].clone()
        return found

    @torch.inference_mode()
    def begin(
        self, encodings: Sequence[Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[HFState, Tensor]:
        """Replay committed target tokens in one teacher-forced pass.

        Args:
            encodings: of :meth:`encode`, B of them.
            targets: committed tokens of each row.

        Returns:
            The state after them and the logits (B, V), float32, of the next token.

        Raises:
            InvalidSetting: no rows, a target longer than the model has positions, or a token that
                the model does not have.
        """
        if not targets or len(encodings) != len(targets):
            raise InvalidSetting(f"{len(encodings)} encodings and {len(targets)} targets")
        inputs = tuple((*self.direction.start, *target) for target in targets)
        self._check_inputs(inputs)
        self.model.eval()
        sources = tuple(len(states) for states in encodings)
        hidden, queries, own, cross = self.decoder.replay(
            self._padded(inputs), pad_sequence(list(encodings), batch_first=True), sources
        )
        ends = torch.tensor([len(row) - 1 for row in inputs], device=self.device)
        last = torch.arange(len(inputs), device=self.device), ends
        asked = None if queries is None else queries[last]
        return HFState(inputs, own, cross, asked, sources), self._logits(hidden[last])

    @torch.inference_mode()
    def step(self, state: State, tokens: Sequence[int]) -> tuple[HFState, Tensor]:
        """Append one token a row; the state that is passed stays as it is.

        Returns:
            As :meth:`begin`.

        Raises:
            InvalidSetting: see :meth:`begin`.
        """
        state = _ours(state)
        if len(tokens) != len(state.inputs):
            raise InvalidSetting(f"{len(tokens)} tokens for {len(state.inputs)} rows")
        inputs = tuple((*row, token) for row, token in zip(state.inputs, tokens, strict=True))
        self._check_inputs(inputs)
        self.model.eval()
        per_pass = _PASS_ON_CPU if self.device.type == "cpu" else _PASS_ELSEWHERE
        groups = replay_groups([len(row) for row in state.inputs], per_pass)
        parts = [self._append(state.select(rows), [inputs[row] for row in rows]) for rows in groups]
        if len(parts) == 1:
            last, queries, own = parts[0]
        else:
            order = torch.tensor([row for rows in groups for row in rows], device=self.device)
            back = torch.argsort(order)
            last = torch.cat([hidden for hidden, _, _ in parts])[back]
            queries = stacked([asked for _, asked, _ in parts])
            queries = None if queries is None else queries[back]
            own = scattered([grown for _, _, grown in parts], groups, max(map(len, inputs)))
        return HFState(inputs, own, state.cross, queries, state.sources), self._logits(last)

    def join(self, states: Sequence[State]) -> HFState:
        """One state of all the states' rows."""
        return join_states([_ours(state) for state in states])

    @property
    def attends(self) -> bool:
        """Whether :meth:`attention` can be told of this model."""
        return self.decoder.attention.found

    @torch.inference_mode()
    def attention(self, state: State) -> Tensor:
        """Attention of the last decoder input of each row to its source: last layer, mean of heads.

        Returns:
            (B, S), float32; rows sum to 1, with zeros after each source's end.

        Raises:
            InvalidSetting: the model's attention is of a kind that is not known here.
        """
        state = _ours(state)
        if state.queries is None:
            raise InvalidSetting(
                f"a model of type {self.model.config.model_type!r} does not tell its attention to "
                "the source: choose a policy without it"
            )
        mask = source_mask(state.sources, self.device)
        return self.decoder.attention.weights(state.queries, state.cross[-1][0], mask)

    def _append(
        self, state: HFState, inputs: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor | None, Layers]:
        """Of the last inputs hidden states (B, d) and queries, and caches with all the inputs.

        In one pass from the end of the shortest row on.
        """
        base = min(map(len, state.inputs))
        own = tuple((k[:, :, :base], v[:, :, :base]) for k, v in state.own)
        ids = self._padded([row[base:] for row in inputs])
        hidden, queries, grown = self.decoder.append(ids, own, state.cross, state.sources)
        ends = torch.tensor([len(row) - 1 - base for row in inputs], device=self.device)
        last = torch.arange(len(inputs), device=self.device), ends
        return hidden[last], None if queries is None else queries[last], grown

    def _padded(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        # Not with the padding token: nothing is masked, and nothing looks back from the padding.
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        ids = pad_sequence(tensors, batch_first=True, padding_value=self.eos)
        return ids.to(self.device)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.decoder.logits(hidden).index_fill(1, self._never_at, -torch.inf)

    def _never(self, more: set[int]) -> frozenset[int]:
        """Tokens that are no part of a translation: special ones, and ids that stand for none."""
        tokenizer = self.tokenizer
        separate = getattr(tokenizer, "separate_vocabs", False)  # Marian
        vocabulary = tokenizer.target_encoder if separate else tokenizer.get_vocab()
        special = {vocabulary[t] for t in map(str, tokenizer.all_special_tokens) if t in vocabulary}
        beyond = range(max(vocabulary.values()) + 1, self.vocab_size)
        found = {*special, *self.direction.tags, *beyond, *more} - {self.eos}
        return frozenset(token for token in found if 0 <= token < self.vocab_size)

    def _check_source(self, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidSetting("a source without tokens: there is nothing to attend to")
        if self.max_source is not None and len(ids) > self.max_source:
            raise InvalidSetting(
                f"a source of {len(ids)} tokens; the model has {self.max_source} positions"
            )
        if not (0 <= min(ids) and max(ids) < self._source_rows):
            raise InvalidSetting(
                f"source token {max(ids)} is none of the model's {self._source_rows}: "
                "the tokenizer is another model's"
            )

    def _check_inputs(self, inputs: Sequence[tuple[int, ...]]) -> None:
        longest = max(map(len, inputs))
        if self.max_source is not None and longest > self.max_source:
            raise InvalidSetting(
                f"a target of {longest} tokens; the model has {self.max_source} positions"
            )
        wrong = [t for row in inputs for t in (min(row), max(row)) if not 0 <= t < self.vocab_size]
        if wrong:
            raise InvalidSetting(f"target token {wrong[0]} is none of {self.vocab_size}")


def _ours(state: State) -> HFState:
    if not isinstance(state, HFState):
        raise InvalidSetting(f"a {type(state).__name__} is no state of a model of transformers")
    return state


def _digest(model: Any) -> str:
    """Eight hexadecimal digits of some values of every weight: another model has others."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)].float().cpu()
        digest.update(name.encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:8]
