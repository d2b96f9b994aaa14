import re
from pathlib import Path

import pytest

from lipogram import assets
from lipogram.errors import InvalidSetting, NotCached
from psfuture import debian_text
from psfuture.debian_text import (
    debian_pairs,
    evaluation_split,
    handbook_pairs,
    libreoffice_pairs,
)
from psfuture.parallel_text import UnreadableText

HELP = """<!DOCTYPE html><html lang="x"><head><title>{title}</title></head><body>
<header><p dir="auto">{title}, for everybody to read</p></header><div id="DisplayArea">
<h1 id="hd_id1" dir="auto"><a name="top"></a>{title}</h1>
<p id="par_id1" class="paragraph">{first} <span class="emph">{menu}</span>.&nbsp; {second}</p>
<pre>{title} = 1 + 2 + 3 + 4</pre>{more}
</div></body></html>"""
ENGLISH = HELP.format(
    title="How to write many letters at once",
    first="Open the first menu and choose",
    menu="File - Print",
    second="The letters come out of the printer.",
    more='<p id="par_id2">This page alone has such a line.</p>'
    '<p id="par_id3">The same place comes twice here.</p>'
    '<p id="par_id3">And this is its second text.</p>',
)
GERMAN = HELP.format(
    title="Wie man viele Briefe zugleich schreibt",
    first="Im ersten Menü wählt man dann",
    menu="Datei - Drucken",
    second="Die Briefe kommen aus dem Drucker.",
    more='<p id="par_id3">Dieselbe Stelle kommt hier zweimal.</p>'
    '<p id="par_id3">Und das ist ihr zweiter Text.</p>'
    '<p id="par_id4">Nur diese Seite hat eine solche Zeile.</p>',
)
HANDBOOK = """<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml">
<head><title>x</title></head><body><ul class="docnav"><li>{skip} {skip} {skip} {skip}</li></ul>
<div class="section"><h2 class="title"><a id="one"></a>{title}</h2><a class="indexterm" id="i" />
<div class="para">{first} <div class="url">→ <a href="x">http://example.org/a/b/c/d</a></div></div>
<div class="para">{untranslated}</div><pre class="screen">{skip} a b c d e</pre>{more}</div></body>
</html>"""
UNTRANSLATED = "This has not been translated yet."
ENGLISH_BOOK = HANDBOOK.format(
    title="Why a server needs care",
    first="Every server fails one day, and then it counts what was saved. Save often.",
    untranslated=UNTRANSLATED,
    skip="Next",
    more="",
)
GERMAN_BOOK = HANDBOOK.format(
    title="Warum ein Server Pflege braucht",
    first="Jeder Server versagt einmal, und dann zählt, was gesichert wurde. Man sichere oft.",
    untranslated=UNTRANSLATED,
    skip="Weiter",
    more="",
)


def written(folder: Path, pages: dict[str, str]) -> Path:
    for name, page in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page, encoding="utf-8")
    return folder


def help_folders(root: Path) -> tuple[Path, Path]:
    return (
        written(root / "en-US", {"text/a.html": ENGLISH, "text/only.html": ENGLISH}),
        written(root / "de", {"text/a.html": GERMAN}),
    )


HELP_PAIRS = {
    "How to write many letters at once": "Wie man viele Briefe zugleich schreibt",
    "Open the first menu and choose File - Print.": (
        "Im ersten Menü wählt man dann Datei - Drucken."
    ),
    "The letters come out of the printer.": "Die Briefe kommen aus dem Drucker.",
    "The same place comes twice here.": "Dieselbe Stelle kommt hier zweimal.",
    "And this is its second text.": "Und das ist ihr zweiter Text.",
}


def test_paragraphs_of_the_help_are_paired_by_their_anchor(tmp_path):
    pairs = libreoffice_pairs(*help_folders(tmp_path), "de")
    assert dict(zip(pairs.sources, pairs.targets, strict=True)) == HELP_PAIRS
    assert set(pairs.documents) == {"text/a.html"}
    assert (pairs.name, pairs.target_language) == ("libreoffice-help-de", "de")


BOOK_PAIRS = {
    "Why a server needs care": "Warum ein Server Pflege braucht",
    "Every server fails one day, and then it counts what was saved.": (
        "Jeder Server versagt einmal, und dann zählt, was gesichert wurde."
    ),
}


def test_pages_of_the_handbook_are_paired_by_their_structure(tmp_path):
    english = written(tmp_path / "en-US", {"a.html": ENGLISH_BOOK, "b.html": ENGLISH_BOOK})
    other = GERMAN_BOOK.replace("</pre>", '</pre><div class="para">Ein Absatz mehr ist hier.</div>')
    german = written(tmp_path / "de-DE", {"a.html": GERMAN_BOOK, "b.html": other})
    pairs = handbook_pairs(english, german, "de")
    assert dict(zip(pairs.sources, pairs.targets, strict=True)) == BOOK_PAIRS
    assert set(pairs.documents) == {"a.html"}


def test_a_page_of_another_structure_is_left_out(tmp_path):
    english = written(tmp_path / "en-US", {"b.html": ENGLISH_BOOK})
    shifted = GERMAN_BOOK.replace('<div class="para">', "<p>Vorab ist dies zu sagen.</p><p>", 1)
    german = written(tmp_path / "de-DE", {"b.html": shifted})
    assert len(handbook_pairs(english, german, "de")) == 0


def test_packages_that_were_unpacked_are_read_from_their_folder(tmp_path):
    help_folders(tmp_path / "usr/share/libreoffice/help")
    book = tmp_path / "usr/share/doc/debian-handbook/html"
    written(book / "en-US", {"a.html": ENGLISH_BOOK})
    written(book / "de-DE", {"a.html": GERMAN_BOOK})
    help_text = debian_pairs("libreoffice-help", "de", root=tmp_path)
    handbook = debian_pairs("debian-handbook", "de", root=tmp_path)
    assert dict(zip(help_text.sources, help_text.targets, strict=True)) == HELP_PAIRS
    assert dict(zip(handbook.sources, handbook.targets, strict=True)) == BOOK_PAIRS
    with pytest.raises(UnreadableText, match=r"en-US and .*pt-BR have no page"):
        debian_pairs("debian-handbook", "pt-br", root=tmp_path)


def test_another_corpus_or_language_is_refused_with_the_known_ones():
    with pytest.raises(InvalidSetting, match="'fr' is none of pt-br, de"):
        debian_pairs("debian-handbook", "fr")
    with pytest.raises(InvalidSetting, match="'manpages' is none of libreoffice-help"):
        debian_pairs("manpages", "de")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy help in place of the pinned assets, and a list of what was asked for."""
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    english, german = help_folders(tmp_path)
    asked: list[str] = []

    def get(name: str) -> Path:
        asked.append(name)
        return german if name.endswith("-de") else english

    monkeypatch.setattr(debian_text, "get", get)
    return asked


def test_what_was_extracted_is_kept_and_used_without_the_packages(toy, tmp_path):
    first = debian_pairs("libreoffice-help", "de")
    assert toy == ["libreoffice-help-en-us", "libreoffice-help-de"]
    assert debian_pairs("libreoffice-help", "de") == first
    assert len(toy) == 2
    assert len(list((tmp_path / "cache").rglob("*"))) == 2  # a folder and its one file


@pytest.mark.parametrize("place", [0, 40, 70, 200, -1])
def test_a_kept_file_that_was_damaged_is_extracted_anew(place, toy, tmp_path):
    first = debian_pairs("libreoffice-help", "de")
    (kept,) = (tmp_path / "cache").rglob("*.tsv")
    whole = kept.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    for content in (damaged, whole[:place], b""):
        kept.write_bytes(content)
        assert debian_pairs("libreoffice-help", "de") == first
        assert kept.read_bytes() == whole
    assert len(toy) == 8


@pytest.mark.parametrize("changed", ["pin", "version"])
def test_other_pins_or_another_extraction_are_other_files(changed, toy, tmp_path, monkeypatch):
    debian_pairs("libreoffice-help", "de")
    if changed == "version":
        monkeypatch.setattr(debian_text, "_VERSION", 0)
    else:
        pins = {**assets.ASSETS, "libreoffice-help-de": assets.ASSETS["libreoffice-help-pt-br"]}
        monkeypatch.setattr(debian_text, "ASSETS", pins)
    debian_pairs("libreoffice-help", "de")
    assert len(toy) == 4
    assert len(list((tmp_path / "cache").rglob("*.tsv"))) == 2


def test_a_cache_that_cannot_be_written_is_warned_of(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "file"))
    with pytest.warns(NotCached, match=r"libreoffice-help-de could not be kept.*LIPOGRAM_CACHE"):
        pairs = debian_pairs("libreoffice-help", "de")
    assert len(pairs) == len(HELP_PAIRS)


def real(*names: str) -> list[Path]:
    """The pinned packages' folders; skip where one is not on this machine."""
    folders = []
    for name in names:
        if (found := assets.find(name)) is None:
            get = f"from lipogram import assets; assets.get('{name}')"
            pytest.skip(f'needs {name}: python -c "{get}"')
        folders.append(found)
    return folders


# Of the examined packages; another extractor was reported to find 34,657 and 33,119 pairs in the
# help, and 5,729 and 5,279 in the handbook.
HELP_COUNTS = {"pt-br": 33_837, "de": 31_180}
HANDBOOK_COUNTS = {"pt-br": 5_620, "de": 5_122}
DIVISION = {"pt-br": [33_837, 2_593, 1_822], "de": [31_180, 2_486, 1_617]}


@pytest.mark.parametrize("target", ["pt-br", "de"])
def test_the_real_handbook_gives_the_pairs_that_were_counted(target):
    (folder,) = real("debian-handbook")
    pairs = handbook_pairs(folder / "en-US", folder / f"{target[:2]}-{LANDS[target]}", target)
    assert len(pairs) == HANDBOOK_COUNTS[target]
    assert debian_pairs("debian-handbook", target) == pairs
    markup = re.compile(r"</?(a|code|div|em|p|span)\b|&\w+;|\u00a0|  ")
    assert not any(markup.search(text) for text in (*pairs.sources, *pairs.targets))


LANDS = {"pt-br": "BR", "de": "DE"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pt-br", "de"])
def test_the_real_help_gives_the_pairs_that_were_counted(target):
    english, translated = real("libreoffice-help-en-us", f"libreoffice-help-{target}")
    pairs = libreoffice_pairs(english, translated, target)
    assert len(pairs) == HELP_COUNTS[target]
    assert debian_pairs("libreoffice-help", target) == pairs


def test_the_division_of_the_real_text_has_no_document_and_no_sentence_in_two_parts():
    real("debian-handbook", "libreoffice-help-en-us", "libreoffice-help-pt-br")
    text = evaluation_split("pt-br")
    parts = (text.tuning, text.pilot, text.fresh)
    assert [len(part) for part in parts] == DIVISION["pt-br"]
    for place, part in enumerate(parts):
        others = [other for at, other in enumerate(parts) if at != place]
        assert len(set(part.sources)) == len(part)
        assert not any(set(part.sources) & set(other.sources) for other in others)
        assert not any(set(part.documents) & set(other.documents) for other in others)
    assert all(8 <= len(source.split()) <= 35 for part in parts[1:] for source in part.sources)


@pytest.mark.slow
def test_german_is_divided_by_the_same_pages():
    real("debian-handbook", *(f"libreoffice-help-{name}" for name in ("en-us", "pt-br", "de")))
    german, portuguese = evaluation_split("de"), evaluation_split("pt-br")
    assert [len(german.tuning), len(german.pilot), len(german.fresh)] == DIVISION["de"]
    assert not set(german.pilot.documents) & set(portuguese.fresh.documents)
    assert not set(german.fresh.documents) & set(portuguese.pilot.documents)
