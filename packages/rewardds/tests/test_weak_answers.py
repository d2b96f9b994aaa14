"""Weak answers are functions of their own record, and are not made twice."""

import json
import os

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.llm import generate, tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds import weak_answers
from rewardds.errors import UnsafeSetting
from rewardds.prompts import Prompts, prompt_text
from rewardds.records import PublicRecords, Record
from rewardds.weak_answers import WeakAnswers, adapter_at, check_sources, corrupted

PUBLIC = PublicRecords([Record(f"p{i}", f"Public {i}?", f"Answer {i}.") for i in range(5)])
RECORDS = [Record(f"r{i}", f"Question {i}?", f"It is {i}, and so on.") for i in range(5)]


@pytest.fixture(scope="module")
def loaded():
    loaded = tiny_random("llama", layers=1, width=16)
    loaded.model = prepare_lora(loaded.model, lora_config(loaded.model, r=2), checkpointing=False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, generator=generator)
    return loaded


def maker(loaded, **settings):
    return WeakAnswers(loaded.tokenizer, Prompts(), **({"max_new_tokens": 6} | settings))


def test_what_is_left_out_does_not_change_the_others(loaded):
    make = maker(loaded, examples=PUBLIC, batch_size=1)
    for source in ("dp", "dp_early", "fewshot", "corrupt", "offtopic", "offquestion"):
        whole = make.of(RECORDS, source, loaded.model)
        assert list(whole) == [record.id for record in RECORDS]
        renamed = [Record(f"x{i}", r.instruction, r.response) for i, r in enumerate(RECORDS[1:])]
        assert list(make.of(renamed, source, loaded.model).values()) == [*whole.values()][1:]


def test_an_answer_off_the_topic_is_another_one_where_there_is_another(loaded):
    labels = PublicRecords([Record("0", "", "no"), Record("1", "", "yes")])
    told = [Record(str(i), f"Is {i} even?", ("yes", "no")[i % 2]) for i in range(20)]
    found = maker(loaded, examples=labels).of(told, "offtopic")
    assert [found[record.id] for record in told] == ["no", "yes"] * 10
    found = maker(loaded, examples=labels[:1]).of(told, "offtopic")
    assert set(found.values()) == {"no"}


def test_models_answer_greedily_as_they_are_asked(loaded):
    make = maker(loaded, examples=PUBLIC)
    found = make.of(RECORDS, "dp", loaded.model)
    for record in RECORDS:
        text = prompt_text(loaded.tokenizer, Prompts().answer_turns(record.instruction))
        (alone,) = generate(
            loaded.model, loaded.tokenizer, [text], max_new_tokens=6, add_special_tokens=False
        )
        assert found[record.id] == alone.text.strip()
    assert make.of(RECORDS, "dp_early", loaded.model) != found  # another strength
    assert make.of(RECORDS, "fewshot", loaded.model) != make.of(RECORDS, "init", loaded.model)


def test_half_strength_is_half_of_the_difference(loaded):
    layer = loaded.model.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 16)
    with torch.no_grad():
        full, base = layer(x), layer.base_layer(x)
        with adapter_at(loaded.model, 0.5):
            half = layer(x)
        with pytest.raises(KeyboardInterrupt), adapter_at(loaded.model, 0.5):
            raise KeyboardInterrupt
        torch.testing.assert_close(half, (full + base) / 2)
        assert torch.equal(layer(x), full)
    plain = tiny_random("llama", layers=1, width=16).model
    with pytest.raises(InvalidSetting, match="no adapter"), adapter_at(plain, 0.5):
        pass


def test_chunks_on_disk_are_not_made_again(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(weak_answers, "CHUNK", 2)
    folder = tmp_path / "answers"
    first = maker(loaded, folder=folder).of(RECORDS, "dp", loaded.model)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["dp-0000000.json", "dp-0000002.json", "dp-0000004.json"]
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    (folder / names[1]).unlink()
    (folder / names[0]).write_text(json.dumps(["kept", "too"]))
    again = maker(loaded, folder=folder).of(RECORDS, "dp", loaded.model)
    assert [*again.values()] == ["kept", "too", *[*first.values()][2:]]
    for content in ('["one"]', "[1, 2]", '{"a": 1', "{}"):
        (folder / names[0]).write_text(content)
        with pytest.raises(CorruptState, match=r"dp-0000000\.json"):
            maker(loaded, folder=folder).of(RECORDS, "dp", loaded.model)


def test_a_prompt_that_is_too_long_loses_its_beginning(loaded):
    make = maker(loaded)
    long = Record("l", "word " * 200, "x")
    found = make.of([long], "dp", loaded.model)
    assert make.cut == 1
    text = prompt_text(loaded.tokenizer, Prompts().answer_turns(long.instruction))
    end = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][-(512 - 6) :]
    (alone,) = generate(loaded.model, loaded.tokenizer, [end], max_new_tokens=6)
    assert found == {"l": alone.text.strip()}
    with pytest.raises(InvalidSetting, match="no room"):
        maker(loaded, max_new_tokens=512).of([long], "dp", loaded.model)


@pytest.mark.parametrize(
    "text", ["It is 42 km from here to there, more or less.", "a b c", "Paris"]
)
def test_spoilt_answers_differ_and_are_of_the_record_alone(text):
    kinds = set()
    for i in range(60):
        record = Record("a", f"q{i}", text)
        spoilt = corrupted(record)
        assert spoilt.split() != text.split()
        assert spoilt
        assert spoilt == corrupted(Record("b", f"q{i}", text, "someone"))
        kinds.add(spoilt)
    assert len(kinds) > 1 or " " not in text


def test_a_foreign_question_is_public_and_never_the_own_one():
    make = WeakAnswers(None, Prompts(), examples=PUBLIC)
    asked = [Record(f"r{i}", f"Public {i % 6}?", f"{i}") for i in range(40)]
    found = make.of(asked, "offquestion")
    assert set(found.values()) == {record.instruction for record in PUBLIC}
    assert all(found[record.id] != record.instruction for record in asked)


def test_an_answer_of_nothing_cannot_be_spoilt():
    assert corrupted(Record("a", "q", "")) == ""
    assert corrupted(Record("a", "q", "x")) == ""


def test_sources_that_would_not_work_or_not_be_private():
    with pytest.raises(UnsafeSetting, match="epsilon is infinite"):
        check_sources(("init", "sft"), examples=None, allow_nonprivate=False)
    check_sources(("init", "sft"), examples=None, allow_nonprivate=True)
    for sources in ((), ("own",), ("init", "init")):
        with pytest.raises(InvalidSetting, match="each once"):
            check_sources(sources, examples=PUBLIC, allow_nonprivate=False)
    silent = PublicRecords([Record("p", "q", "")])
    for examples in (None, silent):
        with pytest.raises(InvalidSetting, match="'fewshot' needs public records"):
            check_sources(("fewshot",), examples=examples, allow_nonprivate=False)
    one = PublicRecords([Record("p", "q", "a"), Record("r", "", "a"), Record("s", "q", "b")])
    with pytest.raises(InvalidSetting, match="two questions"):
        check_sources(("offquestion",), examples=one, allow_nonprivate=False)
    with pytest.raises(InvalidSetting, match="'dp' needs the model"):
        WeakAnswers(None, Prompts()).of(RECORDS, "dp")
