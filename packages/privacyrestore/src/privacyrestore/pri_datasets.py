"""Pri-DDXPlus, Pri-NLICE and Pri-SLJA (PrivacyRestore, arXiv 2406.01394), from the user's files.

The data sets state no licence, so nothing of them comes with this package. A file of questions has
one JSON object a line: `question`, `question_removed`, `private_spans`, `kept_spans`, `options`,
`answer` and `answer_index`; other fields are left alone. A file of spans is one JSON array of
strings: a span's place is its id. Messages name file, line and field and never repeat a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidProbes, InvalidSetting, MissingAsset
from privacyrestore.strict_json import read_object


@dataclass(frozen=True)
class PrivateQuestion:
    """A multiple choice whose question names spans that are not to be sent.

    Attributes:
        question: q, with all spans.
        question_removed: q⁻ as the data set labels it; see :func:`removal_residue`.
        span_ids: what was removed, indices into the vocabulary, each once.
        kept_spans: what was not, as texts; few of them are in the vocabulary.
        options: two or more, all different.
        answer: the right one.
        answer_index: its place among the options.
    """

    question: str
    question_removed: str
    span_ids: tuple[int, ...]
    kept_spans: tuple[str, ...]
    options: tuple[str, ...]
    answer: str
    answer_index: int


def load_spans(path: str | Path) -> tuple[str, ...]:
    """The vocabulary: all span types, by id.

    Raises:
        MissingAsset: there is no such file.
        InvalidProbes: it is not one JSON array of different texts; names the line or the entry.
    """
    path = Path(path)
    try:
        found = json.loads(_content(path).decode("utf-8"))
    except json.JSONDecodeError as error:
        raise InvalidProbes(f"{path.name}, line {error.lineno}: not JSON") from None
    except (UnicodeDecodeError, RecursionError):
        raise InvalidProbes(f"{path.name} is not a JSON array of texts in UTF-8") from None
    if not isinstance(found, list) or not found:
        raise InvalidProbes(f"{path.name} must be a JSON array of at least one span")
    seen: dict[str, int] = {}
    for number, span in enumerate(found):
        if not isinstance(span, str) or not span.strip():
            raise InvalidProbes(f"{path.name}, entry {number} must be a text that is not blank")
        if span in seen:
            raise InvalidProbes(
                f"{path.name}, entries {seen[span]} and {number} are the same span: keep one"
            )
        seen[span] = number
    return tuple(found)


def load_questions(path: str | Path, vocabulary: Sequence[str]) -> tuple[PrivateQuestion, ...]:
    """The questions of one split, in the order of their lines; blank lines do not count.

    Args:
        path: a file of JSON lines.
        vocabulary: as :func:`load_spans` gives it.

    Raises:
        MissingAsset: there is no such file.
        InvalidProbes: no questions, or a line that is none: names the line, the field and what it
            must be.
    """
    path = Path(path)
    ids = {span: number for number, span in enumerate(vocabulary)}
    found = []
    for number, line in enumerate(_content(path).split(b"\n"), 1):
        if line.strip():
            try:
                found.append(_question(_object(line), ids))
            except InvalidProbes as error:
                raise InvalidProbes(f"{path.name}, line {number}: {error}") from None
    if not found:
        raise InvalidProbes(f"{path.name} holds no questions")
    return tuple(found)


def removal_residue(rows: Iterable[PrivateQuestion], vocabulary: Sequence[str]) -> int:
    """Number of rows whose labelled q⁻ still has a removed span as a part of its text.

    Such rows answer themselves: send what :func:`~privacyrestore.span_removal.remove_spans` leaves
    of `question` instead of `question_removed`.
    """
    return sum(any(vocabulary[i] in row.question_removed for i in row.span_ids) for row in rows)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingAsset(
            f"{path} does not exist: give the path of your own copy, none comes with this package"
        ) from None
    except OSError as error:
        raise InvalidProbes(f"{path} cannot be read: {error.strerror}") from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        return read_object(line)
    except InvalidSetting:
        raise InvalidProbes(
            "not a JSON object in UTF-8 with finite numbers and each name once"
        ) from None


def _question(fields: Mapping[str, Any], ids: Mapping[str, int]) -> PrivateQuestion:
    spans = _texts(fields, "private_spans")
    for place, span in enumerate(spans):
        if span not in ids:
            raise InvalidProbes(
                f"private_spans[{place}] is not among the {len(ids)} spans of the vocabulary: do "
                "both files belong to one data set?"
            )
    options, answer = _texts(fields, "options"), _text(fields, "answer")
    if len(options) < 2 or len(set(options)) < len(options):
        raise InvalidProbes(
            f"options must be two or more, all different: {len(set(options))} of {len(options)} are"
        )
    index = fields.get("answer_index")
    if type(index) is not int or not 0 <= index < len(options):
        raise InvalidProbes(f"answer_index must be an integer from 0 to {len(options) - 1}")
    if options[index] != answer:
        raise InvalidProbes(f"answer is not option {index}, which answer_index names")
    return PrivateQuestion(
        question=_text(fields, "question"),
        question_removed=_text(fields, "question_removed"),
        span_ids=tuple(dict.fromkeys(ids[span] for span in spans)),
        kept_spans=_texts(fields, "kept_spans"),
        options=options,
        answer=answer,
        answer_index=index,
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidProbes(f"{name} must be a text that is not blank{_lacking(fields, name)}")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise InvalidProbes(
            f"{name} must be a list of texts that are not blank{_lacking(fields, name)}"
        )
    return tuple(value)


def _lacking(fields: Mapping[str, Any], name: str) -> str:
    return "" if name in fields else "; the line lacks it"
