"""Preference pairs: a record's own answer before the weak ones, and some of these before others.

All pairs of a record, or of a person's records, stand in one row: their mean is one loss with one
clipped gradient. Clipped pair by pair, a record with five of them would have five times the
influence that the noise was chosen for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lipogram.errors import InvalidSetting
from rewardds.generation_proxy import Rows
from rewardds.privacy_units import Unit
from rewardds.prompts import Prompts, sequence
from rewardds.rows import Row
from rewardds.rows import Sequence as TokenSequence

_LEVELS = {"own": 2, "dp": 1, "sft": 1, "dp_early": 0, "init": 0, "fewshot": 0}
_BELOW_OWN_ONLY = ("corrupt", "offtopic", "offquestion")


def better(source: str, other: str) -> bool:
    """Whether answers of `source` are taken to be better than those of `other`.

    The record's own is better than any other, one of a tuned proxy than one of its base. With the
    sources init, dp and sft these are the paper's five pairs; without sft three of them are left.
    A spoilt or foreign answer, or the own one to a foreign question, is worse than the record's own
    to its question, and not compared with the rest.
    """
    if other in _BELOW_OWN_ONLY:
        return source == "own"
    return source not in _BELOW_OWN_ONLY and _LEVELS[source] > _LEVELS[other]


def preference_rows(
    units: Sequence[Unit],
    answers: Mapping[str, Mapping[str, str]],
    tokenizer: Any,
    prompts: Prompts,
    *,
    max_length: int,
) -> Rows:
    """One row a unit, with the sequences to be judged and the pairs among them.

    What the sequences of a record begin with, its question, is read once. An answer that equals a
    better one word for word makes no pair with it. A row without pairs stays in, as one that
    teaches nothing.

    Args:
        units: of private records.
        answers: by source, then by the record's id; the own answer is not among them. Of
            "offquestion" they are questions.
        tokenizer: of the base model.
        prompts: what is asked of the judge.
        max_length: of a sequence, in tokens; what is longer loses its end.

    Raises:
        InvalidSetting: an unknown source.
    """
    unknown = [name for name in answers if name not in _LEVELS and name not in _BELOW_OWN_ONLY]
    if unknown or "own" in answers:
        raise InvalidSetting(f"no weak source is called {(unknown or ['own'])[0]!r}")
    rows, cut, unscored = [], 0, 0
    for unit in units:
        sequences: list[TokenSequence] = []
        pairs: list[tuple[int, int]] = []
        beginnings: list[int] = []
        for number, record in enumerate(unit.records):
            asked, own = record.instruction, record.response
            texts = {"own": (asked, own)}
            for source, told in answers.items():
                other = told[record.id]
                texts[source] = (other, own) if source == "offquestion" else (asked, other)
            places: dict[tuple[str, str], int] = {}  # what two sources give is read once
            for text in texts.values():
                if text not in places:
                    places[text] = len(sequences)
                    found, lost = sequence(tokenizer, prompts.judged_turns(*text), max_length)
                    sequences.append(found)
                    beginnings.append(number)
                    cut += lost > 0
            pairs += [
                (places[texts[a]], places[texts[b]])
                for a in texts
                for b in texts
                if better(a, b) and texts[a] != texts[b]
            ]
        rows.append(Row(unit.id, sequences, pairs, beginnings))
        unscored += not pairs
    return Rows(rows, cut, unscored)
