"""Answers that are worse than a record's own: what the reward proxy learns to tell from it.

Each is a function of the record itself, of public data and of proxies that are accounted for. An
answer of a model that was fine-tuned without noise is none of this: it depends on all records, so
one record more or less would change what the reward is trained on everywhere, and no clipping
bounds that.

A batch of prompts is padded to its longest, and kernels round differently for other lengths: with
a batch size of 1 an answer is the record's own function to the last bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.files import write_atomically
from lipogram.llm.generation import generate
from lipogram.llm.text import context_length
from rewardds.errors import UnsafeSetting
from rewardds.generation_proxy import record_number
from rewardds.prompts import Prompts, prompt_text
from rewardds.records import PublicRecords, Record

SOURCES = ("init", "fewshot", "dp", "dp_early", "corrupt", "offtopic", "offquestion", "sft")
"""init: the base model. fewshot: it, after public examples. dp: the generator. dp_early: the
generator with its adapter at half strength, on the way from the base to it. corrupt: the record's
own answer, spoilt. offtopic: a public answer, another than the record's own. offquestion: the
record's own answer, to a public question. sft: a fine-tune without noise, no privacy."""

_WRITTEN = ("init", "fewshot", "dp", "dp_early", "sft")
_EXAMPLES = 2
CHUNK = 64


def check_sources(
    sources: Sequence[str], *, examples: PublicRecords | None, allow_nonprivate: bool
) -> None:
    """Refuse what would not work, or would not be private.

    Args:
        sources: of weak answers.
        examples: public records with answers.
        allow_nonprivate: whether "sft" is asked for knowingly; the report then says ε = ∞.

    Raises:
        InvalidSetting: an unknown source, none, one twice, or one without the examples it needs.
        UnsafeSetting: "sft" without the flag.
    """
    unknown = [source for source in sources if source not in SOURCES]
    if unknown or not sources or len(set(sources)) < len(sources):
        raise InvalidSetting(
            f"the weak sources are {list(sources)}: some of {', '.join(SOURCES)}, each once"
        )
    if "sft" in sources and not allow_nonprivate:
        raise UnsafeSetting(
            "the weak source 'sft' is a fine-tune without noise, which depends on every record: "
            "leave it out, or, to reproduce the paper, allow_nonprivate_weak_source=True, and the "
            "report says that epsilon is infinite"
        )
    lacking = [source for source in ("fewshot", "offtopic") if source in sources]
    if lacking and not (examples and any(record.response for record in examples)):
        raise InvalidSetting(
            f"the weak source {lacking[0]!r} needs public records with answers: pass them as "
            "public_seeds, or leave it out"
        )
    asked = {record.instruction for record in examples or ()} - {""}
    if "offquestion" in sources and len(asked) < 2:
        raise InvalidSetting(
            "the weak source 'offquestion' needs public records with two questions or more: pass "
            "them as public_seeds, or leave it out"
        )


class WeakAnswers:
    """Makes weak answers, chunk by chunk; what is on disk is not made again.

    Args:
        tokenizer: of the models.
        prompts: as the generator was trained with.
        examples: public records, for "fewshot", "offtopic" and "offquestion".
        max_new_tokens: of an answer.
        batch_size: prompts at a time.
        folder: where chunks are kept, for the client's eyes alone; None for nowhere.

    Attributes:
        cut: prompts that were too long for the model's context and lost their beginning.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Prompts,
        *,
        examples: PublicRecords | None = None,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        folder: Path | None = None,
    ):
        self.tokenizer, self.prompts = tokenizer, prompts
        self.examples = [record for record in examples or () if record.response]
        self.questions = sorted({record.instruction for record in examples or ()} - {""})
        self.max_new_tokens, self.batch_size, self.folder = max_new_tokens, batch_size, folder
        self.cut = 0

    def of(self, records: Sequence[Record], source: str, model: Any = None) -> dict[str, str]:
        """One answer a record, greedy where a model writes it, by the record's id.

        Of "offquestion" it is a question instead: the answer is the record's own.

        Args:
            records: at least one.
            source: of :data:`SOURCES`.
            model: that writes: the base for "init" and "fewshot", the generator for "dp" and
                "dp_early", the fine-tune for "sft"; the others need none.

        Raises:
            CorruptState: a chunk on disk that is none.
            InvalidSetting: a source without its model; and with NotFinite and OverBudget as
                :func:`lipogram.llm.generate`.
        """
        texts = self._texts(records, source, model)
        return {record.id: text for record, text in zip(records, texts, strict=True)}

    def _texts(self, records: Sequence[Record], source: str, model: Any) -> list[str]:
        if source in _WRITTEN and model is None:
            raise InvalidSetting(f"the weak source {source!r} needs the model that writes it")
        if source not in _WRITTEN:
            made = {"corrupt": corrupted, "offtopic": self._offtopic}
            return [made.get(source, self._offquestion)(record) for record in records]
        found: list[str] = []
        for start in range(0, len(records), CHUNK):
            chunk = records[start : start + CHUNK]
            path = self.folder and self.folder / f"{source}-{start:07d}.json"
            if path and path.exists():
                found += _read(path, len(chunk))
                continue
            answers = self._written(chunk, source, model)
            if path:
                _write(path, answers)
            found += answers
        return found

    def _written(self, records: Sequence[Record], source: str, model: Any) -> list[str]:
        asked = [self._prompt(record, source, context_length(model)) for record in records]
        with adapter_at(model, 0.5 if source == "dp_early" else 1.0):
            answers = generate(
                model,
                self.tokenizer,
                asked,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
            )
        return [answer.text.strip() for answer in answers]

    def _prompt(self, record: Record, source: str, longest: int | None) -> list[int]:
        shown = []
        if source == "fewshot":
            start = record_number(record, "examples")
            shown = [
                self.examples[(start + i) % len(self.examples)]
                for i in range(min(_EXAMPLES, len(self.examples)))
            ]
        turns = self.prompts.answer_turns(
            record.instruction, examples=[(one.instruction, one.response) for one in shown]
        )
        ids: list[int] = self.tokenizer(
            prompt_text(self.tokenizer, turns), add_special_tokens=False, verbose=False
        )["input_ids"]
        room = len(ids) if longest is None else longest - self.max_new_tokens
        if room < 1:
            raise InvalidSetting(
                f"max_new_tokens is {self.max_new_tokens}, the model's context {longest}: no room "
                "is left for a question"
            )
        self.cut += len(ids) > room
        return ids[-room:]

    def _offtopic(self, record: Record) -> str:
        others = [one.response for one in self.examples if one.response != record.response]
        answers = others or [record.response]  # then there is no pair
        return answers[record_number(record, "offtopic") % len(answers)]

    def _offquestion(self, record: Record) -> str:
        others = [question for question in self.questions if question != record.instruction]
        return others[record_number(record, "offquestion") % len(others)]


def corrupted(record: Record) -> str:
    """The record's answer, spoilt in a way that its own text picks; "" stays "".

    Words are cut off, left out, shuffled or said twice, or digits changed. An answer that this
    leaves as it was, of one word, loses letters.
    """
    text = record.response
    drawn = np.random.default_rng(record_number(record, "corrupt"))
    words = text.split()
    kind = drawn.integers(5)
    if kind == 0 and any(c.isdigit() for c in text):
        shifts = drawn.integers(1, 10, len(text))
        spoilt = "".join(
            str((int(c) + int(k)) % 10) if c in "0123456789" else c
            for c, k in zip(text, shifts, strict=True)
        )
    elif kind <= 1:
        spoilt = " ".join(words[: int(len(words) * drawn.uniform(0.3, 0.7))])
    elif kind == 2:
        spoilt = " ".join(words[i] for i in drawn.permutation(len(words)))
    elif kind == 3:
        spoilt = " ".join(word for word in words if drawn.random() > 0.4)
    else:
        middle = len(words) // 2
        spoilt = " ".join([*words[:middle], *words[:middle]])
    if spoilt and spoilt.split() != words:
        return spoilt
    return text[: len(text) // 2].strip() if len(text) > 1 else ""


@contextmanager
def adapter_at(model: Any, strength: float) -> Iterator[None]:
    """Inside the `with`, a LoRA adapter adds `strength` times what it adds otherwise.

    Raises:
        InvalidSetting: a model without one, and another strength than 1.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers and strength != 1:
        raise InvalidSetting(
            "the generator has no adapter that could be at half strength: leave out the weak "
            "source 'dp_early', or train an adapter"
        )
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            for name in layer.scaling:
                layer.scaling[name] *= strength
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def _read(path: Path, n: int) -> list[str]:
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptState(f"{path} cannot be read: remove it, and it is made again") from error
    if not isinstance(held, list) or len(held) != n or not all(isinstance(t, str) for t in held):
        raise CorruptState(f"{path} does not hold {n} answers: remove it, and it is made again")
    return held


def _write(path: Path, answers: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(answers).encode())
    os.chmod(path, 0o600)
