"""Parallel text that others publish: sacrebleu's test sets, and data sets of the Hugging Face hub.

Neither is bundled: what this machine does not have is fetched when it is asked for.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting, MissingAsset
from lipogram.hub_rows import hub_rows
from psfuture.parallel_text import SentencePairs, UnreadableText, file_pairs

_PATIENCE = 8.0  # seconds for an answer of the network


def sacrebleu_pairs(test_set: str, langpair: str) -> SentencePairs:
    """A test set by sacrebleu's name, such as ("wmt15", "de-en"), with its first reference.

    sacrebleu keeps what it fetched in the folder that its variable SACREBLEU names, else in
    ~/.sacrebleu.

    Raises:
        InvalidSetting: it knows no such test set or pair of languages.
        MissingAsset: the test set is not there and could not be fetched.
        UnreadableText: what is there is damaged.
    """
    from sacrebleu.dataset import DATASETS

    if test_set not in DATASETS:
        raise InvalidSetting(f"sacrebleu has no test set {test_set!r}{_near(test_set, DATASETS)}")
    found: Any = DATASETS[test_set]  # its methods have no types
    if langpair not in found.langpairs:
        known = ", ".join(sorted(found.langpairs))
        raise InvalidSetting(f"{test_set} has no languages {langpair!r}; it has {known}")
    try:
        with _impatient():
            source = found.get_source_file(langpair)
            references = found.get_reference_files(langpair)
    except (Exception, SystemExit) as error:  # it ends the program where a checksum is wrong
        raise MissingAsset(
            f"the test set {test_set} ({langpair}) is not on this machine and could not be fetched "
            f"({type(error).__name__}: {error}); with a network this brings it: "
            f"sacrebleu -t {test_set} -l {langpair} --echo src"
        ) from error
    pairs = file_pairs(Path(source), Path(references[0]), languages=_languages(langpair))
    return pairs.chosen(range(len(pairs)), f"{test_set}-{langpair}")


def hub_pairs(
    dataset: str, source: str, target: str, *, split: str = "test", config: str | None = None
) -> SentencePairs:
    """Pairs of a data set of the Hugging Face hub, or of a folder with JSON, CSV or Parquet.

    Its rows have a column `translation` that holds both languages, or a column for each.

    Args:
        dataset: hub id or folder.
        source: language to translate from, or the name of its column.
        target: the same of the other.
        split: part of the data set.
        config: subset.

    Raises:
        MissingExtra: the library `datasets` is not there.
        MissingAsset: no such data set, or neither the hub nor the cache has it.
        InvalidSetting: no such columns; those there are named.
        UnreadableText: a row whose values are no text; it is named.
    """
    rows = hub_rows(dataset, config, split)
    columns: list[list[str]] = [[], []]
    for number, row in enumerate(rows, start=1):
        cells = row["translation"] if isinstance(row.get("translation"), dict) else row
        for column, key in zip(columns, (source, target), strict=True):
            if key not in cells:
                raise InvalidSetting(
                    f"{dataset} has no column {key!r}; row {number} has {', '.join(cells)}"
                )
            if not isinstance(cells[key], str):
                raise UnreadableText(f"{dataset}, row {number}: {key} is {cells[key]!r}, no text")
            column.append(cells[key])
    name = "-".join([Path(dataset).name, *([config] if config else []), split])
    return SentencePairs(name, source, target, tuple(columns[0]), tuple(columns[1]))


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; near are {', '.join(near)}" if near else f"; it has {', '.join(sorted(known))}"


def _languages(langpair: str) -> tuple[str, str]:
    source, _, target = langpair.partition("-")
    return source, target


@contextmanager
def _impatient() -> Iterator[Any]:
    """Let a network that does not answer fail in seconds; by itself it would take minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
