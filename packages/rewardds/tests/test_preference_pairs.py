"""Which pairs a record gives, what the generator learns of it, and that both are its own."""

import pytest

from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import byte_tokenizer
from rewardds.generation_proxy import generation_rows
from rewardds.preference_pairs import better, preference_rows
from rewardds.privacy_units import Unit, privacy_units
from rewardds.prompts import Prompts, prompt_text, sequence
from rewardds.records import PrivateRecords, Record

TOKENIZER = byte_tokenizer()
PROMPTS = Prompts.of_domain("birds")
RECORDS = [Record(f"r{i}", f"Question {i}?", f"Answer {i}.") for i in range(6)]
UNITS = [Unit(record.id, (record,)) for record in RECORDS]
KEY = b"0123456789abcdef"


def answers(*sources):
    return {s: {record.id: f"{s} {record.id}" for record in RECORDS} for s in sources}


def text(found, scored_only=False):
    return TOKENIZER.decode(
        [i for i, s in zip(found.ids, found.scored, strict=True) if s or not scored_only]
    )


def told(row):
    """The pairs of a row, by the answers' texts."""
    said = [text(found, scored_only=True).removesuffix("</s>") for found in row.sequences]
    return {(said[a], said[b]) for a, b in row.pairs}


def test_the_papers_sources_give_its_five_pairs():
    made = preference_rows(UNITS, answers("init", "dp", "sft"), TOKENIZER, PROMPTS, max_length=512)
    own = "Answer 0."
    assert told(made.rows[0]) == {
        (own, "init r0"),
        (own, "sft r0"),
        (own, "dp r0"),
        ("sft r0", "init r0"),
        ("dp r0", "init r0"),
    }
    assert [row.id for row in made.rows] == [record.id for record in RECORDS]
    assert made.cut == made.unscored == 0


def test_without_the_nonprivate_one_three_and_more_are_left():
    made = preference_rows(UNITS, answers("init", "dp"), TOKENIZER, PROMPTS, max_length=512)
    assert told(made.rows[0]) == {
        ("Answer 0.", "init r0"),
        ("Answer 0.", "dp r0"),
        ("dp r0", "init r0"),
    }
    more = answers("init", "dp", "dp_early", "fewshot", "corrupt", "offtopic")
    row = preference_rows(UNITS, more, TOKENIZER, PROMPTS, max_length=512).rows[0]
    assert len(row.pairs) == 6 + 3  # the own over all, dp over init, dp_early, fewshot
    assert not better("corrupt", "init")
    assert not better("init", "corrupt")
    assert better("own", "offtopic")


def test_the_own_answer_to_a_foreign_question_is_the_worse_one():
    asked = {"offquestion": {record.id: "Another?" for record in RECORDS}}
    row = preference_rows(UNITS, asked, TOKENIZER, PROMPTS, max_length=512).rows[4]
    assert row.pairs == [(0, 1)]
    chosen, rejected = (text(found) for found in row.sequences)
    assert "Question 4?" in chosen
    assert "Another?" in rejected
    assert "Answer 4." in chosen
    assert "Answer 4." in rejected


def test_equal_answers_make_no_pair_and_the_row_stays():
    found = answers("init", "dp")
    found["dp"]["r0"] = "Answer 0."
    found["init"]["r1"] = found["dp"]["r1"] = "Answer 1."
    rows = preference_rows(UNITS, found, TOKENIZER, PROMPTS, max_length=512)
    assert told(rows.rows[0]) == {("Answer 0.", "init r0")}
    assert rows.rows[1].pairs == []
    assert len(rows.rows[1].sequences) == 1
    assert rows.unscored == 1
    assert len(rows.rows) == 6


def test_the_judge_reads_question_and_answer():
    row = preference_rows(UNITS, answers("init"), TOKENIZER, PROMPTS, max_length=512).rows[2]
    read = text(row.sequences[0])
    for part in ("Judge the quality", "birds", "Question 2?", "Answer 2."):
        assert part in read


def test_long_sequences_lose_their_end_and_are_counted():
    made = preference_rows(UNITS, answers("init"), TOKENIZER, PROMPTS, max_length=30)
    assert made.cut == 12
    assert all(len(s.ids) == 30 for row in made.rows for s in row.sequences)
    made = generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=30)
    assert made.cut == 12
    assert made.unscored == 6
    assert len(made.rows) == 6


@pytest.mark.parametrize("name", ["gpt", "own"])
def test_sources_that_are_none(name):
    with pytest.raises(InvalidSetting, match=name):
        preference_rows(UNITS, answers(name), TOKENIZER, PROMPTS, max_length=512)


def test_the_generator_learns_to_answer_and_to_ask():
    made = generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=512)
    answer, question = made.rows[3].sequences
    assert text(answer, scored_only=True) == "Answer 3.</s>"
    assert "Question 3?" in text(answer)
    assert text(question, scored_only=True) == "Question 3?</s>"
    assert "Write one new question about birds." in text(question)
    assert "Answer 3." not in text(question)
    (only,) = (
        generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=512, tasks=("answer",))
        .rows[3]
        .sequences
    )
    assert only == answer
    for turns in (PROMPTS.answer_turns("Question 3?"), PROMPTS.question_turns()):
        asked = prompt_text(TOKENIZER, turns)  # what is sampled from begins as what was trained on
        assert text(answer).startswith(asked) or text(question).startswith(asked)


def test_what_is_made_of_a_record_is_its_own():
    seeds = [f"Seed {i}?" for i in range(5)]
    whole = generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=512, seeds=seeds).rows
    rest = [Record(f"r{i}", r.instruction, r.response) for i, r in enumerate(RECORDS[1:])]
    units = [Unit(record.id, (record,)) for record in rest]  # numbered anew without the first
    part = generation_rows(units, TOKENIZER, PROMPTS, max_length=512, seeds=seeds).rows
    assert [row.sequences for row in part] == [row.sequences for row in whole[1:]]
    shown = {text(row.sequences[1]).count("Seed") for row in whole}
    assert shown == {2}
    assert len({text(row.sequences[1]).partition("Question")[0] for row in whole}) > 1


def test_bad_tasks_and_lengths():
    for tasks in ((), ("answer", "answer"), ("judge",)):
        with pytest.raises(InvalidSetting, match="each once"):
            generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=64, tasks=tasks)
    with pytest.raises(InvalidSetting, match="max_length is 1"):
        generation_rows(UNITS, TOKENIZER, PROMPTS, max_length=1)
    with pytest.raises(InvalidSetting, match="no name"):
        Prompts.of_domain(" ")
    with pytest.raises(InvalidSetting, match="request"):
        Prompts(question="")


def test_a_persons_records_are_one_unit():
    groups = ["eve", "", "eve", "", "eve", "bob"]
    records = [Record(f"{i}", f"q{i}", "a", group) for i, group in enumerate(groups)]
    records[3] = Record("eve", "q3", "a")  # an id like a group's name
    units = privacy_units(PrivateRecords(records, KEY), "group", per_group=2)
    assert [[record.id for record in unit.records] for unit in units.units] == [
        ["0", "2"],
        ["1"],
        ["eve"],
        ["5"],
    ]
    assert units.left_out == 1
    assert "q0" not in repr(units)
    alone = privacy_units(PrivateRecords(records, KEY), "record")
    assert len(alone) == 6
    rows = generation_rows(units.units, TOKENIZER, PROMPTS, max_length=512).rows
    assert [len(row.sequences) for row in rows] == [4, 2, 2, 2]
    weak = {"init": {record.id: "w" for record in records}}
    pairs = preference_rows(units.units, weak, TOKENIZER, PROMPTS, max_length=512).rows
    assert pairs[0].pairs == [(0, 1), (2, 3)]
    for kind, per_group in (("person", 1), ("group", 0)):
        with pytest.raises(InvalidSetting):
            privacy_units(PrivateRecords(records, KEY), kind, per_group=per_group)


def test_a_template_that_adds_a_system_message_is_kept_from_it():
    talkative = byte_tokenizer()
    talkative.chat_template = (
        "{% if messages[0]['role'] != 'system' %}{{ 'You are helpful.' }}{% endif %}"
        + talkative.chat_template
    )
    asked = prompt_text(talkative, PROMPTS.question_turns())
    found, _ = sequence(talkative, PROMPTS.question_turns("q"), 512)
    assert "helpful" not in asked + text(found)
    assert text(found).startswith(asked)


def test_no_system_message_is_the_templates_own():
    bare = Prompts(answer="", judge="")
    assert [turn["role"] for turn in bare.judged_turns("q", "a")] == ["user", "assistant"]
    found, cut = sequence(TOKENIZER, bare.answer_turns("q", "a"), 512)
    assert cut == 0
    assert text(found) == prompt_text(TOKENIZER, bare.answer_turns("q")) + "a</s>\n"
