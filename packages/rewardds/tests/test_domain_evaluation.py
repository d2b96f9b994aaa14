"""Answers are scored one by one, with and without what was learnt from; code runs on demand."""

import math
import os

import pytest
import torch

from lipogram.errors import InvalidSetting
from lipogram.llm import tiny_random
from rewardds import evaluation
from rewardds.backends import Completion
from rewardds.code_execution import Limits, enforced_protections
from rewardds.errors import InvalidRecords
from rewardds.evaluation import (
    CodeTests,
    Evaluation,
    evaluate,
    evaluation_table,
    score_answers,
)
from rewardds.hf_backend import HFBackend
from rewardds.prompts import Prompts, prompt_text
from rewardds.records import Record
from rewardds.text_scores import rouge, sentence_bleu

PROMPTS = Prompts()
RECORDS = [
    Record("a", "What is red?", "the rose is red today"),
    Record("b", "What is blue?", "the sea is blue today"),
    Record("c", "What is green?", "the grass is green"),
]


class Canned:
    """A model whose answers are known; it keeps what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked, self.drawing = answers, [], None

    def generate(self, prompts, n=1, drawing=None):
        self.asked, self.drawing = list(prompts), drawing
        return [(self.answers[prompt.key],) for prompt in prompts]


def canned():
    return Canned(
        {
            "a": Completion("the rose is red today", "stop"),
            "b": Completion("the sky is blue", "length"),
            "c": Completion("", "context"),
        }
    )


def test_the_model_is_asked_greedily_in_the_domains_prompts():
    backend = canned()
    evaluate(backend, RECORDS, Prompts.of_domain("colours"), max_new_tokens=7)
    assert (backend.drawing.temperature, backend.drawing.max_new_tokens) == (0, 7)
    assert [prompt.key for prompt in backend.asked] == ["a", "b", "c"]
    assert backend.asked[0].turns == Prompts.of_domain("colours").answer_turns("What is red?")
    assert not any("rose" in turn["content"] for p in backend.asked for turn in p.turns)


def test_scores_are_each_answers_own_and_the_summary_their_mean():
    found = evaluate(canned(), RECORDS, PROMPTS)
    assert [(score.id, score.ended) for score in found.scores] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    exact, near, empty = found.scores
    assert (exact.rouge1, exact.rougeL, exact.bleu) == pytest.approx((1, 1, 1))
    assert near.rouge2 == rouge("the sky is blue", RECORDS[1].response).rouge2.f1
    assert near.bleu == sentence_bleu("the sky is blue", RECORDS[1].response)
    assert (empty.rouge1, empty.bleu) == (0, 0)
    summary = found.summary()
    assert summary["rougeL"] == pytest.approx(sum(s.rougeL for s in found.scores) / 3)
    assert (summary["n"], summary["ended"]) == (3, pytest.approx(1 / 3))
    assert summary["pass_at_1"] is None
    assert summary["perplexity"] is None
    assert summary["outcomes"] == {}


def test_what_was_learnt_from_is_left_out_where_asked():
    found = evaluate(canned(), RECORDS, PROMPTS)
    rest = found.without({"a", "unknown"})
    assert [score.id for score in rest.scores] == ["b", "c"]
    assert rest.summary()["n"] == 2
    assert len(found.scores) == 3
    with pytest.raises(InvalidRecords, match="no answer"):
        found.without({"a", "b", "c"})


@pytest.fixture(scope="module")
def tiny():
    return tiny_random(layers=2, width=16, seed=0)


def test_the_perplexity_is_that_of_the_answer_alone_given_its_question(tiny):
    backend = canned()
    found = evaluate(backend, RECORDS, PROMPTS, own_model=tiny)
    assert found.scores[2].perplexity is None  # it wrote nothing
    for score, record in zip(found.scores[:2], RECORDS, strict=False):
        prompt = prompt_text(tiny.tokenizer, PROMPTS.answer_turns(record.instruction))
        whole = prompt_text_of(tiny, record, backend.answers[record.id].text)
        ids = tiny.tokenizer(prompt, add_special_tokens=False).input_ids
        rest = tiny.tokenizer(whole, add_special_tokens=False).input_ids[len(ids) :]
        with torch.no_grad():
            logits = tiny.model(torch.tensor([ids + rest])).logits[0].float().log_softmax(-1)
        said = [logits[len(ids) - 1 + i, token].item() for i, token in enumerate(rest)]
        assert score.perplexity == pytest.approx(math.exp(-sum(said) / len(said)), rel=1e-4)


def prompt_text_of(tiny, record, answer):
    from lipogram.llm.chat import encode_chat

    encoded = encode_chat(PROMPTS.answer_turns(record.instruction, answer), tiny.tokenizer)
    last = max(i for i, ours in enumerate(encoded.assistant) if ours)
    return tiny.tokenizer.decode(encoded.ids[: last + 1])


def test_a_real_model_answers_the_same_twice(tiny):
    backend = HFBackend(tiny)
    first = evaluate(backend, RECORDS, PROMPTS, max_new_tokens=8, own_model=tiny)
    again = evaluate(backend, RECORDS[::-1], PROMPTS, max_new_tokens=8, own_model=tiny)
    assert {s.id: s.rouge1 for s in first.scores} == {s.id: s.rouge1 for s in again.scores}
    known = {s.id: s.perplexity for s in again.scores}
    for score in first.scores:
        assert score.perplexity == pytest.approx(known[score.id], rel=1e-4)


CODES = {"a": "```python\ndef f(): return 1\n```", "b": "def f(): return 2", "c": "def f(: x"}
TESTS = {"a": ["assert f() == 1"], "b": ["assert f() == 1"]}


def test_code_is_never_run_unless_asked_for(monkeypatch):
    def run(*_, **__):
        raise AssertionError("a model's code was run")

    monkeypatch.setattr(evaluation, "run_many", run)
    found = score_answers(RECORDS, [CODES[record.id] for record in RECORDS])
    assert all(score.outcome is None for score in found.scores)


@pytest.mark.skipif(os.name != "posix", reason="runs code on POSIX alone")
def test_pass_at_1_is_the_share_of_those_run():
    limits = Limits(2, 60.0, 128)
    without = {"memory", "network", "files", "processes"} - enforced_protections(limits)
    tests = CodeTests(TESTS, limits, do_without=without)
    found = score_answers(RECORDS, [CODES[record.id] for record in RECORDS], code_tests=tests)
    assert [score.outcome for score in found.scores] == ["passed", "failed", None]
    assert found.pass_at_1 == 0.5
    assert found.summary()["outcomes"] == {"failed": 1, "passed": 1}
    assert found.without({"b"}).pass_at_1 == 1.0


def test_the_table_has_a_line_a_model_and_leaves_empty_what_nobody_measured():
    found = evaluate(canned(), RECORDS, PROMPTS)
    lines = evaluation_table({"ours": found, "disjoint": found.without({"a"})}).split("\n")
    head, rule, ours, disjoint = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines
    )
    assert head == [
        "model", "n", "ended", "rouge1", "rouge2", "rougeL", "bleu", "perplexity", "pass_at_1",
    ]  # fmt: skip
    assert len(rule) == len(head)
    assert ours[:3] == ["ours", "3", "0.333"]
    assert disjoint[:3] == ["disjoint", "2", "0.000"]
    assert ours[-2:] == ["", ""]


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InvalidSetting, match="3 records, 2 answers"):
        score_answers(RECORDS, ["x", "y"])
    with pytest.raises(InvalidSetting, match="1 ends"):
        score_answers(RECORDS, ["x"] * 3, ended=[True])
    with pytest.raises(InvalidSetting, match="2 perplexities"):
        score_answers(RECORDS, ["x"] * 3, perplexities=[1.0, None])
    with pytest.raises(InvalidRecords, match="twice"):
        score_answers([RECORDS[0]] * 2, ["x", "y"])
    with pytest.raises(InvalidRecords, match="at least one"):
        score_answers([], [])
    with pytest.raises(InvalidRecords, match="at least one"):
        Evaluation(())
    with pytest.raises(InvalidSetting, match="max_new_tokens"):
        evaluate(canned(), RECORDS, PROMPTS, max_new_tokens=0)
