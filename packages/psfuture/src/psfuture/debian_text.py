"""Parallel text of Debian packages: LibreOffice's help, and the Debian Administrator's Handbook.

Both are translations by their projects, English first, page by page. Models trained on OPUS may
have seen them: they compare policies, and their BLEU is no benchmark.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lipogram.assets import ASSETS, DebianPackage, cache_folder, get
from lipogram.errors import InvalidSetting, NotCached
from lipogram.files import write_atomically
from psfuture.html_segments import segments
from psfuture.parallel_text import SentencePairs, UnreadableText, decoded_lines
from psfuture.sentence_pairing import unique_pairs

Corpus = Literal["libreoffice-help", "debian-handbook"]
Target = Literal["pt-br", "de"]

_VERSION = 1  # of the extraction: another one makes other pairs
_HANDBOOK_FOLDERS = {"pt-br": "pt-BR", "de": "de-DE"}
_HANDBOOK_SILENT = frozenset({"docnav", "toc", "url"})


@dataclass(frozen=True)
class EvaluationText:
    """Text to tune and to test on, of documents that have nothing in common.

    Attributes:
        tuning: LibreOffice's help: for training, and for whatever is learned.
        pilot: pages of the handbook for experiments that choose settings.
        fresh: other pages of it, for figures that are reported.
    """

    tuning: SentencePairs
    pilot: SentencePairs
    fresh: SentencePairs


def evaluation_split(target: Target, *, words: tuple[int, int] = (8, 35)) -> EvaluationText:
    """The one division of Debian's parallel text that figures are made with.

    Pilot and fresh are sentences of the handbook with 8 to 35 words; the half that a page belongs
    to is decided by SHA-256 of its name (seed 0), so it is the same everywhere, for every target
    language, and no page has sentences in both. The tuning text holds no source of either.

    Raises:
        InvalidSetting, MissingAsset, AssetMismatch: as :func:`debian_pairs`.
    """
    handbook = debian_pairs("debian-handbook", target)
    help_text = debian_pairs("libreoffice-help", target)
    tested = set(handbook.sources)
    pilot, fresh = handbook.with_words(*words).split(0.5)
    return EvaluationText(
        help_text.chosen(
            place for place, source in enumerate(help_text.sources) if source not in tested
        ),
        pilot.chosen(range(len(pilot)), f"{handbook.name}-pilot"),
        fresh.chosen(range(len(fresh)), f"{handbook.name}-fresh"),
    )


def debian_pairs(corpus: Corpus, target: Target, *, root: Path | None = None) -> SentencePairs:
    """Sentences of a Debian package in English and another language, each source once.

    What was extracted from the pinned packages is kept in Lipogram's cache and used from there; it
    takes some seconds the first time. NotCached is warned of where it cannot be kept.

    Args:
        corpus: which text.
        target: language of the translation.
        root: folder that the packages were unpacked to (`dpkg-deb -x PACKAGE.deb ROOT`), in place
            of the pinned ones: another release has other sentences.

    Raises:
        InvalidSetting: another corpus or language.
        MissingAsset: the packages are not there and cannot be fetched; the message says what helps.
        AssetMismatch: what is there is another release; use `root`.
        UnreadableText: `root` does not hold the pages.
    """
    for value, known in ((corpus, get_args(Corpus)), (target, get_args(Target))):
        if value not in known:
            raise InvalidSetting(f"{value!r} is none of {', '.join(known)}")
    if root is not None:
        unpacked = [root / _place(name).lstrip("/") for name in _assets(corpus, target)]
        return _extracted(corpus, target, unpacked)
    pinned = "".join(str(ASSETS[name].tree) for name in _assets(corpus, target))
    key = hashlib.sha256(pinned.encode()).hexdigest()[:16]
    kept = cache_folder() / "psfuture" / f"{corpus}-{target}-{key}-{_VERSION}.tsv"
    if (found := _read(kept, f"{corpus}-{target}")) is not None:
        return found
    pairs = _extracted(corpus, target, [get(name) for name in _assets(corpus, target)])
    _keep(kept, pairs)
    return pairs


def libreoffice_pairs(english: Path, translated: Path, target: str) -> SentencePairs:
    """Pairs of two folders of LibreOffice's help, of the same release.

    A paragraph or heading has an `id` that all languages share; where a page shows one twice, the
    first is paired with the first.

    Raises:
        UnreadableText: one of the folders has no pages, or they have none in common.
    """
    return _pairs("libreoffice-help", target, _same_anchors(english, translated))


def handbook_pairs(english: Path, translated: Path, target: str) -> SentencePairs:
    """Pairs of two folders of the Debian Administrator's Handbook, of the same release.

    Pages are paired where their blocks (paragraphs, headings, items) follow each other in the same
    way, run of text by run of text; another page is left out.

    Raises:
        UnreadableText: one of the folders has no pages, or they have none in common.
    """
    return _pairs("debian-handbook", target, _same_structure(english, translated))


def _assets(corpus: str, target: str) -> list[str]:
    if corpus == "debian-handbook":
        return [corpus]
    return [f"libreoffice-help-{language}" for language in ("en-us", target)]


def _place(asset: str) -> str:
    """Where its package installs it."""
    source = ASSETS[asset].source
    assert isinstance(source, DebianPackage)
    return source.folder


def _extracted(corpus: str, target: str, folders: list[Path]) -> SentencePairs:
    if corpus == "debian-handbook":
        (pages,) = folders
        return handbook_pairs(pages / "en-US", pages / _HANDBOOK_FOLDERS[target], target)
    return libreoffice_pairs(folders[0], folders[1], target)


def _pairs(corpus: str, target: str, texts: Iterator[tuple[str, str, str]]) -> SentencePairs:
    rows = list(unique_pairs(texts))
    documents, sources, targets = zip(*rows, strict=True) if rows else ((), (), ())
    return SentencePairs(f"{corpus}-{target}", "en", target, sources, targets, documents)


def _same_anchors(english: Path, translated: Path) -> Iterator[tuple[str, str, str]]:
    for name, page, other in _pages(english, translated):
        texts, others = _anchored(page), _anchored(other)
        for place, text in texts.items():
            if place in others:
                yield name, text, others[place]


def _anchored(page: str) -> dict[tuple[str, int], str]:
    """Texts by the `id` of their block, and how often it was there before."""
    texts: dict[tuple[str, int], str] = {}
    seen: Counter[str] = Counter()
    for segment in segments(page):
        if segment.anchor and segment.text.strip():
            texts[segment.anchor, seen[segment.anchor]] = segment.text
            seen[segment.anchor] += 1
    return texts


def _same_structure(english: Path, translated: Path) -> Iterator[tuple[str, str, str]]:
    for name, page, other in _pages(english, translated):
        runs, others = segments(page, _HANDBOOK_SILENT), segments(other, _HANDBOOK_SILENT)
        if [run.border for run in runs] == [run.border for run in others]:
            for run, other_run in zip(runs, others, strict=True):
                yield name, run.text, other_run.text


def _pages(english: Path, translated: Path) -> Iterator[tuple[str, str, str]]:
    """Name and text of the pages that both folders have, by name."""
    names = sorted(
        path.relative_to(english).as_posix()
        for path in english.rglob("*.html")
        if (translated / path.relative_to(english)).is_file()
    )
    if not names:
        raise UnreadableText(f"{english} and {translated} have no page (*.html) of the same name")
    for name in names:
        yield name, _page(english / name), _page(translated / name)


def _page(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _keep(path: Path, pairs: SentencePairs) -> None:
    content = pairs.as_tsv()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _checksum(content) + b"\n" + content)
    except OSError as error:
        warnings.warn(
            f"{pairs.name} could not be kept in {path.parent} ({error}) and is extracted anew next "
            "time; LIPOGRAM_CACHE names another folder",
            NotCached,
            stacklevel=3,
        )


def _read(path: Path, name: str) -> SentencePairs | None:
    """What was kept; None where there is nothing, or something damaged."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != _checksum(content):
        return None
    return SentencePairs.from_lines(decoded_lines(content, str(path)), name, str(path))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
