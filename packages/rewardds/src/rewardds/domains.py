"""The paper's three domains, from the files that its authors publish.

Medical and financial questions with answers, and programming tasks with assertions. The files
carry no licence and the medical ones hold what patients wrote: they are read where you have them,
nothing of them is shipped, and the records are private. Nothing here runs the assertions.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lipogram.errors import InvalidSetting, MissingAsset
from rewardds.data_key import data_key
from rewardds.errors import InvalidRecords
from rewardds.held_out import overlapping
from rewardds.prompts import Prompts
from rewardds.record_files import raw_rows
from rewardds.records import PrivateRecord, PrivateRecords

DomainName = Literal["medical", "financial", "code"]


@dataclass(frozen=True)
class _Domain:
    folder: str
    subject: str
    question: str
    answer: str = "output"


_DOMAINS: Mapping[str, _Domain] = {
    "medical": _Domain("Medical_QA", "medicine", "input"),
    "financial": _Domain("Financial_QA", "finance", "input"),
    "code": _Domain("Code_Generation", "programming in Python", "instruction"),
}


@dataclass(frozen=True, repr=False)
class DomainData:
    """A domain's records. Its representation says how many.

    Attributes:
        name: of the domain.
        train: to learn from.
        test: held out.
        overlap: ids of test records whose question has the words of a training question: scores
            are reported with and without them.
        asserts: of each test record of the code domain, lines of Python that its answer must pass;
            empty in the others.
        dev: what the authors choose by; None where the file is not there. Whatever is chosen by it
            has a privacy cost of its own.
    """

    name: DomainName
    train: PrivateRecords
    test: PrivateRecords
    overlap: frozenset[str]
    asserts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dev: PrivateRecords | None = None

    @property
    def prompts(self) -> Prompts:
        """Public prompts that name the domain and nothing else."""
        return Prompts.of_domain(_DOMAINS[self.name].subject)

    def __repr__(self) -> str:
        return (
            f"DomainData({self.name!r}, train={self.train.n}, test={self.test.n}, "
            f"overlap={len(self.overlap)})"
        )


def read_domain(name: DomainName, folder: str | Path, *, key: bytes | None = None) -> DomainData:
    """Read a domain.

    The question of the medical and financial domain is the column "input": "instruction" is the
    same few sentences throughout. In the code domain it is "instruction", and says the name that
    the function must have.

    Args:
        name: of the domain.
        folder: with train.json, test.json and perhaps dev.json, one object a line, as published;
            or with the authors' folders that hold them. Names that begin with the domain, as in
            medical_qa_train.jsonl, do as well.
        key: of the fingerprints, as for :func:`rewardds.records.read_records`.

    Raises:
        InvalidSetting: another domain.
        MissingAsset: no such file.
        InvalidRecords: a line that cannot be read; the message says which.
    """
    if name not in _DOMAINS:
        raise InvalidSetting(f"there is no domain {name!r}: {', '.join(_DOMAINS)}")
    domain, where = _DOMAINS[name], Path(folder).expanduser()
    key = data_key() if key is None else key
    halves: dict[str, PrivateRecords] = {}
    questions: dict[str, dict[str, str]] = {}
    asserts: dict[str, tuple[str, ...]] = {}
    for half in ("train", "test", "dev"):
        path = _file(where, domain.folder, half)
        if path is None and half == "dev":
            continue
        if path is None:
            raise MissingAsset(
                f"{where} has no {half}.json of the {name} domain: name the folder that "
                f"{domain.folder} lies in, or that itself"
            )
        records, questions[half] = [], {}
        for number, (line, row) in enumerate(_rows(path)):
            record = _record(f"{name}-{half}-{number}", row, line, name, domain)
            questions[half][record.id] = row[domain.question]
            if name == "code" and half == "test":
                asserts[record.id] = _asserts(row, line)
            records.append(record)
        halves[half] = PrivateRecords(records, key)
    overlap = overlapping(questions["train"].values(), questions["test"])
    return DomainData(name, halves["train"], halves["test"], overlap, asserts, halves.get("dev"))


def _file(where: Path, folder: str, half: str) -> Path | None:
    for place in (where / folder, where):
        for name in (half, f"{folder.lower()}_{half}"):
            for suffix in (".json", ".jsonl"):
                if (path := place / f"{name}{suffix}").is_file():
                    return path
    return None


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The published files are called .json and hold one object a line."""
    if path.suffix == ".json":
        text = path.read_bytes().lstrip()
        if text.startswith(b"{"):
            return _lines(text, path.name)
    return list(raw_rows(path))


def _lines(text: bytes, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidRecords(f"{where}: not JSON in UTF-8") from None
        if not isinstance(value, dict):
            raise InvalidRecords(f"{where}: a {type(value).__name__}, where an object is needed")
        found.append((where, value))
    return found


def _record(
    id_: str, row: Mapping[str, Any], where: str, name: str, domain: _Domain
) -> PrivateRecord:
    question, answer = (_text(row, column, where) for column in (domain.question, domain.answer))
    if name == "code" and row.get("entry_point"):
        called = _text(row, "entry_point", where)
        question += f"\nThe function must be called {called}."
    return PrivateRecord(id_, question, answer)


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRecords(f"{where}: the column {column!r} is missing, empty or no text")
    return value


def _asserts(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """A list, or a text that spells one, as published."""
    value = row.get("testcase")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise InvalidRecords(f"{where}: the column 'testcase' is no list of lines of Python")
    return tuple(value)
