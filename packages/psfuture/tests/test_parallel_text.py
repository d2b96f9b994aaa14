import hypothesis.strategies as st
import pytest
from hypothesis import given

from lipogram.errors import InvalidSetting
from psfuture.parallel_text import SentencePairs, UnreadableText, file_pairs, read_lines

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), max_size=12)


def numbered(count: int, *, per_page: int | None = None) -> SentencePairs:
    return SentencePairs(
        "toy",
        "en",
        "de",
        tuple(f"source {n}" for n in range(count)),
        tuple(f"target {n}" for n in range(count)),
        tuple(f"page {n // per_page}" for n in range(count)) if per_page else (),
    )


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6),
    documents=st.booleans(),
    target=st.sampled_from(["de", "pt-br", "zh_TW", "und"]),
)
def test_what_is_written_is_read_again(rows, documents, target, tmp_path_factory):
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    pairs = SentencePairs("toy", "en", target, *columns[: 3 if documents and rows else 2])
    path = tmp_path_factory.mktemp("tsv") / "toy.tsv"
    pairs.write(path)
    assert SentencePairs.read(path) == pairs


def test_the_file_is_plain_text_that_others_can_read(tmp_path):
    numbered(2, per_page=1).write(tmp_path / "toy.tsv")
    assert (tmp_path / "toy.tsv").read_text() == (
        "en\tde\tdocument\nsource 0\ttarget 0\tpage 0\nsource 1\ttarget 1\tpage 1\n"
    )


@pytest.mark.parametrize("mark", ["\t", "\n", "\r"])
def test_a_sentence_that_no_line_can_hold_is_refused_and_the_file_untouched(mark, tmp_path):
    path = tmp_path / "toy.tsv"
    path.write_text("before")
    broken = SentencePairs("toy", "en", "de", ("fine", f"bro{mark}ken"), ("gut", "kaputt"))
    with pytest.raises(InvalidSetting, match="pair 2 of toy"):
        broken.write(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"first line.*''"),
        (b"A sentence.\tEin Satz.\n", "first line.*'A sentence"),
        (b"en\n", "first line"),
        (b"en\tde\none\teins\ntwo\n", "line 3: 1 cells, but the first line has 2"),
        (b"en\tde\none\teins\tpage\n", "line 2: 3 cells"),
        (b"en\tde\none\teins\ntwo\tzw\xe9i\n", r"line 3: byte 7 is no UTF-8 \(0xe9\)"),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_line(content, said, tmp_path):
    (tmp_path / "toy.tsv").write_bytes(content)
    with pytest.raises(UnreadableText, match=rf"toy\.tsv.*{said}"):
        SentencePairs.read(tmp_path / "toy.tsv")


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidSetting, match="2 sources, 1 targets"):
        SentencePairs("toy", "en", "de", ("a", "b"), ("c",))
    with pytest.raises(InvalidSetting, match="1 documents"):
        SentencePairs("toy", "en", "de", ("a", "b"), ("c", "d"), ("e",))


@given(
    seed=st.integers(0, 50), share=st.floats(0.01, 0.99), per_page=st.sampled_from([None, 1, 3, 40])
)
def test_a_split_loses_nothing_and_cuts_no_document(seed, share, per_page):
    pairs = numbered(40, per_page=per_page)
    first, second = pairs.split(share, seed=seed)
    assert sorted(first.sources + second.sources) == sorted(pairs.sources)
    assert not set(first.documents) & set(second.documents)
    for part in (first, second):
        places = [pairs.sources.index(source) for source in part.sources]
        assert places == sorted(places)
        assert all(s.split()[1] == t.split()[1] for s, t in zip(part.sources, part.targets))  # noqa: B905
    assert pairs.split(share, seed=seed) == (first, second)


def test_a_split_has_the_share_it_was_asked_for_and_another_with_another_seed():
    pairs = numbered(4000, per_page=1)
    first, _ = pairs.split(0.25)
    assert 900 < len(first) < 1100
    assert first != pairs.split(0.25, seed=1)[0]


def test_where_a_document_goes_hangs_on_no_other_document():
    few, many = numbered(30, per_page=3), numbered(300, per_page=3)
    (first, _), (all_first, _) = few.split(0.5), many.split(0.5)
    assert set(first.documents) == set(all_first.documents) & set(few.documents)
    # Written down once: a change here changes every split that figures were made with.
    assert sorted(set(first.documents)) == FIRST


FIRST = ["page 0", "page 5", "page 6", "page 7", "page 8"]


def test_without_documents_the_same_source_is_never_in_both_parts():
    pairs = SentencePairs("toy", "en", "de", ("a", "b", "c", "d") * 9, ("e",) * 36)
    for seed in range(8):
        first, second = pairs.split(0.5, seed=seed)
        assert not set(first.sources) & set(second.sources)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(InvalidSetting, match=rf"share is {share}"):
        numbered(3).split(share)


def test_a_larger_sample_holds_the_smaller_ones():
    pairs = numbered(50)
    small, large = pairs.sample(10), pairs.sample(30)
    assert len(small) == 10
    assert set(small.sources) < set(large.sources)
    assert list(small.sources) == sorted(small.sources, key=pairs.sources.index)
    assert pairs.sample(99) == pairs
    assert small != pairs.sample(10, seed=1)


def test_words_are_counted_in_the_source():
    pairs = SentencePairs("toy", "en", "de", ("a b", "a b c", "a b c d"), ("x", "y", "z"))
    assert pairs.with_words(3, 3).targets == ("y",)


def test_two_files_are_paired_line_by_line(tmp_path):
    (tmp_path / "toy.en").write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nThree\xe2\x80\xa8here.")
    (tmp_path / "toy.de").write_bytes(b"Eins.\n\nDrei\x0chier.\n")
    pairs = file_pairs(tmp_path / "toy.en", tmp_path / "toy.de", languages=("en", "de"))
    assert pairs.sources == ("One.", "", "Three\u2028here.")
    assert pairs.targets == ("Eins.", "", "Drei\x0chier.")
    assert (pairs.name, pairs.source_language, pairs.target_language) == ("toy", "en", "de")


def test_files_of_different_lengths_are_refused_with_both_counts(tmp_path):
    (tmp_path / "toy.en").write_text("a\nb\nc\n")
    (tmp_path / "toy.de").write_text("a\nb\n")
    with pytest.raises(UnreadableText, match=r"toy\.en has 3 lines and .*toy\.de has 2"):
        file_pairs(tmp_path / "toy.en", tmp_path / "toy.de")


def test_bytes_that_are_no_utf8_name_file_and_line_and_a_missing_file_itself(tmp_path):
    (tmp_path / "toy.en").write_bytes(b"fine\nfine\nna\xefve\n")
    with pytest.raises(UnreadableText, match=r"toy\.en, line 3: byte 3"):
        read_lines(tmp_path / "toy.en")
    with pytest.raises(UnreadableText, match=r"none\.en cannot be read"):
        read_lines(tmp_path / "none.en")
