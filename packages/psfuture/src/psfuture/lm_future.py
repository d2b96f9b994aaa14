"""What a small language model of the source language thinks will be said next.

PsFuture, section 3.1 (a future that is predicted dynamically). The words that were read are
continued by samples; each suffix is drawn with random numbers of its own prefix, so it depends
neither on what else is asked nor on what was asked before.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from psfuture.word_pieces import WordPieces

Words = tuple[str, ...]
Layers = list[tuple[Tensor, Tensor]]

_HELD = 64  # sentences whose caches are kept
_KEPT = 100_000  # prefixes whose suffixes are kept
_AT_ONCE = 512  # prefixes that are read before any is continued
_TOKENS_A_WORD = 3
_FEW, _MANY = 64, 1024  # tokens among which the most probable ones are looked for


@dataclass
class _Read:
    """What the model has read of one sentence: its caches, and logits after its last tokens."""

    layers: Layers  # (1, heads, tokens, d) each
    start: int
    logits: Tensor  # (tokens - start, V)


class LanguageModel:
    """Continuations of the prefix by a causal language model; see :class:`psfuture.futures.Future`.

    A read prefix extends the one before by a word, so the model reads that word alone; all the
    prefixes of one sentence that are asked for together are read in one pass. Their suffixes are
    sampled in one batch, which a row leaves once its words are said.

    Args:
        model: what :func:`lipogram.llm.load_model` takes: `smollm2`, a folder, a hub id.
        length: words of a suffix, at most; it ends early where the model ends the line.
        count: K, suffixes a prefix.
        temperature: of the sampling; 0 takes the most probable token (K is 1 then).
        top_p: the smallest set of tokens of this probability is drawn from.
        seed: of the draws.
        dtype: see :func:`lipogram.llm.precision.resolve_dtype`. In "float32", which "auto" is on a
            CPU, a suffix is the same whatever else is asked; halves round otherwise in another
            batch, which changes some.
        device: None is CUDA where there is one, else the CPU.
        batch_size: suffixes sampled at once.

    Raises:
        InvalidSetting: a setting outside its range, or a tokenizer without any special token.
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
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 128,
    ):
        if length < 1 or count < 1 or batch_size < 1:
            raise InvalidSetting("length, count and batch_size of a future must be 1 or more")
        if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
            raise InvalidSetting(f"temperature is {temperature}, top_p {top_p}: at least 0, (0, 1]")
        if temperature == 0 and count > 1:
            raise InvalidSetting("without a temperature all suffixes are the same: count must be 1")
        from lipogram.llm.loading import load_model

        loaded = load_model(model, dtype=dtype, device=device)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.name = f"{loaded.info.spec}, {count} of {length} words"
        self.length, self.count, self.batch_size = length, count, batch_size
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        config = self.model.config
        self._pieces = WordPieces(self.tokenizer, config.vocab_size)
        self._barred = torch.full((config.vocab_size,), -torch.inf, device=self.model.device)
        self._barred[sorted(self._pieces.first)] = 0
        self._start = _start(self.tokenizer)
        self._steps = _TOKENS_A_WORD * length + 1
        self._positions = getattr(config, "max_position_embeddings", None)
        self._held: OrderedDict[tuple[int, ...], Layers] = OrderedDict()
        self._suffixes: OrderedDict[Words, list[Words]] = OrderedDict()

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """K suffixes for each prefix."""
        new = [p for p in dict.fromkeys(prefixes) if p not in self._suffixes]
        with torch.inference_mode():
            for start in range(0, len(new), _AT_ONCE):
                some = new[start : start + _AT_ONCE]
                self._suffixes.update(zip(some, self._sampled(some), strict=True))
        found = [self._suffixes[prefix] for prefix in prefixes]
        while len(self._suffixes) > _KEPT:
            self._suffixes.popitem(last=False)
        return found

    def prepare(self, sentences: Sequence[Words]) -> None:
        """Invent the suffixes of every prefix of these sentences, in as few passes as can be."""
        self.invent([s[:j] for s in sentences for j in range(1, len(s))], ())

    def _sampled(self, prefixes: Sequence[Words]) -> list[list[Words]]:
        ids = [self._ids(prefix) for prefix in prefixes]
        within: dict[tuple[int, ...], tuple[int, ...]] = {}
        shortest: dict[tuple[int, ...], int] = {}
        for row in sorted(set(ids), key=len, reverse=True):
            within[row] = next((whole for whole in shortest if whole[: len(row)] == row), row)
            shortest[within[row]] = len(row)
        reads = {whole: self._read(whole, first) for whole, first in shortest.items()}
        rows = [(p, k) for p in range(len(prefixes)) for k in range(self.count)]
        rows.sort(key=lambda row: len(ids[row[0]]))
        found: dict[tuple[int, int], Words] = {}
        for at in range(0, len(rows), self.batch_size):
            batch = rows[at : at + self.batch_size]
            drawn = self._continue(
                [reads[within[ids[p]]] for p, _ in batch],
                [len(ids[p]) for p, _ in batch],
                [random.Random(f"{self.seed} {k} {' '.join(prefixes[p])}") for p, k in batch],
            )
            found |= dict(zip(batch, drawn, strict=True))
        return [[found[p, k] for k in range(self.count)] for p in range(len(prefixes))]

    def _ids(self, words: Words) -> tuple[int, ...]:
        """Tokens of the words, their beginning left out where the model lacks positions."""
        ids = self.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
        if self._positions is not None:
            most = max(self._positions - self._steps - 1, 2)
            over, part = len(ids) - most, most // 2
            # In parts, so that most prefixes still begin like the one before.
            ids = ids[-(-over // part) * part :] if over > 0 else ids
        return (self._start, *ids)

    def _read(self, ids: tuple[int, ...], first: int) -> _Read:
        """Read what no sentence that is held begins with, with logits from `first` tokens on."""
        best: tuple[int, ...] = max(self._held, key=lambda held: _common(held, ids), default=())
        common = min(_common(best, ids), first - 1)
        held: Layers = []
        if common:
            held = [(k[:, :, :common], v[:, :, :common]) for k, v in self._held[best]]
            if best == ids[: len(best)]:
                del self._held[best]
        device = self.model.device
        output = self.model(
            input_ids=torch.tensor([ids[common:]], device=device),
            position_ids=torch.arange(common, len(ids), device=device)[None],
            past_key_values=_cache(held),
            use_cache=True,
        )
        layers = _layers(output.past_key_values)
        self._held[ids] = layers
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return _Read(layers, common, output.logits[0])

    def _continue(
        self, reads: Sequence[_Read], lengths: Sequence[int], draws: Sequence[random.Random]
    ) -> list[Words]:
        """One suffix a row, each after the first `length` tokens of what was read."""
        device = self.model.device
        longest = max(lengths)
        layers = _side_by_side([read.layers for read in reads], lengths)
        places = torch.tensor(lengths, device=device)[:, None]
        mask = (torch.arange(longest, device=device) >= longest - places).long()
        logits = torch.stack(
            [read.logits[n - 1 - read.start] for read, n in zip(reads, lengths, strict=True)]
        )
        said: list[list[int]] = [[] for _ in reads]
        rows = list(range(len(reads)))
        for step in range(self._steps):
            scores = logits.float() + self._barred if step == 0 else logits.float()
            tokens = self._drawn(scores, [draws[row] for row in rows])
            for row, token in zip(rows, tokens, strict=True):
                said[row].append(token)
            going = [at for at, row in enumerate(rows) if self._goes_on(said[row])]
            if not going or step == self._steps - 1:
                break
            if len(going) < len(rows):  # rows that are done cost no more steps
                kept = torch.tensor(going, device=device)
                layers = [(k[kept], v[kept]) for k, v in layers]
                mask, places = mask[kept], places[kept]
                rows, tokens = [rows[at] for at in going], [tokens[at] for at in going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            output = self.model(
                input_ids=torch.tensor(tokens, device=device)[:, None],
                attention_mask=mask,
                position_ids=places + step,
                past_key_values=_cache(layers),
                use_cache=True,
            )
            layers, logits = _layers(output.past_key_values), output.logits[:, -1]
        return [self._pieces.words(tokens, self.length) for tokens in said]

    def _goes_on(self, tokens: Sequence[int]) -> bool:
        return tokens[-1] not in self._pieces.ends and self._pieces.whole(tokens) < self.length

    def _drawn(self, scores: Tensor, draws: Sequence[random.Random]) -> list[int]:
        """A token a row."""
        if not torch.isfinite(scores.amax(-1)).all():
            raise NotFinite(f"the logits of the language model {self.name!r} are not finite")
        if not self.temperature:
            return list(map(int, scores.argmax(-1)))
        probs = (scores / self.temperature).softmax(-1)
        points = torch.tensor([draw.random() for draw in draws], device=probs.device)[:, None]
        ranked, order = probs.topk(min(_FEW, probs.shape[1]))
        tokens = self._at(points, ranked, order)
        wide = ranked.sum(-1) < self.top_p
        if bool(wide.any()):
            tokens[wide] = self._at(points[wide], *probs[wide].topk(min(_MANY, probs.shape[1])))
        return list(map(int, tokens))

    def _at(self, points: Tensor, ranked: Tensor, order: Tensor) -> Tensor:
        """The tokens at these points, from 0 to 1, of the ranked probabilities up to `top_p`."""
        # A token stays if those before it do not reach top_p yet, or if it is as probable as one
        # that stays. Then they are put in the order of their numbers: coarse logits tie often, and
        # ranks that change with the last bit would change what is drawn.
        before = ranked.cumsum(-1) - ranked
        least = ranked.masked_fill(before >= self.top_p, torch.inf).amin(-1, keepdim=True)
        order, places = order.sort(-1)
        ranked = ranked.gather(1, places)
        edges = ranked.masked_fill(ranked < least, 0).cumsum(-1)
        at = torch.searchsorted(edges, points * edges[:, -1:], right=True)
        at = at.clamp(max=ranked.shape[1] - 1)
        return order.gather(1, at)[:, 0]


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _cache(layers: Layers) -> Any:
    """A cache over these tensors, without a copy; growing it makes new ones and drops none."""
    from transformers import DynamicCache

    from psfuture.hf_decoder import cache_over

    return cache_over(layers) if layers else DynamicCache()


def _layers(cache: Any) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _side_by_side(parts: Sequence[Layers], lengths: Sequence[int]) -> Layers:
    """The first places of caches of one row each as one, padded before them.

    So what follows is at its true distance, which models with a sliding window count by place.
    """
    longest = max(lengths)
    layers = []
    for layer in zip(*parts, strict=True):
        both = []
        for which in (0, 1):
            first = layer[0][which]
            whole = first.new_zeros(len(parts), first.shape[1], longest, first.shape[3])
            for row, (part, length) in enumerate(zip(layer, lengths, strict=True)):
                whole[row, :, longest - length :] = part[which][0, :, :length]
            both.append(whole)
        layers.append((both[0], both[1]))
    return layers


def _start(tokenizer: Any) -> int:
    """The token that texts begin with in training."""
    known = tokenizer.get_vocab()
    for token in ("<|endoftext|>", tokenizer.bos_token, tokenizer.eos_token):
        if token is not None and token in known:
            return int(known[token])
    raise InvalidSetting("the language model has no token that a text could begin with")
