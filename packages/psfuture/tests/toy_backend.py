"""A model out of a hash, a loop that runs policies without any cache, and a random small Marian."""

from __future__ import annotations

import functools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lipogram.errors import InvalidSetting

PIECES = [b"</s>", *(f" {a}{b}".encode() for a in "kt" for b in "aei"), b"ri", b"no", b"s", b"."]
PIECES += [b" \xc3", b"\xa9", b"!"]  # two halves of a letter

VOCABULARY = {
    "word": "the cat sat on every second mat and did not want to leave it again".split(),
    "char": list("我想明天去北京看朋友但是天气不好"),
}


@dataclass(frozen=True)
class ToyState:
    """Rows of source and target ids."""

    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def select(self, rows: Sequence[int]) -> ToyState:
        return ToyState(tuple(self.rows[row] for row in rows))


@functools.lru_cache(200_000)
def noise(*key: object) -> np.ndarray:
    seed = zlib.crc32(repr(key).encode())
    return np.random.default_rng(seed).normal(size=len(PIECES)).astype(np.float32)


@dataclass
class ToyBackend:
    """Distributions that are a hash of source and target: exact, whatever the batch.

    Half of a logit depends on the source's beginning alone, so a suffix moves a distribution a bit.
    `broken` gives logits that replace those of a source and a target; `asked` counts rows, by what
    they were asked for.
    """

    max_source: int | None = None
    attends: bool = True
    broken: Callable[[tuple[int, ...], tuple[int, ...]], float | None] = lambda source, target: None
    asked: Counter[str] = field(default_factory=Counter)
    seen: Counter[Any] = field(default_factory=Counter)
    name = "toy"
    vocab_size = len(PIECES)
    eos = 0
    device = torch.device("cpu")

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        sizes = [(word, 3 if word.isascii() else 2) for word in words]
        pieces = [word[at : at + n] for word, n in sizes for at in range(0, len(word), n)]
        return [zlib.crc32(piece.encode()) % 9999 + 1 for piece in pieces] + [0] * closed

    def target_text(self, tokens: Sequence[int]) -> str:
        text = b"".join(PIECES[token] for token in tokens if token)
        return text.decode("utf-8", "replace").rstrip("\N{REPLACEMENT CHARACTER}").strip()

    def encode(self, sources: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        for ids in sources:
            if not ids or (self.max_source is not None and len(ids) > self.max_source):
                raise InvalidSetting(f"a source of {len(ids)} tokens")
        self.asked["encoded"] += len(sources)
        return [torch.tensor(ids, dtype=torch.float32)[:, None] for ids in sources]

    def begin(
        self, encodings: Sequence[torch.Tensor], targets: Sequence[Sequence[int]]
    ) -> tuple[ToyState, torch.Tensor]:
        self.asked["begun"] += len(targets)
        rows = [
            (tuple(map(int, states[:, 0])), tuple(target))
            for states, target in zip(encodings, targets, strict=True)
        ]
        return self._said(rows)

    def step(self, state: ToyState, tokens: Sequence[int]) -> tuple[ToyState, torch.Tensor]:
        self.asked["stepped"] += len(tokens)
        pairs = zip(state.rows, tokens, strict=True)
        return self._said([(source, (*target, token)) for (source, target), token in pairs])

    def join(self, states: Sequence[ToyState]) -> ToyState:
        return ToyState(tuple(row for state in states for row in state.rows))

    def attention(self, state: ToyState) -> torch.Tensor:
        weights = torch.zeros(len(state.rows), max(len(source) for source, _ in state.rows))
        for row, (source, target) in zip(weights, state.rows, strict=True):
            row[: len(source)] = torch.from_numpy(self.weights(source, target))
        return weights

    def weights(self, source: tuple[int, ...], target: tuple[int, ...]) -> np.ndarray:
        """Attention of one row, which wanders to the right."""
        rng = np.random.default_rng(zlib.crc32(repr((source, target, "attention")).encode()))
        places = np.arange(len(source))
        scores = rng.normal(size=len(source)) - abs(places - 1.5 * len(target))
        return (np.exp(scores) / np.exp(scores).sum()).astype(np.float32)

    def logits(self, source: tuple[int, ...], target: tuple[int, ...]) -> np.ndarray:
        """Of one row."""
        self.asked["rows"] += 1
        self.seen[source, target] += 1
        value = 2 * noise("start", source[:3], target) + 1.5 * noise("all", source, target)
        value[0] += 0.8 * (len(target) - len(source)) - 1
        wrong = self.broken(source, target)
        if wrong is not None:
            value[3] = wrong
        return value

    def _said(self, rows: Sequence[Any]) -> tuple[ToyState, torch.Tensor]:
        logits = torch.from_numpy(np.stack([self.logits(*row) for row in rows]))
        return ToyState(tuple(rows)), logits


@dataclass
class Told:
    """What a naive loop did."""

    tokens: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    actions: str = ""
    divergences: list[float] = field(default_factory=list)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def cosine(p: np.ndarray, q: np.ndarray) -> float:
    return float(1 - p @ q / math.sqrt((p @ p) * (q @ q)))


class Naive:
    """The algorithm of the papers, one forward pass from scratch after the other.

    Args:
        logits: of one source and target, from scratch.
        backend: for its tokenizer.
        unit: of the source and the target.
    """

    def __init__(self, logits: Callable[..., np.ndarray], backend: Any, unit: str = "word"):
        self.logits, self.backend, self.unit = logits, backend, unit

    def ids(self, units: Sequence[str], *, closed: bool) -> tuple[int, ...]:
        words = list(units) if self.unit == "word" else ["".join(units)]
        return tuple(self.backend.source_ids(words, closed=closed))

    def shown(self, tokens: Sequence[int]) -> int:
        text = self.backend.target_text(tokens)
        return len(text.split() if self.unit == "word" else "".join(text.split()))

    def room(self, source: Sequence[int]) -> int:
        """Tokens of a target, four fewer than positions at most."""
        room, most = int(2.5 * len(source)) + 5, self.backend.max_source
        return room if most is None else min(room, most - 4)

    def greedy(self, units: Sequence[str]) -> list[int]:
        """Offline."""
        source, target = self.ids(units, closed=True), []
        while len(target) < self.room(source):
            token = int(self.logits(source, tuple(target)).argmax())
            if token == self.backend.eos:
                break
            target.append(token)
        return target

    def run(
        self, units: Sequence[str], decide: Callable[..., tuple[bool, int]], *, closed: bool = True
    ) -> Told:
        """A policy of tokens: `decide(units, j, tokens, argmax, told)` says whether, and what."""
        told = Told()
        for j in range(1, len(units)):
            told.actions += "R"
            source = self.ids(units[:j], closed=closed)
            while len(told.tokens) < self.room(source):
                token = int(self.logits(source, tuple(told.tokens)).argmax())
                write, token = decide(units, j, tuple(told.tokens), token, told)
                if not write or token == self.backend.eos:
                    break
                self.write(told, token, j)
        return self.end(told, units)

    def drafts(
        self, units: Sequence[str], keep: Callable[[list[list[int]]], int], *, closed: bool = True
    ) -> Told:
        """A policy of drafts."""
        told, drafts = Told(), []
        for j in range(1, len(units)):
            told.actions += "R"
            source, draft = self.ids(units[:j], closed=closed), list(told.tokens)
            while len(draft) < self.room(source):
                token = int(self.logits(source, tuple(draft)).argmax())
                if token == self.backend.eos:
                    break
                draft.append(token)
            drafts.append(draft)
            for token in draft[len(told.tokens) : keep(drafts)]:
                self.write(told, token, j)
        return self.end(told, units)

    def end(self, told: Told, units: Sequence[str]) -> Told:
        if not units:
            return told
        told.actions += "R"
        source = self.ids(units, closed=True)
        while len(told.tokens) < self.room(source):
            token = int(self.logits(source, tuple(told.tokens)).argmax())
            if token == self.backend.eos:
                break
            self.write(told, token, len(units))
        return told

    def write(self, told: Told, token: int, reads: int) -> None:
        told.tokens.append(token)
        told.delays.append(reads)
        told.actions += "W"

    def compared(
        self,
        units: Sequence[str],
        tokens: tuple[int, ...],
        suffixes: Sequence[Sequence[str]],
        *,
        closed: bool = True,
        reduce: Callable[[list[float]], float] = lambda each: sum(each) / len(each),
        write_from: str = "partial",
    ) -> tuple[float, int]:
        """D and the token that PsFuture writes, of what was read."""
        p = softmax(self.logits(self.ids(units, closed=closed), tokens))
        futures = [
            softmax(self.logits(self.ids([*units, *suffix], closed=True), tokens))
            for suffix in suffixes
        ]
        pseudo = sum(futures) / len(futures)
        written = {"partial": p, "pseudo": pseudo, "mix": p * pseudo}[write_from]
        return reduce([cosine(p, q) for q in futures]), int(written.argmax())


def sentences(count: int, seed: int = 0, unit: str = "word") -> list[str]:
    """Sentences of 0 to 11 units, the same for the same seed."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, count)
    joint = " " if unit == "word" else ""
    return [joint.join(rng.choice(VOCABULARY[unit], length)) for length in lengths]


@functools.cache
def marian() -> Any:
    """A random Marian of 60 tokens and 64 positions, its words w4 to w59."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    from psfuture.hf_backend import HFBackend

    config = MarianConfig(
        vocab_size=60,
        decoder_vocab_size=60,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MarianMTModel(config)
        model.final_logits_bias.normal_()
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {f"w{i}": i for i in range(4, 60)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return HFBackend(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))
