import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn import records
from ftunlearn.probes import GROUPS, Probe, ProbeSet
from lipogram.errors import InvalidProbes, MissingAsset

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
a_probe = st.builds(
    Probe,
    id=text,
    prompt=text,
    answer=st.none() | text,
    paraphrases=st.lists(text, max_size=2).map(tuple),
    group=st.sampled_from(GROUPS),
    paraphrased_answer=st.none() | text,
    perturbed_answers=st.lists(text, max_size=2).map(tuple),
)


@pytest.fixture
def read(tmp_path):
    def read(content, **how):
        path = tmp_path / "probes.jsonl"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ProbeSet.from_jsonl(path, **how)

    return read


def test_fields_of_the_file_reach_the_probe(read):
    probes = read(
        '{"id": "a", "prompt": "2 + 2 =", "answer": " 4", "paraphrases": ["two and two is"],'
        ' "group": "retain", "note": "ignored"}\n'
        '{"prompt": "Sky?"}\n'
        '{"id": 7, "prompt": "Grass?", "answer": null, "paraphrases": null}\n'
    )
    assert list(probes) == [
        Probe("a", "2 + 2 =", " 4", ("two and two is",), "retain"),
        Probe("line-2", "Sky?"),
        Probe("7", "Grass?"),
    ]
    assert probes.problems == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "bad", "prompt": ""}', "empty prompt"),
        ('{"id": "bad", "prompt": " \\n"}', "empty prompt"),
        ('{"id": "bad"}', "empty prompt"),
        ('{"id": "bad", "prompt": "p", "answer": ""}', "empty answer"),
        ('{"id": "bad", "prompt": "p", "answer": 4}', "answer is a int, not text"),
        ('{"id": "bad", "prompt": ["p"]}', "prompt is a list, not text"),
        ('{"id": "bad", "prompt": "p", "paraphrases": "one"}', "paraphrases is a str"),
        ('{"id": "bad", "prompt": "p", "paraphrases": [1]}', "paraphrases is a int"),
        ('{"id": "bad", "prompt": "p", "paraphrases": [""]}', "empty paraphrases"),
        ('{"id": "bad", "prompt": "p", "group": "lost"}', "unknown group 'lost'"),
        ('{"id": "bad", "prompt": "p", "group": ["forget"]}', "unknown group"),
        ('{"id": "bad", "prompt": "\\ud800"}', "not valid Unicode"),
        ('{"id": "good", "prompt": "p"}', "'good': this id was there before"),
        ('{"id": ["bad"], "prompt": "p"}', "id is a list"),
        ('["bad"]', "a list, where an object is needed"),
        ("{bad", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"id": "bad", "n": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_bad_item_is_named_and_the_others_go_on(read, line, reason):
    content = f'{{"id": "good", "prompt": "p"}}\n\n{line}\n{{"id": "last", "prompt": "q"}}\n'
    probes = read(content)
    assert [probe.id for probe in probes] == ["good", "last"]
    (problem,) = probes.problems
    assert problem.startswith("probes.jsonl, line 3")
    assert reason in problem
    if '"bad"' in line and line[0] == "{":
        assert "bad" in problem or "not JSON" in problem
    with pytest.raises(InvalidProbes, match=r"probes\.jsonl, line 3"):
        read(content, strict=True)


def test_a_line_that_is_not_utf8_is_one_problem(read):
    probes = read(b'{"id": "a", "prompt": "p"}\n{"id": "b", "prompt": "\xff"}\n')
    assert [probe.id for probe in probes] == ["a"]
    assert probes.problems == ("probes.jsonl, line 2: not UTF-8",)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_make_no_difference(read, end, bom):
    lines = ['{"id": "a", "prompt": "Où?", "answer": " là"}', '{"id": "b", "prompt": "東京"}']
    probes = read(bom + end.join(lines).encode())
    assert list(probes) == [Probe("a", "Où?", " là"), Probe("b", "東京")]


def test_an_array_is_read_like_lines(read):
    probes = read('\n[{"id": "a", "prompt": "p"}, 3]')
    assert list(probes) == [Probe("a", "p")]
    assert probes.problems == ("probes.jsonl, item 2: a int, where an object is needed",)
    with pytest.raises(InvalidProbes, match="not a JSON array"):
        read('[{"id": "a", "prompt": "p"}')


def test_a_huge_line_is_left_out_without_being_held(read, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE", 64)
    huge = json.dumps({"id": "huge", "prompt": "x" * 1000})
    probes = read(f'{{"id": "a", "prompt": "p"}}\n{huge}\n{{"id": "b", "prompt": "p"}}\n{huge}')
    assert [probe.id for probe in probes] == ["a", "b"]
    assert [p.split(":")[0] for p in probes.problems] == [
        "probes.jsonl, line 2",
        "probes.jsonl, line 4",
    ]
    assert all("longer than" in problem for problem in probes.problems)


def test_a_line_as_long_as_the_limit_is_read(read, monkeypatch):
    line = '{"id": "a", "prompt": "p"}'
    monkeypatch.setattr(records, "MAX_LINE", len(line) + 1)
    assert len(read(line + "\n" + line.replace("a", "b", 1))) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\n \r\n", "it is empty"),
        (b"\x93NUMPY\x01\x00", "is not text"),
        (b'{"id": "a"}\n', "line 1: probe 'a': empty prompt"),
        (b'{"a\n' * 9, "6 more"),
    ],
)
def test_a_file_without_a_usable_probe_is_refused(read, content, reason):
    with pytest.raises(InvalidProbes, match=reason):
        read(content)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(MissingAsset, match=r"gone\.jsonl"):
        ProbeSet.from_jsonl(tmp_path / "gone.jsonl")
    with pytest.raises(InvalidProbes, match="is a folder"):
        ProbeSet.from_jsonl(tmp_path)


@given(st.lists(a_probe, min_size=1, max_size=5, unique_by=lambda probe: probe.id))
def test_what_is_written_is_read_back(tmp_path_factory, probes):
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    ProbeSet(probes).to_jsonl(path)
    again = ProbeSet.from_jsonl(path, strict=True)
    assert list(again) == probes
    assert again.fingerprint == ProbeSet(probes).fingerprint


def test_the_fingerprint_sees_every_field_and_the_order():
    base = Probe("a", "p", " x", ("q",), "forget", " y", (" z",))
    other = Probe("b", "p")
    fields = {
        "id": "c", "prompt": "r", "answer": None, "paraphrases": (), "group": "retain",
        "paraphrased_answer": None, "perturbed_answers": (),
    }  # fmt: skip
    changed = [ProbeSet([Probe(**{**vars(base), name: value})]) for name, value in fields.items()]
    sets = [ProbeSet([base]), *changed, ProbeSet([base, other]), ProbeSet([other, base])]
    prints = {probes.fingerprint for probes in sets}
    assert len(prints) == len(sets)
    assert ProbeSet([base]).fingerprint == ProbeSet([base], ["a problem"]).fingerprint
    assert all(len(one) == 64 for one in prints)


def test_groups_and_subsets_keep_order():
    probes = ProbeSet(Probe(str(i), "p", group=GROUPS[i % 3]) for i in range(7))
    assert [probe.id for probe in probes.group("retain")] == ["1", "4"]
    assert [probe.id for probe in probes.subset(["5", "0"])] == ["5", "0"]
    assert probes[2:4] == probes.subset(["2", "3"])
    assert probes[-1].id == "6"
    assert list(probes.group("forget") + probes.group("retain")) == [
        *probes.group("forget"),
        *probes.group("retain"),
    ]
    assert repr(probes) == "ProbeSet(3 forget, 2 retain, 2 unrelated)"
    with pytest.raises(InvalidProbes, match="'9'"):
        probes.subset(["9"])
    with pytest.raises(InvalidProbes, match="unknown group"):
        probes.group("lost")
    with pytest.raises(InvalidProbes, match="'0'"):
        ProbeSet([*probes, Probe("0", "p")])


def test_questions_are_put_into_the_template():
    pairs = [("What {is} it?", "An owl"), ("Who?", None)]
    first, second = ProbeSet.from_qa(pairs, group="unrelated")
    assert first == Probe("qa-0", "Question: What {is} it?\nAnswer:", " An owl", (), "unrelated")
    assert second.answer is None
    assert ProbeSet.from_qa([("Who?", "Me")], template="{q} ")[0].answer == "Me"
    assert ProbeSet.from_qa([("Who?", "\tMe")])[0].answer == "\tMe"
    with pytest.raises(InvalidProbes, match=r"no \{q\}"):
        ProbeSet.from_qa(pairs, template="Question:")
    with pytest.raises(InvalidProbes, match="item 0: probe 'qa-0': empty prompt"):
        ProbeSet.from_qa([("  ", "Me")])
    with pytest.raises(InvalidProbes, match="empty answer"):
        ProbeSet.from_qa([("Who?", "")])
