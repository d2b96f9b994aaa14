"""Answers are the frozen model's own, and a file cut anywhere is finished as it was begun."""

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.llm import generate, tiny_random
from privacyrestore.model_answers import answer_pairs
from privacyrestore.training_rows import PromptTemplate, encode_answers

QUESTIONS = [(f"case {i}: mild cough, rash?", f"case {i}: rash?") for i in range(5)]
PLAIN = PromptTemplate("Q: {question}\nA:")


@pytest.mark.parametrize("template", [None, PLAIN])
def test_answers_are_those_of_the_model_to_each_half(tmp_path, template):
    loaded = tiny_random()
    found = answer_pairs(
        loaded.model,
        loaded.tokenizer,
        QUESTIONS,
        tmp_path / "answers.jsonl",
        template=template,
        max_new_tokens=6,
        batch_size=2,
    )
    for pair, (question, removed) in zip(found, QUESTIONS, strict=True):
        halves = ((question, pair.preferred, pair.preferred_ids),)
        halves += ((removed, pair.rejected, pair.rejected_ids),)
        for text, answer, ids in halves:
            if template is None:
                prompt = f"<s>user\n{text}</s>\n<s>assistant\n"
            else:
                prompt = f"Q: {text}\nA:"
            alone = generate(
                loaded.model,
                loaded.tokenizer,
                [prompt],
                max_new_tokens=6,
                add_special_tokens=template is not None,
            )[0]
            assert answer == alone.text
            assert list(ids) == alone.ids


def test_a_file_cut_anywhere_ends_the_same(tmp_path):
    loaded = tiny_random()
    path = tmp_path / "answers.jsonl"

    def run():
        return answer_pairs(
            loaded.model,
            loaded.tokenizer,
            QUESTIONS,
            path,
            template=PLAIN,
            max_new_tokens=4,
            batch_size=2,
        )

    found = run()
    content = path.read_bytes()
    assert run() == found
    for cut in range(0, len(content), len(content) // 7):
        path.write_bytes(content[:cut])
        assert run() == found
        assert path.read_bytes() == content


def test_what_is_there_is_not_generated_again(tmp_path):
    loaded = tiny_random()
    path = tmp_path / "answers.jsonl"
    given = {"template": PLAIN, "max_new_tokens": 3}
    first = answer_pairs(loaded.model, loaded.tokenizer, QUESTIONS, path, **given)
    with torch.no_grad():
        loaded.model.model.embed_tokens.weight.fill_(float("nan"))
    assert answer_pairs(loaded.model, loaded.tokenizer, QUESTIONS, path, **given) == first


def test_another_file_is_left_alone(tmp_path):
    loaded = tiny_random()
    path = tmp_path / "answers.jsonl"
    given = {"template": PLAIN, "max_new_tokens": 3}

    def run(questions=QUESTIONS, model=loaded.model, **more):
        return answer_pairs(model, loaded.tokenizer, questions, path, **given | more)

    run()
    content = path.read_bytes()
    for other in (
        {"questions": QUESTIONS[1:]},
        {"max_new_tokens": 4},
        {"template": None},
        {"model": tiny_random(layers=2).model},
    ):
        with pytest.raises(RunMismatch, match="other"):
            run(**other)
        assert path.read_bytes() == content
    path.write_bytes(content[: content.index(b"\n") + 1] + b'{"preferred": 3}\n')
    with pytest.raises(CorruptState, match="line 2"):
        run()
    path.write_bytes(b"\x80\x04K\x01.\n")
    with pytest.raises(CorruptState, match="line 1"):
        run()
    with pytest.raises(InvalidSetting, match="0 questions"):
        run(questions=[])


def test_no_begin_token_lies_between_prompt_and_answer(tmp_path):
    loaded = tiny_random()
    from lipogram.llm.tiny import BOS, byte_tokenizer

    tokenizer = byte_tokenizer(bos=True)
    row = encode_answers(tokenizer, "Q: rash?\nA:", [" yes", " no"], add_special_tokens=True)
    assert row.prompt_ids[0] == BOS
    joined = [[*row.prompt_ids, *tail.prompt_ids, *tail.answer_ids] for tail in row.tails]
    assert [ids.count(BOS) for ids in joined] == [1, 1]
    assert [bytes(ids[1:]).decode() for ids in joined] == ["Q: rash?\nA: yes", "Q: rash?\nA: no"]
    chat = PromptTemplate().prompt(tokenizer, "rash?")
    row = encode_answers(tokenizer, chat, ["yes"], add_special_tokens=False)
    assert row.prompt_ids.count(BOS) == chat.count("<s>") == 2
    assert BOS not in row.tails[0].answer_ids
    assert loaded.tokenizer.bos_token_id == BOS


def test_bad_templates_are_refused():
    with pytest.raises(InvalidSetting, match="question"):
        PromptTemplate("no place")
    with pytest.raises(InvalidSetting, match="system"):
        PromptTemplate("{question}", system="be kind")
