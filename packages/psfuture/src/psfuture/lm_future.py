"""What a small language model of the source language thinks will be said next.

PsFuture, section 3.1 (a future that is predicted dynamically). The words that were read are
continued by samples; each suffix is drawn with random numbers of its own prefix, so it depends
neither on what else is asked nor on what was asked before.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting

Words = tuple[str, ...]
Layers = list[tuple[Tensor, Tensor]]

_HELD = 64  # sentences whose caches are kept
_KEPT = 100_000  # prefixes whose suffixes are kept
_TOKENS_A_WORD = 3


@dataclass
class _Read:
    """What the model has read of one sentence: its caches, and logits after each of its tokens."""

    ids: tuple[int, ...]
    layers: Layers  # (1, heads, tokens, d) each
    logits: Tensor  # (tokens, V)


class LanguageModel:
    """Continuations of the prefix by a causal language model; see :class:`psfuture.futures.Future`.

    A read prefix extends the one before by a word, so the model reads that word alone; all the
    prefixes of one sentence that are asked for together are read in one pass. Their suffixes are
    sampled in one batch.

    Args:
        model: what :func:`lipogram.llm.load_model` takes: `smollm2`, a folder, a hub id.
        length: words of a suffix, at most; it ends early where the model ends the line.
        count: K, suffixes a prefix.
        temperature: of the sampling; 0 takes the most probable token (K is 1 then).
        top_p: the smallest set of tokens of this probability is drawn from.
        seed: of the draws.
        dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
        device: None is CUDA where there is one, else the CPU.
        batch_size: suffixes sampled at once.

    Raises:
        InvalidSetting: a setting outside its range.
        ModelNotFound: see :func:`lipogram.llm.load_model`.
    """

    sees_future, closes_only = False, False

    def __init__(
        self,
        model: Any = "smollm2",
        *,
        length: int = 4,
        count: int = 4,
        temperature: float = 0.8,
        top_p: float = 0.9,
        seed: int = 0,
        dtype: str = "fast",
        device: str | None = None,
        batch_size: int = 128,
    ):
        if length < 1 or count < 1 or batch_size < 1:
            raise InvalidSetting("length, count and batch_size of a future must be 1 or more")
        if temperature < 0 or not 0 < top_p <= 1:
            raise InvalidSetting(f"temperature is {temperature}, top_p {top_p}: at least 0, (0, 1]")
        if temperature == 0 and count > 1:
            raise InvalidSetting("without a temperature all suffixes are the same: count must be 1")
        from lipogram.llm.loading import load_model

        loaded = load_model(model, dtype=dtype, device=device)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.name = f"{loaded.info.spec}, {count} of {length} words"
        self.length, self.count, self.batch_size = length, count, batch_size
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self._first = _starts_a_word(self.tokenizer, self.model.config.vocab_size)
        self._ends = _ends(self.tokenizer, self.model.config.vocab_size)
        self._start = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        if self._start is None or self._start == self.tokenizer.unk_token_id != 0:
            self._start = self.tokenizer.bos_token_id or self.tokenizer.eos_token_id
        self._held: OrderedDict[tuple[int, ...], _Read] = OrderedDict()
        self._suffixes: OrderedDict[Words, list[Words]] = OrderedDict()

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """K suffixes for each prefix."""
        new = [p for p in dict.fromkeys(prefixes) if p not in self._suffixes]
        if new:
            with torch.inference_mode():
                self._suffixes.update(zip(new, self._sampled(new), strict=True))
        found = [self._suffixes[prefix] for prefix in prefixes]
        while len(self._suffixes) > _KEPT:
            self._suffixes.popitem(last=False)
        return found

    def prepare(self, sentences: Sequence[Words]) -> None:
        """Invent the suffixes of every prefix of these sentences, in as few passes as can be."""
        self.invent([s[:j] for s in sentences for j in range(1, len(s))], ())

    def _sampled(self, prefixes: Sequence[Words]) -> list[list[Words]]:
        ids = [self._ids(prefix) for prefix in prefixes]
        reads: dict[tuple[int, ...], _Read] = {}
        for row in sorted(set(ids), key=len, reverse=True):
            whole = next((k for k in reads if k[: len(row)] == row), None)
            reads[row] = reads[whole] if whole is not None else self._read(row)
        rows = [(p, k) for p in range(len(prefixes)) for k in range(self.count)]
        rows.sort(key=lambda row: len(ids[row[0]]))
        found: dict[tuple[int, int], Words] = {}
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            drawn = self._continue(
                [reads[ids[p]] for p, _ in batch],
                [len(ids[p]) for p, _ in batch],
                [random.Random(f"{self.seed} {k} {' '.join(prefixes[p])}") for p, k in batch],
            )
            found |= dict(zip(batch, drawn, strict=True))
        return [[found[p, k] for k in range(self.count)] for p in range(len(prefixes))]

    def _ids(self, words: Words) -> tuple[int, ...]:
        ids = self.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
        return (self._start, *ids)

    def _read(self, ids: tuple[int, ...]) -> _Read:
        """Read what no sentence that is held begins with."""
        best, common = None, 0
        for held in self._held.values():
            same = _common(held.ids, ids)
            if same > common:
                best, common = held, same
        common = min(common, len(ids) - 1)
        cache, known = None, None
        if best is not None and common:
            cache = _cache([(k[:, :, :common], v[:, :, :common]) for k, v in best.layers])
            known = best.logits[:common]
            self._held.pop(best.ids)
        device = self.model.device
        output = self.model(
            input_ids=torch.tensor([ids[common:]], device=device),
            position_ids=torch.arange(common, len(ids), device=device)[None],
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[0]
        read = _Read(
            ids,
            [(layer.keys, layer.values) for layer in output.past_key_values.layers],
            logits if known is None else torch.cat([known, logits]),
        )
        self._held[ids] = read
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return read

    def _continue(
        self, reads: Sequence[_Read], lengths: Sequence[int], draws: Sequence[random.Random]
    ) -> list[Words]:
        """One suffix a row, each after the first `length` tokens of what was read."""
        device = self.model.device
        longest = max(lengths)
        layers: Layers = []
        for number in range(len(reads[0].layers)):
            both = []
            for which in (0, 1):
                parts = [read.layers[number][which][0, :, :longest] for read in reads]
                first = parts[0]
                held = first.new_zeros(len(reads), first.shape[0], longest, first.shape[2])
                for row, part in enumerate(parts):
                    held[row, :, : part.shape[1]] = part
                both.append(held)
            layers.append((both[0], both[1]))
        cache: Any = _cache(layers)
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        mask = mask.long()
        places = torch.tensor(lengths, device=device)[:, None]
        logits = torch.stack([r.logits[n - 1] for r, n in zip(reads, lengths, strict=True)])
        said: list[list[int]] = [[] for _ in reads]
        done = [False] * len(reads)
        for step in range(_TOKENS_A_WORD * self.length + 1):
            tokens = self._drawn(logits, draws, only=self._first if step == 0 else None)
            for row, token in enumerate(tokens):
                if done[row]:
                    continue
                said[row].append(token)
                begun = sum(t in self._first for t in said[row])
                done[row] = token in self._ends or begun > self.length
            if all(done):
                break
            mask = torch.cat([mask, mask.new_ones(len(reads), 1)], 1)
            output = self.model(
                input_ids=torch.tensor(tokens, device=device)[:, None],
                attention_mask=mask,
                position_ids=places + step,
                past_key_values=cache,
                use_cache=True,
            )
            cache, logits = output.past_key_values, output.logits[:, -1]
        return [self._words(tokens) for tokens in said]

    def _words(self, tokens: Sequence[int]) -> Words:
        kept = []
        for token in tokens:
            if token in self._ends:
                break
            kept.append(token)
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return tuple(str(text).split("\n")[0].split()[: self.length])

    def _drawn(
        self,
        logits: Tensor,
        draws: Sequence[random.Random],
        *,
        only: frozenset[int] | None,
    ) -> list[int]:
        scores = logits.float()
        if only is not None:
            barred = scores.new_full((scores.shape[1],), -torch.inf)
            barred[torch.tensor(sorted(only), device=scores.device)] = 0
            scores = scores + barred
        if not self.temperature:
            return list(map(int, scores.argmax(-1)))
        probs = (scores / self.temperature).softmax(-1)
        ranked, order = probs.topk(min(1024, probs.shape[1]))
        # A token stays if those before it do not reach top_p yet.
        before = ranked.cumsum(-1) - ranked
        ranked = ranked.masked_fill(before >= self.top_p, 0)
        edges = ranked.cumsum(-1)
        points = torch.tensor([d.random() for d in draws], device=edges.device)[:, None]
        at = torch.searchsorted(edges, points * edges[:, -1:], right=True)
        at = at.clamp(max=(ranked > 0).sum(-1, keepdim=True) - 1)
        return list(map(int, order.gather(1, at)[:, 0]))


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _cache(layers: Layers) -> Any:
    """A cache over these tensors, without a copy; growing it makes new ones."""
    from psfuture.hf_decoder import cache_over

    return cache_over(layers)


def _starts_a_word(tokenizer: Any, size: int) -> frozenset[int]:
    """Tokens that begin with a space and hold something else."""
    pieces = tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))
    return frozenset(
        i
        for i, piece in enumerate(pieces)
        if piece and piece[0] in "Ġ▁" and len(piece) > 1 and piece[1] not in "Ġ▁Ċ"
    )


def _ends(tokenizer: Any, size: int) -> frozenset[int]:
    """Tokens after which nothing of the line follows."""
    pieces = tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    return frozenset(
        i
        for i, piece in enumerate(pieces)
        if i in special or (piece and ("Ċ" in piece or "\n" in piece))
    )
