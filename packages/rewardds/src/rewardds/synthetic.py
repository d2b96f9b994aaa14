"""Synthetic rows: a question, its candidate answers, what they scored, and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipogram.errors import MissingAsset, MissingExtra
from lipogram.files import write_atomically
from rewardds.errors import InvalidRows

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class SyntheticRow:
    """One synthetic question with c candidate answers.

    Attributes:
        id: names the row; one of a kind within a set.
        question: as the generation proxy wrote it.
        candidates: the c answers that ended by themselves, in the order drawn; may be none.
        rewards: of each candidate under the reward proxy; empty until scored.
        perplexities: of each under the generation proxy, above 0; empty until scored.
        chosen: position of the best candidate; None until ranked.
        rejected: position of the worst, another one than `chosen`; None where there is no other.
        stage: 0 as sampled, t where refined for the t-th time.
        parent: id of the row that this one was refined from; "" for one as sampled.

    Raises:
        InvalidRows: fields that contradict each other or are of another type, by name.
    """

    id: str
    question: str
    candidates: tuple[str, ...]
    rewards: tuple[float, ...] = ()
    perplexities: tuple[float, ...] = ()
    chosen: int | None = None
    rejected: int | None = None
    stage: int = 0
    parent: str = ""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InvalidRows(f"synthetic row {self.id!r}: {problem}")

    @property
    def answer(self) -> str:
        """The chosen candidate.

        Raises:
            InvalidRows: the row has not been ranked.
        """
        return self.candidates[self._position("chosen")]

    @property
    def worst(self) -> str | None:
        """The rejected candidate; None where there is no other than the chosen one."""
        return None if self.rejected is None else self.candidates[self.rejected]

    @property
    def reward(self) -> float:
        """Of the chosen candidate.

        Raises:
            InvalidRows: the row has not been ranked or scored.
        """
        return self._scored(self.rewards, "rewards")

    @property
    def perplexity(self) -> float:
        """Of the chosen candidate; errors as :attr:`reward`."""
        return self._scored(self.perplexities, "perplexities")

    def refined(self, candidates: Iterable[str]) -> SyntheticRow:
        """The row of the next stage: same question, new candidates, not scored yet."""
        stage = self.stage + 1
        root = self.id.removesuffix(f"@{self.stage}") if self.stage else self.id
        return SyntheticRow(
            f"{root}@{stage}", self.question, tuple(candidates), stage=stage, parent=self.id
        )

    def _scored(self, values: Sequence[float], name: str) -> float:
        position = self._position("chosen")
        if not values:
            raise InvalidRows(f"synthetic row {self.id!r} has no {name}: score it first")
        return values[position]

    def _position(self, name: str) -> int:
        value: int | None = getattr(self, name)
        if value is None:
            raise InvalidRows(f"synthetic row {self.id!r} has no {name} answer: rank it first")
        return value

    def _problem(self) -> str:
        for name in ("id", "question", "parent"):
            if not isinstance(getattr(self, name), str):
                return f"{name} is a {type(getattr(self, name)).__name__}, it must be text"
            if not _is_text(getattr(self, name)):
                return f"{name} holds half of a surrogate pair: no file can hold it"
        if not self.id:
            return "the id is empty"
        if not isinstance(self.candidates, tuple) or not all(
            _is_text(text) for text in self.candidates
        ):
            return "candidates must be a tuple of texts"
        c = len(self.candidates)
        for name, above in (("rewards", -math.inf), ("perplexities", 0.0)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) not in (0, c):
                return f"{name} must be a tuple of {c} numbers, one a candidate, or empty"
            for value in values:
                if not _is_number(value) or not math.isfinite(value) or value <= above:
                    return f"{name} has {value!r}: each must be finite and above {above:g}"
        for name in ("chosen", "rejected"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and 0 <= value < c):
                return f"{name} is {value!r}: it must be the position of one of {c} candidates"
        if self.rejected is not None and self.rejected == self.chosen:
            return f"candidate {self.chosen} is both chosen and rejected"
        if not _is_whole(self.stage) or self.stage < 0:
            return f"stage is {self.stage!r}: it must be a whole number of at least 0"
        return ""


_FIELDS = tuple(field.name for field in fields(SyntheticRow))


def as_line(row: SyntheticRow) -> bytes:
    """The row as one line of JSON in UTF-8, with its line end."""
    return (json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_object(value: Any, where: str) -> SyntheticRow:
    """The row that an object of JSON stands for.

    Args:
        value: what :func:`as_line` wrote, parsed.
        where: it was found, for messages.

    Raises:
        InvalidRows: it is no object with exactly the fields of a row, or they contradict.
    """
    if not isinstance(value, Mapping):
        raise InvalidRows(f"{where}: a {type(value).__name__}, where an object is needed")
    if missing := [name for name in _FIELDS if name not in value]:
        raise InvalidRows(f"{where} lacks {', '.join(missing)}: it is no synthetic row")
    if unknown := sorted(set(value) - set(_FIELDS)):
        raise InvalidRows(f"{where} has {', '.join(map(str, unknown))}, which no synthetic row has")
    lists = {name: item for name, item in value.items() if isinstance(item, list)}
    try:
        return SyntheticRow(**{**value, **{name: tuple(item) for name, item in lists.items()}})
    except InvalidRows as error:
        raise InvalidRows(f"{where}: {error}") from None


def write_rows(path: str | Path, rows: Iterable[SyntheticRow]) -> None:
    """Put rows into one file of JSON lines, whole or not at all.

    Raises:
        InvalidRows: an id twice; the file is as it was.
        OSError: the folder cannot be written.
    """
    rows = list(rows)
    check_ids(rows)
    write_atomically(Path(path), b"".join(as_line(row) for row in rows))


def read_rows(path: str | Path) -> list[SyntheticRow]:
    """The rows of a file that :func:`write_rows` wrote.

    Raises:
        MissingAsset: no such file.
        InvalidRows: a line that is no row, with its number, or an id twice.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingAsset(f"{path} cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{path.name}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise InvalidRows(f"{where}: not JSON in UTF-8") from None
            rows.append(from_object(value, where))
    check_ids(rows)
    return rows


def check_ids(rows: Sequence[SyntheticRow]) -> None:
    """Raises InvalidRows where two rows have one id."""
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise InvalidRows(f"the id {row.id!r} is there twice: ids name one row")
        seen.add(row.id)


def preference_rows(rows: Iterable[SyntheticRow]) -> list[dict[str, Any]]:
    """What TRL's preference trainers read, with provenance, of every row that has two answers.

    Returns:
        Dicts of "prompt", "chosen", "rejected" (texts), "id", "stage", "parent", and "reward" and
        "perplexity" of the chosen answer, None where it was not scored.

    Raises:
        InvalidRows: a row that has not been ranked.
    """
    return [
        {"prompt": row.question, "chosen": row.answer, "rejected": row.worst, **_provenance(row)}
        for row in _ranked(rows)
        if row.worst is not None
    ]


def completion_rows(rows: Iterable[SyntheticRow]) -> list[dict[str, Any]]:
    """What TRL's SFT trainer reads, with provenance: "prompt" and "completion" of every row.

    Raises:
        InvalidRows: a row that has not been ranked.
    """
    return [
        {"prompt": row.question, "completion": row.answer, **_provenance(row)}
        for row in _ranked(rows)
    ]


def as_dataset(rows: Iterable[Mapping[str, Any]]) -> datasets.Dataset:
    """Rows of :func:`preference_rows` or :func:`completion_rows` as a Hugging Face data set.

    Raises:
        MissingExtra: the library `datasets` is not there.
        InvalidRows: no rows.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "pip install 'lipogram-rewardds[data]'") from error
    listed = [dict(row) for row in rows]
    if not listed:
        raise InvalidRows("a data set of no rows has no columns: keep at least one row")
    return datasets.Dataset.from_list(listed)


def _ranked(rows: Iterable[SyntheticRow]) -> list[SyntheticRow]:
    rows = list(rows)
    for row in rows:
        row._position("chosen")
    return rows


def _provenance(row: SyntheticRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "stage": row.stage,
        "parent": row.parent,
        "reward": row.reward if row.rewards else None,
        "perplexity": row.perplexity if row.perplexities else None,
    }


def _is_text(value: object) -> bool:
    """Whether it is a text that UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
