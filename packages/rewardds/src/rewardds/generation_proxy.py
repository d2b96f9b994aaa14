"""What the generator learns of a record: to answer its question, and to ask it.

All tasks stand in one row, so a record has one loss, their mean, and one clipped gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lipogram.errors import InvalidSetting
from rewardds.privacy_units import Unit
from rewardds.prompts import Prompts, sequence
from rewardds.records import Record
from rewardds.rows import Row

TASKS = ("answer", "question")
POSED = "posed"
SEEDS_SHOWN = 2


@dataclass(frozen=True)
class Rows:
    """Rows to train on, and what to tell the client, and nobody else, of them.

    Attributes:
        rows: one a privacy unit, in their order.
        cut: sequences that were longer than the limit.
        unscored: rows in which nothing is learned. They stay in: a set without them would have
            another size.
    """

    rows: list[Row] = field(repr=False)
    cut: int
    unscored: int


def generation_rows(
    units: Sequence[Unit],
    tokenizer: Any,
    prompts: Prompts,
    *,
    max_length: int,
    tasks: Sequence[str] = TASKS,
    seeds: Sequence[str] = (),
) -> Rows:
    """One row a unit: of each of its records, a sequence a task.

    What is made of a record depends on that record alone, the seeds shown with it too.

    Args:
        units: of private records.
        tokenizer: of the base model.
        prompts: what is asked.
        max_length: of a sequence, in tokens; what is longer loses its end.
        tasks: of "answer", "question" and "posed", at least one; the last is to write a question to
            a given answer, for answers that are a public set.
        seeds: public questions; with each record two that its text picks are shown as examples
            where it is to be asked.

    Raises:
        InvalidSetting: an unknown task, none, or one twice; a limit below 2.
    """
    check_tasks(tasks)
    if max_length < 2:
        raise InvalidSetting(f"max_length is {max_length}: two tokens at least")
    rows, cut, unscored = [], 0, 0
    for unit in units:
        sequences = []
        for record in unit.records:
            for task in tasks:
                if task == "answer":
                    turns = prompts.answer_turns(record.instruction, record.response)
                else:
                    answer = record.response if task == POSED else None
                    shown = _shown(record, seeds)
                    turns = prompts.question_turns(record.instruction, shown, answer)
                found, lost = sequence(tokenizer, turns, max_length)
                sequences.append(found)
                cut += lost > 0
        rows.append(Row(unit.id, sequences))
        unscored += not any(any(one.scored[1:]) for one in sequences)
    return Rows(rows, cut, unscored)


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises InvalidSetting unless there are some known tasks, each once."""
    known = (*TASKS, POSED)
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(known):
        raise InvalidSetting(f"the tasks are {list(tasks)}: some of {', '.join(known)}, each once")


def record_number(record: Record, purpose: str) -> int:
    """64 bits that the record's text alone decides, where something about it has to vary.

    A draw from one generator for all records, or by a record's place among them, would change with
    the records before it: leaving one out would change what is trained of the others.
    """
    told = "\0".join((purpose, record.instruction, record.response)).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")


def _shown(record: Record, seeds: Sequence[str]) -> list[str]:
    start = record_number(record, "seeds") % len(seeds) if seeds else 0
    return [seeds[(start + i) % len(seeds)] for i in range(min(SEEDS_SHOWN, len(seeds)))]
