"""Probe sets in the formats of published benchmarks: ConceptVectors, TOFU and MUSE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ftunlearn.probes import Group, ProbeSet, collect, qa_fields, spaced
from ftunlearn.records import Item, read_records
from lipogram.errors import InvalidProbes, InvalidSetting, MissingAsset
from lipogram.hub_rows import hub_rows

CONCEPT_PROMPT = "Question: {q}\n Answer:"
COMPLETION_PROMPT = "Please complete the following paragraph: {q}"
CONCEPTS_HUB = "YihuaiHong/ConceptVectors"
CONCEPT_MODELS = ("llama2-7b", "olmo-7b")
TOFU_HUB = "locuslab/TOFU"
MUSE_HUB = "muse-bench/MUSE-{}"

Kind = Literal["QA", "text_completion", "unrelated_QA"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Fields = tuple[str, Mapping[str, Any]]


def concept_records(
    source: str | Path, ids: Iterable[int | str] | None = None
) -> tuple[list[Item], list[str]]:
    """The concepts of a ConceptVectors file (arXiv 2406.11614), as they are stored.

    Args:
        source: a JSON file of the data set; or "llama2-7b" or "olmo-7b", the test part on the hub.
        ids: `id` fields of the concepts that are wanted, in this order; None is all.

    Returns:
        (place in the file, concept) with `id`, `Concept`, `wikipedia_content`, `QA`, ..., and what
        was wrong with the items that are none.

    Raises:
        MissingAsset: no such file, and not on the hub or the hub cannot be reached.
        InvalidProbes: the file cannot be read, or an id is not in it.
    """
    problems: list[str]
    if str(source) in CONCEPT_MODELS and not Path(source).exists():
        file = f"**/{source}_concepts_test.json"
        items, problems = _numbered(hub_rows(CONCEPTS_HUB, None, "train", file=file)), []
    else:
        items, problems = read_records(source)
    if ids is None:
        return items, problems
    by_id = {str(concept.get("id")): (place, concept) for place, concept in items}
    wanted = [str(i) for i in ids]
    if missing := [i for i in wanted if i not in by_id]:
        raise InvalidProbes(f"{source} has no concept with the id {missing[0]}")
    return [by_id[i] for i in wanted], problems


def concept_vectors(
    source: str | Path,
    *,
    ids: Iterable[int | str] | None = None,
    kinds: Sequence[Kind] = ("QA", "unrelated_QA"),
    strict: bool = False,
) -> ProbeSet:
    r"""Questions about concepts, with the prompts that were published with arXiv 2410.06606.

    A question becomes `Question: {q}\n Answer:`, taken as it is stored: the published ones begin
    with a blank and end in a line feed. A text completion becomes `Please complete the following
    paragraph: {First_half}`. Answers are None: the vanilla model's own continuation.

    Args:
        source: see :func:`concept_records`.
        ids: see :func:`concept_records`.
        kinds: "QA" and "text_completion" (group "forget"), "unrelated_QA" (group "unrelated").
        strict: one bad item stops the reading.

    Raises:
        InvalidSetting: an unknown kind.
        MissingAsset, InvalidProbes: see :func:`concept_records`; no usable question.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InvalidSetting(f"no kind of question {unknown[0]!r}; there are {', '.join(KINDS)}")
    items, problems = concept_records(source, ids)
    problems = list(problems)

    def fields() -> Iterator[Fields]:
        for place, concept in items:
            for kind in kinds:
                questions = concept.get(kind)
                where = f"item {place}: {kind} of concept {concept.get('id', place)}"
                if not isinstance(questions, list):
                    problems.append(f"{Path(source).name}, {where} is not a list")
                    continue
                group: Group = "unrelated" if kind == "unrelated_QA" else "forget"
                for number, question in enumerate(questions):
                    template = CONCEPT_PROMPT
                    if kind == "text_completion":
                        template = COMPLETION_PROMPT
                        question = (
                            question.get("First_half") if isinstance(question, dict) else None
                        )
                    name = f"{concept.get('id', place)}-{kind}-{number}"
                    yield where, qa_fields(name, question, None, template, group)

    return collect(list(fields()), problems, Path(source).name, strict)


def tofu(
    subset: str = "forget10",
    *,
    source: str | Path = TOFU_HUB,
    template: str = "Question: {q}\nAnswer:",
    group: Group | None = None,
    strict: bool = False,
) -> ProbeSet:
    """Questions about authors who do not exist, and what else TOFU asks (arXiv 2401.06121).

    Args:
        subset: "forget01", "forget05", "forget10", "retain90", "real_authors", "world_facts", ...;
            those that end in "_perturbed" have the answers for the truth ratio.
        source: a hub id; or a folder that holds `{subset}.json` or `.jsonl`; or one such file.
        template: the prompt; {q} is the question.
        group: of all of them; by default "forget" or "retain" as the subset is called, else
            "unrelated".
        strict: one bad item stops the reading.

    Returns:
        Probes with `answer`, and where the subset has them with `paraphrases` (the paraphrased
        question), `paraphrased_answer` and `perturbed_answers`.

    Raises:
        MissingAsset: not there, and not on the hub or the hub cannot be reached.
        InvalidProbes: the file cannot be read, or holds no usable question.
    """
    items, problems, name = _records(source, subset, (subset,), "train")
    groups: dict[str, Group] = {"forget": "forget", "retain": "retain"}
    chosen = group or groups.get(subset[:6], "unrelated")

    def fields() -> Iterator[Fields]:
        for place, item in items:
            found = qa_fields(
                f"{subset}-{place}", item.get("question"), item.get("answer", ""), template, chosen
            )
            prompt = found["prompt"]
            if item.get("paraphrased_question"):
                other = qa_fields("", item["paraphrased_question"], None, template, chosen)
                found["paraphrases"] = (other["prompt"],)
            if item.get("paraphrased_answer"):
                found["paraphrased_answer"] = spaced(prompt, item["paraphrased_answer"])
            if perturbed := item.get("perturbed_answer"):
                perturbed = perturbed if isinstance(perturbed, list) else [perturbed]
                found["perturbed_answers"] = tuple(spaced(prompt, text) for text in perturbed)
            yield f"item {place}", found

    return collect(fields(), problems, name, strict)


def muse(
    corpus: Literal["News", "Books"] = "News",
    *,
    part: Literal["knowmem", "verbmem"] = "knowmem",
    source: str | Path | None = None,
    template: str = "Question: {q}\nAnswer:",
    strict: bool = False,
) -> ProbeSet:
    """Questions about news or novels of MUSE (arXiv 2407.06460).

    Args:
        corpus: "News" or "Books".
        part: "knowmem": questions about the text to be forgotten (group "forget") and about the
            rest (group "retain"); "verbmem": beginnings of passages to be forgotten, the answer
            being how they go on.
        source: a hub id or a folder that holds `{part}/{split}.json` or `.jsonl`, the splits being
            `forget_qa` and `retain_qa` or `forget`; by default the corpus on the hub.
        template: the prompt of a question; {q} is the question.
        strict: one bad item stops the reading.

    Raises:
        InvalidSetting: an unknown corpus or part.
        MissingAsset: not there, and not on the hub or the hub cannot be reached.
        InvalidProbes: a file cannot be read, or none holds a usable question.
    """
    if corpus not in ("News", "Books") or part not in ("knowmem", "verbmem"):
        raise InvalidSetting(
            f"no part {part!r} of corpus {corpus!r}; the parts are knowmem and verbmem, "
            "the corpora News and Books"
        )
    splits: dict[str, Group] = {"forget_qa": "forget", "retain_qa": "retain"}
    if part == "verbmem":
        splits = {"forget": "forget"}
    found: list[Fields] = []
    problems: list[str] = []
    for split, group in splits.items():
        items, wrong, name = _records(
            source or MUSE_HUB.format(corpus), part, (f"{part}/{split}", split), split
        )
        problems += wrong
        for place, item in items:
            where, id = f"{name}, item {place}", f"{split}-{place}"
            if part == "verbmem":
                passage, goes_on = item.get("prompt"), item.get("gt", "")
                found.append(
                    (where, {"id": id, "prompt": passage, "answer": goes_on, "group": group})
                )
            else:
                question, answer = item.get("question"), item.get("answer", "")
                found.append((where, qa_fields(id, question, answer, template, group)))
    return collect(found, problems, f"MUSE-{corpus}", strict)


def _records(
    source: str | Path, config: str, names: Sequence[str], split: str
) -> tuple[list[Item], list[str], str]:
    """Items of a local file, of the first of `names` that a local folder holds, or of the hub."""
    path = Path(source)
    if path.is_file():
        return *read_records(path), path.name
    if path.is_dir():
        files = [path / f"{name}{end}" for name in names for end in (".jsonl", ".json")]
        for file in files:
            if file.is_file():
                return *read_records(file), file.name
        looked = ", ".join(str(file.relative_to(path)) for file in files)
        raise MissingAsset(f"{path} has none of {looked}")
    if isinstance(source, Path) or str(source).count("/") != 1 or str(source).startswith("."):
        raise MissingAsset(f"{source} is no file, no folder and no hub id")
    return _numbered(hub_rows(str(source), config, split)), [], f"{source} {config}"


def _numbered(rows: Iterable[dict[str, Any]]) -> list[Item]:
    return list(enumerate(rows, start=1))
