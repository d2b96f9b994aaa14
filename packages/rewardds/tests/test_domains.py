"""The three domains are read from the published layout, with what is in both halves found."""

import json
from pathlib import Path

import pytest

from lipogram.errors import InvalidSetting, MissingAsset
from rewardds.domains import read_domain
from rewardds.errors import InvalidRecords, PrivateObject
from rewardds.records import PrivateRecords
from rewardds.taint import ReleaseGate

KEY = b"0123456789abcdef"
SAME = "Answer the question below."
MEDICAL = {
    "train": [
        {"instruction": SAME, "input": "Why do I sneeze?", "output": "Dust."},
        {"instruction": SAME, "input": "Is tea good?", "output": "Yes."},
    ],
    "test": [
        {"instruction": SAME, "input": "why do I SNEEZE", "output": "Pollen."},
        {"instruction": SAME, "input": "A cold foot?", "output": "A sock."},
    ],
    "dev": [{"instruction": SAME, "input": "Tired?", "output": "Sleep."}],
}


def task(instruction, name, tests):
    return {
        "seq_id": 7,
        "instruction": instruction,
        "output": f"```python\ndef {name}(x):\n    return x\n```",
        "code": f"def {name}(x):\n    return x\n",
        "entry_point": name,
        "testcase": tests,
    }


CODE = {
    "train": [task("Return the number.", "same", ["assert same(1) == 1"])],
    "test": [
        task("Return the number!", "identity", ["assert identity(2) == 2"]),
        task("Add nothing.", "keep", str(["assert keep(3) == 3", 'assert keep("a") == "a"'])),
    ],
}


def write(folder, halves, ending=".json"):
    folder.mkdir(parents=True, exist_ok=True)
    for half, rows in halves.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{half}{ending}").write_text(lines, "utf-8")
    return folder


def test_questions_answers_and_what_is_in_both_halves(tmp_path):
    write(tmp_path / "Medical_QA", MEDICAL)
    for folder in (tmp_path, tmp_path / "Medical_QA"):
        data = read_domain("medical", folder, key=KEY)
        assert [record.id for record in data.train] == ["medical-train-0", "medical-train-1"]
        assert (data.train[0].instruction, data.train[0].response) == ("Why do I sneeze?", "Dust.")
        assert data.overlap == {"medical-test-0"}
        assert isinstance(data.train, PrivateRecords)
        assert isinstance(data.test, PrivateRecords)
        assert data.dev is not None
        assert len(data.dev) == 1
        assert data.asserts == {}
    assert "sneeze" not in f"{data!r} {data.train[0]!r}"
    assert "medicine" in data.prompts.answer


def test_files_named_after_the_domain_and_arrays_do_as_well(tmp_path):
    named = {f"financial_qa_{half}": rows for half, rows in MEDICAL.items()}
    write(tmp_path, named, ".jsonl")
    (tmp_path / "financial_qa_dev.jsonl").unlink()
    (tmp_path / "financial_qa_test.jsonl").unlink()
    (tmp_path / "test.json").write_text(json.dumps(MEDICAL["test"]), "utf-8")
    data = read_domain("financial", tmp_path, key=KEY)
    assert (len(data.train), len(data.test), data.dev) == (2, 2, None)
    assert data.overlap == {"financial-test-0"}


def test_a_task_says_its_functions_name_and_has_its_assertions(tmp_path):
    data = read_domain("code", write(tmp_path, CODE), key=KEY)
    assert data.train[0].instruction == "Return the number.\nThe function must be called same."
    assert data.asserts == {
        "code-test-0": ("assert identity(2) == 2",),
        "code-test-1": ("assert keep(3) == 3", 'assert keep("a") == "a"'),
    }
    # The name that is added does not hide that the task is the same.
    assert data.overlap == {"code-test-0"}


def test_a_domain_passes_no_gate(tmp_path):
    data = read_domain("medical", write(tmp_path, MEDICAL), key=KEY)
    with pytest.raises(PrivateObject):
        ReleaseGate().admit("sample", seeds=data)


def test_the_text_of_a_list_is_read_and_never_run(tmp_path):
    mark = tmp_path / "ran"
    text = f"[str(__import__('os').mkdir({str(mark)!r}))]"
    write(tmp_path, {**CODE, "test": [task("Add nothing.", "keep", text)]})
    with pytest.raises(InvalidRecords, match="'testcase'"):
        read_domain("code", tmp_path, key=KEY)
    assert not mark.exists()


SECRET = "the quiet heron"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"output": None}, "'output'"),
        ({"output": " "}, "'output'"),
        ({"instruction": 3}, "'instruction'"),
        ({"testcase": f"[{SECRET}"}, "'testcase'"),
        ({"testcase": []}, "'testcase'"),
        ({"testcase": [1]}, "'testcase'"),
        ({"testcase": "(" * 5000 + SECRET}, "'testcase'"),
        ({"entry_point": 5}, "'entry_point'"),
    ],
)
def test_a_bad_row_is_told_by_line_and_column_and_not_by_its_text(tmp_path, changed, said):
    bad = {**CODE["test"][0], "instruction": SECRET, **changed}
    write(tmp_path, {**CODE, "test": [CODE["test"][1], bad]})
    with pytest.raises(InvalidRecords, match=rf"test\.json, line 2.*{said}") as caught:
        read_domain("code", tmp_path, key=KEY)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("line", ["{" + SECRET, "[" * 100000, '"' + SECRET + '"', "3"])
def test_a_bad_line_is_told_by_its_number(tmp_path, line):
    write(tmp_path, MEDICAL)
    with open(tmp_path / "train.json", "a", encoding="utf-8") as file:
        file.write("\n" + line + "\n")
    with pytest.raises(InvalidRecords, match=r"train\.json, line 4") as caught:
        read_domain("medical", tmp_path, key=KEY)
    assert SECRET not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidSetting, match=r"law.*medical, financial, code"):
        read_domain("law", tmp_path, key=KEY)
    with pytest.raises(MissingAsset, match=r"train\.json.*Code_Generation"):
        read_domain("code", tmp_path, key=KEY)
    write(tmp_path, {"train": CODE["train"]})
    with pytest.raises(MissingAsset, match=r"test\.json"):
        read_domain("code", tmp_path, key=KEY)


REAL = Path(__file__).parents[4] / "shared" / "data" / "rewardds"


@pytest.mark.skipif(not REAL.is_dir(), reason="the authors' files are not here")
@pytest.mark.filterwarnings("ignore::rewardds.errors.RepeatedRecords")
@pytest.mark.parametrize(("name", "least"), [("medical", 0), ("financial", 100), ("code", 40)])
def test_the_authors_files_are_read(name, least):
    data = read_domain(name, REAL, key=KEY)
    assert len(data.train) > 700
    assert len(data.test) > 500
    assert data.dev is not None
    assert least <= len(data.overlap) < len(data.test) / 4
    assert len(data.asserts) == (len(data.test) if name == "code" else 0)
