"""Probes: the questions that a model should have forgotten, and those that it should not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

from ftunlearn.records import Item, read_records
from lipogram.errors import InvalidProbes
from lipogram.files import write_atomically

Group = Literal["forget", "retain", "unrelated"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Probe:
    """A prompt, and the answer that is looked for behind it.

    Attributes:
        id: names the probe; unique in a set.
        prompt: text that the model continues, taken as it is.
        answer: text that follows the prompt, with its leading blank where there is one. None: the
            vanilla model's own greedy continuation.
        paraphrases: other prompts with the same answer.
        group: "forget"; "retain" for what unlearning was trained to keep; "unrelated" for what no
            training saw.
        paraphrased_answer: the answer in other words, for the truth ratio (arXiv 2401.06121).
        perturbed_answers: wrong answers of the same form, for the truth ratio.

    Raises:
        InvalidProbes: a field of the wrong type, an empty text, an unknown group, or text that is
            not valid Unicode.
    """

    id: str
    prompt: str
    answer: str | None = None
    paraphrases: tuple[str, ...] = ()
    group: Group = "forget"
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no model could be asked."""
        for name in ("id", "prompt", "answer", "paraphrased_answer"):
            value = getattr(self, name)
            if value is not None or name in ("id", "prompt"):
                self._check(name, value)
        for name in ("paraphrases", "perturbed_answers"):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise InvalidProbes(f"{name} is a {type(values).__name__}, not a list of texts")
            for value in values:
                self._check(name, value)
            object.__setattr__(self, name, tuple(values))
        if self.group not in GROUPS:
            raise InvalidProbes(f"unknown group {self.group!r}; there are {', '.join(GROUPS)}")

    @staticmethod
    def _check(name: str, value: object) -> None:
        if not isinstance(value, str):
            raise InvalidProbes(f"{name} is a {type(value).__name__}, not text")
        if not value.strip():
            raise InvalidProbes(f"empty {name}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidProbes(f"{name} is not valid Unicode (a lone surrogate)") from error


class ProbeSet(Sequence[Probe]):
    """Probes in order, each with an id of its own.

    Args:
        probes: any number.
        problems: what was wrong with items that were left out, a sentence each.

    Raises:
        InvalidProbes: two probes with one id.
    """

    def __init__(self, probes: Iterable[Probe] = (), problems: Iterable[str] = ()):
        self._probes = tuple(probes)
        self.problems = tuple(problems)
        seen: set[str] = set()
        for probe in self._probes:
            if probe.id in seen:
                raise InvalidProbes(f"two probes have the id {probe.id!r}")
            seen.add(probe.id)

    def __len__(self) -> int:
        return len(self._probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    @overload
    def __getitem__(self, index: int) -> Probe: ...
    @overload
    def __getitem__(self, index: slice) -> ProbeSet: ...
    def __getitem__(self, index: int | slice) -> Probe | ProbeSet:
        if isinstance(index, slice):
            return ProbeSet(self._probes[index])
        return self._probes[index]

    def __add__(self, other: ProbeSet) -> ProbeSet:
        return ProbeSet((*self, *other), (*self.problems, *other.problems))

    def __eq__(self, other: object) -> bool:
        return self._probes == other._probes if isinstance(other, ProbeSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._probes)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.group(g))} {g}" for g in GROUPS if self.group(g))
        left_out = f", {len(self.problems)} left out" if self.problems else ""
        return f"ProbeSet({counts or 'empty'}{left_out})"

    def group(self, name: Group) -> ProbeSet:
        """The probes of one group, in order; may be empty.

        Raises:
            InvalidProbes: an unknown group.
        """
        if name not in GROUPS:
            raise InvalidProbes(f"unknown group {name!r}; there are {', '.join(GROUPS)}")
        return ProbeSet(probe for probe in self if probe.group == name)

    def subset(self, ids: Iterable[str]) -> ProbeSet:
        """The probes with these ids, in the order of `ids`.

        Raises:
            InvalidProbes: an id that no probe has.
        """
        by_id = {probe.id: probe for probe in self}
        wanted = list(ids)
        if missing := [i for i in wanted if i not in by_id]:
            raise InvalidProbes(f"no probe has the id {missing[0]!r}")
        return ProbeSet(by_id[i] for i in wanted)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the canonical JSON of all probes, in order; 64 hexadecimal digits."""
        items = [dataclasses.asdict(probe) for probe in self]
        text = json.dumps(items, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def to_jsonl(self, path: str | Path) -> None:
        """Write one object a line; :meth:`from_jsonl` reads it back."""
        lines = (
            json.dumps({k: v for k, v in dataclasses.asdict(probe).items() if v or k == "answer"})
            for probe in self
        )
        write_atomically(Path(path), "".join(f"{line}\n" for line in lines).encode("ascii"))

    @classmethod
    def from_jsonl(cls, path: str | Path, *, strict: bool = False) -> ProbeSet:
        """Read probes from JSON lines (or one JSON array) of the fields of :class:`Probe`.

        Fields that :class:`Probe` does not have are ignored. A missing id becomes "line-N".

        Args:
            path: the file, UTF-8.
            strict: one bad item stops the reading.

        Returns:
            The usable probes; `problems` says what was wrong with the others.

        Raises:
            MissingAsset: no such file.
            InvalidProbes: not text, no usable item, or with `strict` a bad one.
        """
        items, problems = read_records(path)
        return collect(_probes_of(items), problems, Path(path).name, strict)

    @classmethod
    def from_qa(
        cls,
        pairs: Iterable[tuple[str, str | None]],
        *,
        template: str = "Question: {q}\nAnswer:",
        group: Group = "forget",
    ) -> ProbeSet:
        """Probes with the ids qa-0, qa-1, ... from questions and answers.

        Args:
            pairs: (question, answer); an answer of None is the vanilla model's own.
            template: the prompt; {q} is the question, all else is taken as it is. Where it does not
                end in white space, an answer gets a leading blank unless it has one.
            group: of all of them.

        Raises:
            InvalidProbes: a template without {q}, or a pair that cannot be a probe.
        """
        return collect(
            (
                (f"item {i}", qa_fields(f"qa-{i}", question, answer, template, group))
                for i, (question, answer) in enumerate(pairs)
            ),
            [],
            "pairs",
            strict=True,
        )

    @classmethod
    def builtin(
        cls, name: Literal["capitals", "facts"] = "facts", *, seed: int = 0, n_forget: int = 10
    ) -> ProbeSet:
        """Facts that SmolLM2-135M-Instruct knows; see :func:`ftunlearn.facts.builtin`."""
        from ftunlearn.facts import builtin

        return builtin(name, seed=seed, n_forget=n_forget)

    @classmethod
    def concept_vectors(cls, source: str | Path, **options: Any) -> ProbeSet:
        """Questions about concepts; see :func:`ftunlearn.formats.concept_vectors`."""
        from ftunlearn.formats import concept_vectors

        return concept_vectors(source, **options)

    @classmethod
    def tofu(cls, subset: str = "forget10", **options: Any) -> ProbeSet:
        """Questions about authors who do not exist; see :func:`ftunlearn.formats.tofu`."""
        from ftunlearn.formats import tofu

        return tofu(subset, **options)

    @classmethod
    def muse(cls, corpus: Literal["News", "Books"] = "News", **options: Any) -> ProbeSet:
        """Questions about news or novels; see :func:`ftunlearn.formats.muse`."""
        from ftunlearn.formats import muse

        return muse(corpus, **options)


def qa_fields(
    id: str, question: object, answer: object, template: str, group: str
) -> dict[str, object]:
    """The fields of a probe that asks `question` in `template`.

    Raises:
        InvalidProbes: the template has no {q}.
    """
    if "{q}" not in template:
        raise InvalidProbes(f"the template {template!r} has no {{q}} where the question goes")
    prompt = question
    if isinstance(question, str) and question.strip():
        prompt = template.replace("{q}", question)
    return {"id": id, "prompt": prompt, "answer": spaced(prompt, answer), "group": group}


def spaced(prompt: object, answer: object) -> object:
    """The answer with a leading blank, where neither it nor the prompt's end has white space."""
    if not isinstance(answer, str) or not isinstance(prompt, str) or not answer.strip():
        return answer
    return answer if answer[0].isspace() or prompt[-1:].isspace() else f" {answer}"


def _probes_of(items: Iterable[Item]) -> Iterator[tuple[str, dict[str, object]]]:
    known = [field.name for field in dataclasses.fields(Probe)]
    for line, item in items:
        fields = {name: item[name] for name in known if item.get(name) is not None}
        if type(fields.get("id")) is int:
            fields["id"] = str(fields["id"])
        yield f"line {line}", {"id": f"line-{line}", "prompt": "", **fields}


def collect(
    items: Iterable[tuple[str, Mapping[str, Any]]], problems: list[str], name: str, strict: bool
) -> ProbeSet:
    """Probes of those items that can be one.

    Args:
        items: (place, fields of :class:`Probe`), `id` among them.
        problems: what was already wrong.
        name: of the file, for messages.
        strict: the first problem is raised.

    Returns:
        The probes, and in `problems` a sentence with place and id for each item that is none.

    Raises:
        InvalidProbes: no usable item, or with `strict` a problem.
    """
    probes: dict[str, Probe] = {}
    problems = list(problems)
    for place, fields in items:
        if strict and problems:
            break
        where = f"{name}, {place}: probe {fields['id']!r}"
        try:
            probe = Probe(**fields)
        except InvalidProbes as error:
            problems.append(f"{where}: {error}")
            continue
        if probe.id in probes:
            problems.append(f"{where}: this id was there before")
        else:
            probes[probe.id] = probe
    if strict and problems:
        raise InvalidProbes(problems[0])
    if not probes:
        reasons = "; ".join(problems[:3]) + (f"; {len(problems) - 3} more" if problems[3:] else "")
        raise InvalidProbes(f"{name} holds no usable probe: {reasons or 'it is empty'}")
    return ProbeSet(probes.values(), problems)
