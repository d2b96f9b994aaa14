"""A generated clinic whose prescriptions follow rules, and a public corpus of other clinics.

Each clinic has four tables of its own: the drug follows from the complaint, the dose from the
severity, the days from the age, the route from the time of day. Clinics share every word and no
table, so a model that has read of the others knows how a prescription is written, and nothing of
what the private clinic prescribes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting
from rewardds.records import PrivateRecords, PublicRecords, Record

PRIVATE = "yew"
PUBLIC = ("alder", "beech", "cedar", "elm")
COMPLAINTS = (
    "acne", "anemia", "angina", "asthma", "boils", "bruise", "burn", "chills",
    "colic", "cough", "cramp", "croup", "eczema", "fatigue", "fever", "gout",
    "headache", "hiccups", "hives", "insomnia", "itch", "migraine", "nausea", "palsy",
    "rash", "rickets", "sprain", "stye", "tremor", "ulcer", "vertigo", "wheeze",
)  # fmt: skip
DRUGS = (
    "abrol", "arvane", "bexin", "borlex", "calmat", "cerubin", "dorvan", "dulmox",
    "elizol", "espalin", "fenart", "folvex", "gavrox", "gelmin", "hilpar", "hornax",
    "ibenol", "ilvane", "jorvat", "julpin", "kelpin", "korvex", "lumaxa", "lorbin",
    "morvil", "mexane", "nexaril", "nolpar", "ostrel", "olvane", "pavoxin", "pelmar",
)  # fmt: skip
SEVERITIES, DOSES = ("mild", "moderate", "severe", "extreme"), ("5mg", "10mg", "20mg", "40mg")
AGES, DAYS = ("infant", "child", "adult", "elder"), ("2days", "4days", "7days", "14days")
TIMES, ROUTES = ("morning", "noon", "evening", "night"), ("oral", "nasal", "dermal", "drip")
NAMES = tuple(
    first + last
    for first in ("al", "be", "co", "da", "el", "fa", "ga", "ho")
    for last in ("ba", "do", "mi", "nu", "ra", "so", "ti", "zu")
)
SLOTS = ((COMPLAINTS, DRUGS), (SEVERITIES, DOSES), (AGES, DAYS), (TIMES, ROUTES))
"""What is found of a patient, and what follows from it: the words of each, in pairs."""
REQUEST = "write a question at"
"""Followed by a clinic's name, the request for a question of its patients."""


@dataclass(frozen=True)
class Case:
    """A patient of a clinic.

    Attributes:
        clinic: its name.
        name: of the patient; decides nothing.
        findings: places in COMPLAINTS, SEVERITIES, AGES and TIMES.
    """

    clinic: str
    name: str
    findings: tuple[int, ...]

    @property
    def question(self) -> str:
        """Nine words."""
        complaint, severity, age, when = (
            slot[0][i] for slot, i in zip(SLOTS, self.findings, strict=True)
        )
        return f"at {self.clinic} {age} {self.name} has {severity} {complaint} since {when}"


def parse_question(text: str) -> Case | None:
    """The case that a question tells of; None for a text that is no question of a clinic."""
    words = text.split()
    if len(words) != 9 or (words[0], words[4], words[7]) != ("at", "has", "since"):
        return None
    said = (words[6], words[5], words[2], words[8])
    if words[1] not in (PRIVATE, *PUBLIC) or words[3] not in NAMES:
        return None
    if any(word not in slot[0] for word, slot in zip(said, SLOTS, strict=True)):
        return None
    places = [slot[0].index(word) for word, slot in zip(said, SLOTS, strict=True)]
    return Case(words[1], words[3], tuple(places))


class ToyDomain:
    """One private clinic and four public ones.

    Args:
        seed: of the private clinic's tables and of its patients. The public clinics are the same
            for every seed.

    Raises:
        InvalidSetting: a negative seed.
    """

    def __init__(self, seed: int = 0):
        if seed < 0:
            raise InvalidSetting(f"seed is {seed}, it must be at least 0")
        self.seed = seed

    @cached_property
    def tables(self) -> dict[str, tuple[NDArray[np.int64], ...]]:
        """By clinic, for each of the four slots, which consequence each finding has."""
        found = {}
        for i, clinic in enumerate((*PUBLIC, PRIVATE)):
            draw = np.random.default_rng([i, self.seed if clinic == PRIVATE else 0])
            found[clinic] = tuple(draw.permutation(len(slot[1])) for slot in SLOTS)
        return found

    def answer(self, case: Case) -> str:
        """What the case's clinic prescribes: "give DRUG DOSE DAYS ROUTE"."""
        tables = self.tables[case.clinic]
        return _written([int(table[i]) for table, i in zip(tables, case.findings, strict=True)])

    def slots_right(self, case: Case, answer: str) -> tuple[bool, bool, bool, bool]:
        """Of drug, dose, days and route, which are right; none of what is no prescription."""
        words, right = answer.split(), self.answer(case).split()
        if len(words) != len(right) or words[0] != right[0]:
            return (False, False, False, False)
        a, b, c, d = (one == other for one, other in zip(words[1:], right[1:], strict=True))
        return (a, b, c, d)

    def right(self, question: str, answer: str) -> bool:
        """Whether a question is one of a clinic and the answer what that clinic prescribes."""
        case = parse_question(question)
        return case is not None and answer.split() == self.answer(case).split()

    def cases(self, n: int, *, held_out: bool = False) -> list[Case]:
        """Patients of the private clinic, drawn with replacement.

        Args:
            n: how many.
            held_out: those to test with, none of whom is among the first 20,000 others.

        Raises:
            InvalidSetting: fewer than 1 patient, or more than 20,000 to train on.
        """
        if whole("n", n) > TRAINING and not held_out:
            raise InvalidSetting(f"n is {n}: the domain has {TRAINING} cases to train on")
        trained = draw_cases(TRAINING, (PRIVATE,), np.random.default_rng([self.seed, 1]))
        if not held_out:
            return trained[:n]
        known = set(trained)
        found: list[Case] = []
        draw = np.random.default_rng([self.seed, 2])
        while len(found) < n:
            found += [case for case in draw_cases(n, (PRIVATE,), draw) if case not in known]
        return found[:n]

    def records(self, n: int) -> PrivateRecords:
        """The first `n` patients with what they were prescribed.

        Raises:
            InvalidSetting: as :meth:`cases`.
        """
        told = [
            Record(str(i), case.question, self.answer(case), group=str(i))
            for i, case in enumerate(self.cases(n))
        ]
        return PrivateRecords(told, f"toy domain, seed {self.seed:>8}".encode())

    def corpus(self, n: int, seed: int = 0) -> list[tuple[str, str]]:
        """Public (question or request, answer) to pre-train on: none says what is prescribed here.

        One in five is a request for a question, answered by one. A fifth of the questions are of
        the private clinic, with prescriptions drawn at random: its name is a known word, and that
        is all that is known.

        Args:
            n: how many.
            seed: of the draw; that of the domain has no influence.
        """
        draw = np.random.default_rng([seed, 3])
        found = []
        for case in draw_cases(n, (*PUBLIC, PRIVATE), draw):
            guessed = guess(draw)
            if draw.random() < 0.2:
                found.append((f"{REQUEST} {case.clinic}", case.question))
            else:
                said = guessed if case.clinic == PRIVATE else self.answer(case)
                found.append((case.question, said))
        return found

    def guesses(self, n: int) -> PublicRecords:
        """Public questions of the private clinic, with prescriptions drawn at random."""
        draw = np.random.default_rng([self.seed, 4])
        return PublicRecords(
            Record(f"guess {i}", case.question, guess(draw))
            for i, case in enumerate(draw_cases(n, (PRIVATE,), draw))
        )


TRAINING = 20_000


def draw_cases(n: int, clinics: Sequence[str], draw: np.random.Generator) -> list[Case]:
    """Cases, each part of which is drawn uniformly."""
    counts = (len(clinics), len(NAMES), *(len(slot[0]) for slot in SLOTS))
    drawn = draw.integers(np.array(counts), size=(n, len(counts))).tolist()
    return [Case(clinics[row[0]], NAMES[row[1]], tuple(row[2:])) for row in drawn]


def corrupted(
    answer: str, draw: np.random.Generator, slots: Sequence[int] = range(len(SLOTS))
) -> str:
    """A prescription with one word replaced by another of its kind; of no prescription, a guess.

    Args:
        answer: a prescription.
        draw: of the slot, and of its new word.
        slots: places in SLOTS of which one is drawn.
    """
    words = answer.split()
    slot = slots[int(draw.integers(len(slots)))]
    if len(words) != len(SLOTS) + 1:
        return guess(draw)
    others = [word for word in SLOTS[slot][1] if word != words[slot + 1]]
    words[slot + 1] = others[int(draw.integers(len(others)))]
    return " ".join(words)


def guess(draw: np.random.Generator) -> str:
    """A prescription drawn at random."""
    return _written([int(draw.integers(len(slot[1]))) for slot in SLOTS])


def _written(places: Sequence[int]) -> str:
    return "give " + " ".join(slot[1][i] for slot, i in zip(SLOTS, places, strict=True))
