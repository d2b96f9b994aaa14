import shutil
import struct
import subprocess

import pytest

from psfuture.gettext_text import mo_pairs, po_pairs
from psfuture.parallel_text import UnreadableText

MESSAGES = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    "&Open the last file again": "Die letzte &Datei wieder öffnen",
    "menu\4~Close all of the windows": "~Alle Fenster wieder schließen",
    "%1 file is being copied\0%1 files are being copied": "%1 Datei wird kopiert\0%1 Dateien",
    "<p>Do you want to go?</p><p>All changes are lost &amp; gone.</p>": (
        "<p>Wollen Sie wirklich gehen?</p><p>Alle Änderungen sind dann verloren.</p>"
    ),
    "<p>The number of the paragraphs differs.</p>": "Die Zahl der Absätze ist verschieden.",
    "Install the system &debian; on it": "Installieren Sie &debian; auf ihm",
    "This has not been translated yet": "",
}
PAIRS = {
    "Open the last file again": "Die letzte Datei wieder öffnen",
    "Close all of the windows": "Alle Fenster wieder schließen",
    "%1 file is being copied": "%1 Datei wird kopiert",
    "Do you want to go?": "Wollen Sie wirklich gehen?",
    "All changes are lost & gone.": "Alle Änderungen sind dann verloren.",
}


def compiled(messages: dict[str, str], order: str = "<") -> bytes:
    """A catalogue as msgfmt writes it, without its hash table."""
    keys = sorted(messages)
    texts = [key.encode() for key in keys] + [messages[key].encode() for key in keys]
    start, table, data = 28 + 16 * len(keys), b"", b""
    for text in texts:
        table += struct.pack(f"{order}2I", len(text), start + len(data))
        data += text + b"\0"
    head = (0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    return struct.pack(f"{order}7I", *head) + table + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_compiled_catalogues_are_read_in_both_byte_orders(order, tmp_path):
    (tmp_path / "LC_MESSAGES").mkdir()
    (tmp_path / "LC_MESSAGES" / "toy.mo").write_bytes(compiled(MESSAGES, order))
    pairs = mo_pairs(tmp_path, "de", "toy")
    assert dict(zip(pairs.sources, pairs.targets, strict=True)) == PAIRS
    assert set(pairs.documents) == {"LC_MESSAGES/toy.mo"}
    assert (pairs.name, pairs.source_language, pairs.target_language) == ("toy", "en", "de")


PO = r'''# translator's note
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#. note
msgctxt "menu"
msgid ""
"The first line of "
"a \"long\" message."
msgstr ""
"Die erste Zeile einer "
"\"langen\" Meldung."

#, fuzzy, c-format
msgid "This one is only guessed."
msgstr "Das hier ist nur geraten."

#, c-format
msgid "There is still one file."
msgid_plural "There are still %d files."
msgstr[0] "Es gibt noch eine Datei."
msgstr[1] "Es gibt noch %d Dateien."

#~ msgid "This one is long gone."
#~ msgstr "Das hier ist lange fort."

msgid "This comes at the end."
msgstr "Das kommt ganz am Ende."'''
PO_PAIRS = {
    'The first line of a "long" message.': 'Die erste Zeile einer "langen" Meldung.',
    "There is still one file.": "Es gibt noch eine Datei.",
    "This comes at the end.": "Das kommt ganz am Ende.",
}


def test_source_catalogues_are_read_without_guesses_and_leftovers(tmp_path):
    (tmp_path / "toy.po").write_text(PO, encoding="utf-8")
    pairs = po_pairs(tmp_path, "de")
    assert dict(zip(pairs.sources, pairs.targets, strict=True)) == PO_PAIRS


def test_what_gettext_compiles_has_the_same_pairs(tmp_path):
    if shutil.which("msgfmt") is None:
        pytest.skip("needs msgfmt: apt-get install gettext")
    (tmp_path / "toy.po").write_text(PO, encoding="utf-8")
    subprocess.run(["msgfmt", "toy.po", "-o", "toy.mo"], cwd=tmp_path, check=True)
    pairs = mo_pairs(tmp_path, "de")
    assert dict(zip(pairs.sources, pairs.targets, strict=True)) == PO_PAIRS


def test_a_catalogue_cut_anywhere_is_refused_or_ends_early_in_nothing(tmp_path):
    whole = compiled({"": "x", "One message of four words": "Eine Meldung aus vier Wörtern"})
    file = tmp_path / "toy.mo"
    for cut in range(len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(UnreadableText, match=r"toy\.mo"):
            mo_pairs(tmp_path, "de")


def test_counts_that_lie_and_foreign_encodings_are_refused(tmp_path):
    whole = compiled(MESSAGES)
    file = tmp_path / "toy.mo"
    file.write_bytes(whole[:8] + b"\xff\xff\xff\x7f" + whole[12:])
    with pytest.raises(UnreadableText, match=r"toy\.mo"):
        mo_pairs(tmp_path, "de")
    file.write_bytes(whole.replace("öffnen".encode(), "\xf6ffnen ".encode("latin-1")))
    with pytest.raises(UnreadableText, match=r"toy\.mo is damaged, or not UTF-8"):
        mo_pairs(tmp_path, "de")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('msgid "a"\nmsgid "b"\n', "line 2: a second msgid"),
        ('msgid "a"\nmsgstr "b\n', "line 2"),
        ('msgid "a\\"\n', "line 1"),
        ('"a"\n', "line 1"),
        ("hello\n", "line 1: 'hello' is no line"),
        ('msgid "a"\n"b" "c"x"\n', "line 2"),
    ],
)
def test_a_broken_source_catalogue_names_the_line(content, said, tmp_path):
    (tmp_path / "toy.po").write_text(content)
    with pytest.raises(UnreadableText, match=rf"toy\.po, {said}"):
        po_pairs(tmp_path, "de")


def test_a_folder_without_catalogues_is_refused(tmp_path):
    with pytest.raises(UnreadableText, match=r"no catalogue \(\*\.mo\)"):
        mo_pairs(tmp_path, "de")
    with pytest.raises(UnreadableText, match=r"no catalogue \(\*\.po\)"):
        po_pairs(tmp_path, "de")
