"""Batches for Prefix-to-Full training: each sentence whole, and cut after a random word."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, TrainerCallback

from lipogram.errors import InvalidSetting
from psfuture.prefix_draw import draw_prefix
from psfuture.units import Unit, check_unit, source_words, split

IGNORED = -100
"""Label of a position that has none, as PyTorch's cross-entropy has it."""


class PairTokenizer(Protocol):
    """What turns sentences into tokens for training.

    Attributes:
        pad: a source token to fill up with.
    """

    pad: int

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """Token ids of whole source words; they end with the end of sentence if `closed`."""

    def target_ids(self, text: str) -> list[int]:
        """Labels of a target sentence, its end included; -100 where none is to be learnt."""


class HFPairTokenizer:
    """A tokenizer of transformers; its `src_lang` and `tgt_lang`, if any, are to be set on it.

    Args:
        tokenizer: of a sequence-to-sequence model.
        prefix: text before every source, of T5-like models.

    Raises:
        InvalidSetting: it has no end of sentence or no padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, prefix: str = ""):
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise InvalidSetting("the tokenizer has no end of sentence or no padding token")
        self.tokenizer, self.prefix = tokenizer, prefix
        self.pad: int = tokenizer.pad_token_id

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """As :meth:`PairTokenizer.source_ids`; language tags stay where the tokenizer puts them."""
        text = self.prefix + " ".join(words)
        ids: list[int] = list(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        ends = [at for at, token in enumerate(ids) if token == self.tokenizer.eos_token_id]
        if not closed and ends and len(ids) > 1:
            del ids[ends[-1]]
        return ids

    def target_ids(self, text: str) -> list[int]:
        """As :meth:`PairTokenizer.target_ids`."""
        return list(self.tokenizer(text_target=text, truncation=False, verbose=False)["input_ids"])


class P2FCollator:
    """Makes a batch out of pairs: the sentences whole, and cut after j words each.

    A batch holds `input_ids`, `attention_mask` (B, S), `labels` (B, T), and the cut sources as
    `prefix_input_ids`, `prefix_attention_mask` (B, S'), all int64; the labels of both are the full
    target (Prefix-to-Full, PsFuture). A cut source is text of whole words, tokenised anew. Where it
    is cut depends on `seed`, `epoch` and the pair's index alone, so a resumed run draws what it
    would have drawn.

    Args:
        tokenizer: of transformers, or a :class:`PairTokenizer`.
        prefix_dist: how j is drawn, see :func:`~psfuture.prefix_draw.draw_prefix`.
        prefix_eos: whether cut sources are closed with the end of sentence. Whole ones are.
        unit: "word", or "char" for languages that part none.
        seed: of the draws.
        stacked: put the cut sources into rows B to 2B - 1 of the batch instead. Half the loss of
            weight 1 is then the mean cross-entropy that any trainer computes.

    Attributes:
        epoch: which visit of the sentences this is; :class:`PrefixEpochs` counts it.

    Raises:
        InvalidSetting: an unknown `prefix_dist` or `unit`, or a tokenizer without end or padding.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        prefix_dist: str = "uniform",
        prefix_eos: bool = True,
        unit: Unit = "word",
        seed: int = 0,
        stacked: bool = False,
    ):
        draw_prefix(prefix_dist, 1, 1, "")
        check_unit(unit)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = HFPairTokenizer(tokenizer)
        self.tokenizer: PairTokenizer = tokenizer
        self.prefix_dist, self.prefix_eos, self.unit = prefix_dist, prefix_eos, unit
        self.seed, self.stacked, self.epoch = seed, stacked, 0

    def __call__(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """The batch of some examples.

        Args:
            examples: (source, target) pairs; mappings with "source", "target" and "index"; or
                sequences of such, which are joined (:func:`token_batches`). Without an index it is
                the text that j depends on.

        Raises:
            InvalidSetting: a source or target without words, by its index.
        """
        whole, cut, labels = [], [], []
        for pair in (pair for example in examples for pair in _pairs(example)):
            words, target = split(pair["source"], self.unit), split(pair["target"], self.unit)
            index = pair.get("index", (pair["source"], pair["target"]))
            if not words or not target:
                raise InvalidSetting(f"pair {index} has a side without words")
            key = f"{self.seed}:{self.epoch}:{index}"
            j = draw_prefix(self.prefix_dist, len(words), len(target), key)
            closed = self.prefix_eos or j == len(words)
            whole.append(self._ids(words, closed=True))
            cut.append(self._ids(words[:j], closed=closed))
            labels.append(self.tokenizer.target_ids(pair["target"]))
        if self.stacked:
            return self._sources("", whole + cut) | {"labels": _filled(labels * 2, IGNORED)}
        return {
            **self._sources("", whole),
            "labels": _filled(labels, IGNORED),
            **self._sources("prefix_", cut),
        }

    def _ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        return self.tokenizer.source_ids(source_words(words, self.unit), closed=closed)

    def _sources(self, name: str, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(row) for row in rows])
        ids = _filled(rows, self.tokenizer.pad)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {f"{name}input_ids": ids, f"{name}attention_mask": mask}


class PrefixEpochs(TrainerCallback):
    """Tells a collator the epoch, so that each visit of a sentence cuts it anew.

    Args:
        collator: of the trainer that this is a callback of. Its workers, if any, must not persist.
    """

    def __init__(self, collator: P2FCollator):
        self._collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count."""
        self._collator.epoch = int(state.epoch)


def examples_of(pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Pairs with their indices, as :class:`P2FCollator` takes them."""
    return [
        {"index": index, "source": source, "target": target}
        for index, (source, target) in enumerate(pairs)
    ]


def token_batches(
    examples: Sequence[Mapping[str, Any]], lengths: Sequence[int], tokens: int, seed: int
) -> list[list[Mapping[str, Any]]]:
    """Batches of like lengths that hold up to `tokens` target tokens, padding included.

    Args:
        examples: of :func:`examples_of`, at least one.
        lengths: target tokens of each.
        tokens: of a batch; a longer example has a batch to itself.
        seed: which sentences meet.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    pool = max(1, 100 * tokens * len(lengths) // sum(lengths))
    batches: list[list[Mapping[str, Any]]] = []
    for start in range(0, len(order), pool):
        batch: list[Mapping[str, Any]] = []
        for at in sorted(order[start : start + pool], key=lambda i: lengths[i]):
            if batch and (len(batch) + 1) * lengths[at] > tokens:
                batches.append(batch)
                batch = []
            batch.append(examples[at])
        batches.append(batch)
    return batches


def _pairs(example: Any) -> list[Mapping[str, Any]]:
    if isinstance(example, Mapping):
        return [example]
    if len(example) == 2 and all(isinstance(side, str) for side in example):
        return [{"source": example[0], "target": example[1]}]
    return [pair for inner in example for pair in _pairs(inner)]


def _filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)
