import json
import os
import socket
import subprocess
import sys
import time

import pytest

from lipogram.errors import InvalidSetting, MissingAsset, MissingExtra
from psfuture.parallel_text import UnreadableText
from psfuture.published_text import hub_pairs, sacrebleu_pairs

SOURCES = ["Ein Satz.", "", "Noch einer, „so“."]
TARGETS = ["A sentence.", "", "One more, “so”."]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of one of sacrebleu's test sets, empty."""
    from sacrebleu.dataset import DATASETS

    monkeypatch.setattr(DATASETS["wmt15"], "_outdir", str(tmp_path / "wmt15"))
    monkeypatch.setattr(DATASETS["wmt15"], "_rawdir", str(tmp_path / "wmt15" / "raw"))


def test_a_test_set_that_sacrebleu_has_fetched_is_read_without_a_network(tmp_path):
    """In a process of its own: sacrebleu reads where its folder is when it is imported."""
    from sacrebleu.dataset import DATASETS

    (tmp_path / "wmt15").mkdir()
    columns = {"src": SOURCES, "ref": TARGETS}
    for name in DATASETS["wmt15"].fieldnames("de-en"):  # origin and document of a sentence, too
        text = "".join(f"{line}\n" for line in columns.get(name, ["x", "x", "x"]))
        (tmp_path / "wmt15" / f"wmt15.de-en.{name}").write_text(text, encoding="utf-8")
    code = (
        "import json; from dataclasses import asdict; from psfuture import published_text\n"
        "print(json.dumps(asdict(published_text.sacrebleu_pairs('wmt15', 'de-en'))))"
    )
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SACREBLEU": str(tmp_path), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "name": "wmt15-de-en",
        "source_language": "de",
        "target_language": "en",
        "sources": SOURCES,
        "targets": TARGETS,
        "documents": [],
    }


def test_a_test_set_without_a_network_says_so_at_once_and_what_helps(home, request):
    before = socket.getdefaulttimeout()
    request.addfinalizer(lambda: socket.setdefaulttimeout(before))
    socket.setdefaulttimeout(123)
    started = time.perf_counter()
    with pytest.raises(MissingAsset, match=r"(?s)wmt15 \(de-en\).*sacrebleu -t wmt15 -l de-en"):
        sacrebleu_pairs("wmt15", "de-en")
    assert time.perf_counter() - started < 10
    assert socket.getdefaulttimeout() == 123


def test_where_sacrebleu_would_end_the_program_there_is_an_error(home, monkeypatch):
    from sacrebleu.dataset import base

    def download_file(*_, **__):
        sys.exit(1)

    monkeypatch.setattr(base, "download_file", download_file)
    with pytest.raises(MissingAsset, match="SystemExit"):
        sacrebleu_pairs("wmt15", "de-en")


def test_unknown_test_sets_and_languages_name_the_known_ones():
    with pytest.raises(InvalidSetting, match=r"'wmt151'.*wmt15"):
        sacrebleu_pairs("wmt151", "de-en")
    with pytest.raises(InvalidSetting, match=r"'de-tlh'.*de-en"):
        sacrebleu_pairs("wmt15", "de-tlh")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_folder_with_a_column_for_each_language_is_read(kind, datasets, tmp_path):
    table = datasets.Dataset.from_dict({"en": TARGETS[::2], "de": SOURCES[::2]})
    folder = tmp_path / "toy"
    folder.mkdir()
    getattr(table, f"to_{kind}")(str(folder / f"test.{kind}"))
    pairs = hub_pairs(str(folder), "de", "en")
    assert list(pairs.sources) == SOURCES[::2]
    assert list(pairs.targets) == TARGETS[::2]
    assert (pairs.name, pairs.source_language, pairs.target_language) == ("toy-test", "de", "en")


def lines(folder, rows):
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_a_column_of_translations_is_read(datasets, tmp_path):
    rows = [
        {"id": n, "translation": {"de": a, "en": b}}
        for n, (a, b) in enumerate(zip(SOURCES, TARGETS, strict=True))
    ]
    pairs = hub_pairs(lines(tmp_path / "toy", rows), "en", "de", split="train")
    assert list(pairs.sources) == TARGETS
    assert list(pairs.targets) == SOURCES


def test_columns_that_are_not_there_and_cells_that_are_no_text_are_named(datasets, tmp_path):
    rows = [{"de": "Ein Satz.", "en": "A sentence."}, {"de": "Noch einer.", "en": None}]
    folder = lines(tmp_path / "toy", rows)
    with pytest.raises(InvalidSetting, match=r"no column 'fr'; row 1 has de, en"):
        hub_pairs(folder, "de", "fr", split="train")
    with pytest.raises(UnreadableText, match="row 2: en is None"):
        hub_pairs(folder, "de", "en", split="train")


def test_a_data_set_that_is_nowhere_is_missing_soon(datasets):
    started = time.perf_counter()
    with pytest.raises(MissingAsset, match=r"nobody/has-this \(None, test\)"):
        hub_pairs("nobody/has-this", "de", "en")
    assert time.perf_counter() - started < 20


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="pip install datasets"):
        hub_pairs("nobody/has-this", "de", "en")
