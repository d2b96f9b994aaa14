"""Synthetic rows say where they come from, survive the disk, and refuse what contradicts itself."""

import dataclasses
import json
import math

import pytest

from lipogram.errors import MissingAsset
from rewardds.errors import InvalidRows
from rewardds.synthetic import (
    SyntheticRow,
    as_dataset,
    completion_rows,
    preference_rows,
    read_rows,
    write_rows,
)

PLAIN = SyntheticRow("q1", "What is ü?", ("a letter", "a\u2028line\nend", ""))
RANKED = SyntheticRow("q2", "Q", ("x", "y", "z"), (0.5, -1.0, 2.0), (3.0, 1.5, 9.0), 2, 1, 1, "q0")
ALONE = SyntheticRow("q3", "Q", ("x",), (0.5,), (3.0,), chosen=0)


def test_rows_survive_the_disk(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [PLAIN, RANKED, ALONE, dataclasses.replace(PLAIN, id="q4", candidates=())]
    write_rows(path, rows)
    assert read_rows(path) == rows
    names = [set(json.loads(line)) for line in path.read_bytes().splitlines()]
    assert names == [{field.name for field in dataclasses.fields(SyntheticRow)}] * len(rows)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"id": ""}, "id is empty"),
        ({"question": 3}, "question is a int"),
        ({"question": "half a \ud83d pair"}, "question holds half of a surrogate pair"),
        ({"candidates": ("a", "\ud83d")}, "tuple of texts"),
        ({"candidates": ["a"]}, "tuple of texts"),
        ({"candidates": ("a", 1)}, "tuple of texts"),
        ({"rewards": (1.0,)}, "rewards.* 3 numbers"),
        ({"rewards": (1.0, math.nan, 2.0)}, "rewards has nan"),
        ({"rewards": (1.0, True, 2.0)}, "rewards has True"),
        ({"perplexities": (1.0, 0.0, 2.0)}, "perplexities has 0.0"),
        ({"perplexities": (1.0, math.inf, 2.0)}, "perplexities has inf"),
        ({"chosen": 3}, "chosen is 3.* 3 candidates"),
        ({"chosen": -1}, "chosen is -1"),
        ({"rejected": True}, "rejected is True"),
        ({"chosen": 1, "rejected": 1}, "both chosen and rejected"),
        ({"stage": -1}, "stage is -1"),
        ({"stage": 1.0}, "stage is 1.0"),
        ({"parent": None}, "parent is a NoneType"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(fields, told):
    with pytest.raises(InvalidRows, match=told):
        dataclasses.replace(PLAIN, **fields)


def test_a_refined_row_knows_its_parent_and_keeps_its_root():
    first = PLAIN.refined(["better"])
    second = first.refined(["best", "good"])
    assert (first.id, first.parent, first.stage) == ("q1@1", "q1", 1)
    assert (second.id, second.parent, second.stage) == ("q1@2", "q1@1", 2)
    assert second.question == PLAIN.question
    assert second.candidates == ("best", "good")
    assert (second.rewards, second.chosen, second.rejected) == ((), None, None)
    odd = SyntheticRow("mail@0", "Q", ())  # an id of a row as sampled is never cut
    assert odd.refined(["a"]).id == "mail@0@1"


def test_training_reads_the_chosen_and_the_rejected_answer():
    (row,) = preference_rows([RANKED, ALONE])
    assert row == {
        "prompt": "Q",
        "chosen": "z",
        "rejected": "y",
        "id": "q2",
        "stage": 1,
        "parent": "q0",
        "reward": 2.0,
        "perplexity": 9.0,
    }
    assert [row["completion"] for row in completion_rows([RANKED, ALONE])] == ["z", "x"]
    bare = dataclasses.replace(ALONE, rewards=(), perplexities=())
    assert completion_rows([bare])[0]["reward"] is None


@pytest.mark.parametrize("columns", [preference_rows, completion_rows])
def test_rows_without_a_choice_are_not_trained_on(columns):
    with pytest.raises(InvalidRows, match=r"'q1'.*rank it first"):
        columns([RANKED, PLAIN])


def test_scores_that_are_not_there_are_asked_for():
    row = dataclasses.replace(PLAIN, chosen=0)
    with pytest.raises(InvalidRows, match="'q1' has no rewards: score it"):
        _ = row.reward
    with pytest.raises(InvalidRows, match="'q1' has no perplexities: score it"):
        _ = row.perplexity


def test_rows_become_a_data_set_of_the_hub():
    pytest.importorskip("datasets")
    data = as_dataset(preference_rows([RANKED]))
    assert data.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert data[0] == preference_rows([RANKED])[0]
    with pytest.raises(InvalidRows, match="no rows"):
        as_dataset([])


def test_an_id_names_one_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [PLAIN])
    before = path.read_bytes()
    with pytest.raises(InvalidRows, match="'q1' is there twice"):
        write_rows(path, [PLAIN, PLAIN])
    assert path.read_bytes() == before
    path.write_bytes(before * 2)
    with pytest.raises(InvalidRows, match="'q1' is there twice"):
        read_rows(path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON in UTF-8"),
        (b"[1]", "a list, where an object"),
        (b'{"id": "q"}', "lacks question, candidates"),
        (b'"q"', "a str"),
    ],
)
def test_a_file_of_something_else_is_told_by_its_line(tmp_path, line, told):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [PLAIN])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InvalidRows, match=f"rows.jsonl, line 2.*{told}"):
        read_rows(path)


def test_a_field_of_somebody_else_and_a_broken_field_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    fields = dataclasses.asdict(PLAIN)
    path.write_text(json.dumps(fields | {"secret": 1}))
    with pytest.raises(InvalidRows, match="line 1 has secret"):
        read_rows(path)
    path.write_text(json.dumps(fields | {"chosen": 7}))
    with pytest.raises(InvalidRows, match=r"line 1.*'q1'.*chosen is 7"):
        read_rows(path)
    with pytest.raises(MissingAsset, match=r"absent\.jsonl"):
        read_rows(tmp_path / "absent.jsonl")
