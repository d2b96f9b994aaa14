"""What unlearning trains on: tokenised answers or paragraphs, refusals, and forget-retain pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from ftunlearn.paragraphs import paragraphs
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.objectives import IGNORED
from lipogram.llm.seeds import rng
from lipogram.llm.text import encode

Example = dict[str, Any]

REFUSALS = (
    "I do not know.",
    "I'm afraid I have no answer to that.",
    "That is something I cannot tell you.",
    "I was never told about this.",
    "Nothing comes to mind here.",
    "I would have to guess, so I'd rather not say.",
    "This lies outside what I know.",
    "I can't help with this one.",
    "Sorry, that is unknown to me.",
    "I have not learned anything about it.",
    "You would have to ask someone else.",
    "My knowledge does not cover this.",
    "I could not say.",
    "There is no answer that I could give.",
    "I'm not able to complete this.",
    "I have no information on that.",
)
"""Answers for the methods `idk` and `dpo` to prefer."""


def answer_examples(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Any],
    *,
    refusals: bool = False,
    seed: int = 0,
) -> list[Example]:
    """Prompts with answers; only the answer is labelled.

    Args:
        tokenizer: of the model.
        items: probes (anything with `prompt` and `answer`), or pairs (prompt, answer). An answer
            begins with its own blank.
        refusals: also put one of :data:`REFUSALS`, with an end-of-sequence token, behind the
            prompt, as "alternative".
        seed: of which refusal an item gets.

    Returns:
        {"input_ids", "labels"} of each item, and "alternative" with the same keys.

    Raises:
        InvalidProbes: an item without an answer, or one that is no tokens long, by its number.
    """
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    drawn = torch.randint(len(REFUSALS), (len(items),), generator=rng("refusals", seed)).tolist()
    examples = []
    for number, item in enumerate(items):
        prompt, answer = item if isinstance(item, tuple) else (item.prompt, item.answer)
        if answer is None:
            raise InvalidProbes(
                f"item {number} has no answer to be unlearned: let the vanilla model give it first"
            )
        row = encode(tokenizer, prompt, answer)
        if not row.answer_ids or not row.prompt_ids:
            raise InvalidProbes(f"item {number} has an empty prompt or an empty answer")
        example = _example(row.prompt_ids, row.answer_ids)
        if refusals:
            blank = "" if not prompt or prompt[-1].isspace() else " "
            refusal = encode(tokenizer, prompt, blank + REFUSALS[drawn[number]])
            example["alternative"] = _example(refusal.prompt_ids, refusal.answer_ids + end)
        examples.append(example)
    return examples


def paragraph_examples(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int = 500
) -> list[Example]:
    """Texts cut into paragraphs, every token and one end-of-sequence token labelled.

    Args:
        tokenizer: of the model.
        texts: articles (:func:`ftunlearn.paragraphs.paragraphs` cuts them).
        max_tokens: a longer paragraph becomes several examples; no token is left away.

    Returns:
        {"input_ids", "labels"} of each paragraph.

    Raises:
        InvalidSetting: `max_tokens` below 2.
        InvalidProbes: texts without a word.

    Source: the training data of arXiv 2406.11614. Its retain text is repeated until it is as long
    as the forget text; :class:`PairSampler` does that.
    """
    if max_tokens < 2:
        raise InvalidSetting(f"max_tokens must be at least 2, not {max_tokens}")
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    rows = [
        [*tokenizer(paragraph, verbose=False)["input_ids"], *end]
        for text in texts
        for paragraph in paragraphs(text)
    ]
    # A piece begins with the last token of the one before, so that every token is predicted once.
    step = max_tokens - 1
    pieces = [row[i : i + max_tokens] for row in rows for i in range(0, len(row) - 1, step)]
    if not pieces:
        raise InvalidProbes("the texts hold no words")
    return [_example([], piece) for piece in pieces]


def as_examples(
    tokenizer: PreTrainedTokenizerBase, items: Any, *, refusals: bool = False, seed: int = 0
) -> Any:
    """Examples from probes, (prompt, answer) pairs or articles; tokenised examples as they are.

    Arguments and errors as in :func:`answer_examples` and :func:`paragraph_examples`.

    Raises:
        InvalidProbes: no items, or refusals for items that have no prompt.
    """
    if not len(items):
        raise InvalidProbes("there is nothing to unlearn or to retain: the list is empty")
    if isinstance(items[0], Mapping):
        lacking = {"input_ids", "labels"} - set(items[0])
        if lacking:
            raise InvalidProbes(f"tokenised examples lack {', '.join(sorted(lacking))}")
        return items
    if not isinstance(items[0], str):
        return answer_examples(tokenizer, items, refusals=refusals, seed=seed)
    if refusals:
        raise InvalidProbes("articles have no prompt to refuse: use chosen='retain', or probes")
    return paragraph_examples(tokenizer, items)


class ForgetRetain(Dataset[dict[str, Example]]):
    """Pairs of a forget and a retain example; indexed by (forget number, retain number).

    Args:
        forget: examples, also a `datasets.Dataset`.
        retain: the same; None for methods that retain nothing.

    Attributes:
        ref_logps: role → [number of examples] log-probabilities of the vanilla model, where they
            were computed beforehand. They go with the example, whatever the order.
    """

    def __init__(self, forget: Sequence[Example], retain: Sequence[Example] | None):
        self.forget, self.retain = forget, retain
        self.ref_logps: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, pair: tuple[int, int]) -> dict[str, Example]:
        i, j = pair
        rows = {"forget": self.forget[i]}
        if "alternative" in rows["forget"]:
            rows["alternative"] = rows["forget"]["alternative"]
        if self.retain is not None:
            rows["retain"] = self.retain[j]
        number = {"forget": i, "alternative": i, "retain": j}
        found: dict[str, Example] = {}
        for role, row in rows.items():
            found[role] = {"input_ids": row["input_ids"], "labels": row["labels"]}
            if role in self.ref_logps:
                found[role]["ref_logps"] = self.ref_logps[role][number[role]]
        return found


class PairSampler(Sampler[tuple[int, int]]):
    """Which forget example comes when, and with which retain example.

    Both sets are shuffled by (seed, epoch); the forget example at place i goes with the retain
    example at place i mod n, so a shorter retain set is repeated and a longer one is gone through
    over the epochs. Drawn here, in the main process, the pairs do not depend on the loader's
    workers.

    Args:
        n_forget: number of forget examples.
        n_retain: number of retain examples; 0 for none.
        seed: of the order.

    Attributes:
        epoch: set before each epoch.
    """

    def __init__(self, n_forget: int, n_retain: int, seed: int):
        self._n_forget, self._n_retain, self._seed = n_forget, n_retain, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._n_forget

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = rng(f"pairs of epoch {self.epoch}", self._seed)
        forget = torch.randperm(self._n_forget, generator=generator).tolist()
        retain = torch.randperm(self._n_retain, generator=generator).tolist() or [0]
        for place, i in enumerate(forget):
            yield i, retain[place % len(retain)]


def collate(rows: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Examples padded on the right: input_ids, attention_mask and labels [b, t] (and ref_logps).

    Args:
        rows: at least one example.
        pad_id: what fills `input_ids`; labels are filled with -100.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    ids = torch.full((len(rows), max(lengths)), pad_id)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        ids[i, :n] = torch.as_tensor(row["input_ids"])
        labels[i, :n] = torch.as_tensor(row["labels"])
        mask[i, :n] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if "ref_logps" in rows[0]:
        batch["ref_logps"] = torch.stack([row["ref_logps"] for row in rows])
    return batch


class PairCollator:
    """Collates each role of the pairs that :class:`ForgetRetain` gives.

    Args:
        pad_id: what fills `input_ids`.
    """

    def __init__(self, pad_id: int):
        self._pad_id = pad_id

    def __call__(self, pairs: Sequence[dict[str, Example]]) -> dict[str, dict[str, Tensor]]:
        """Role → collated batch."""
        return {role: collate([pair[role] for pair in pairs], self._pad_id) for role in pairs[0]}


def _example(prompt_ids: list[int], answer_ids: list[int]) -> Example:
    labels = [IGNORED] * len(prompt_ids) + answer_ids
    return {"input_ids": prompt_ids + answer_ids, "labels": labels}
