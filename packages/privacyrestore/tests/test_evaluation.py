import pytest
import torch

from lipogram.errors import InvalidProbes
from lipogram.llm import answer_logprobs
from lipogram.llm.tiny import tiny_random
from privacyrestore.evaluation import evaluate, option_scores
from privacyrestore.mechanisms import Exact, Subspace
from privacyrestore.pri_datasets import PrivateQuestion
from privacyrestore.restoration import restored
from privacyrestore.training_rows import PromptTemplate

from .banks import tiny_bank

TEMPLATE = PromptTemplate("{question}")
LOADED = tiny_random(layers=2)
BANK = tiny_bank(LOADED.model, 4, gamma=0.6)
WORDS = BANK.vocabulary


def question(number, spans, n_options=3):
    named = " and ".join(WORDS[i] for i in spans)
    options = ("ab", "cd", "efg", "h")[:n_options]
    gold = number % n_options
    return PrivateQuestion(
        question=f"Case {number}: {named}. Which?",
        question_removed=f"Case {number}. Which?",
        span_ids=spans,
        kept_spans=(),
        options=options,
        answer=options[gold],
        answer_index=gold,
    )


QUESTIONS = [question(i, ((i % 4), (i + 1) % 4), 3 + i % 2) for i in range(7)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_are_those_of_each_question_alone(batch_size):
    texts = [each.question_removed for each in QUESTIONS]
    options = [[f" {option}" for option in each.options] for each in QUESTIONS]
    meta = torch.stack([BANK.signal(each.span_ids) for each in QUESTIONS])
    found = option_scores(
        LOADED.model, LOADED.tokenizer, BANK, texts, options, meta,
        template=TEMPLATE, batch_size=batch_size,
    )  # fmt: skip
    for i, (text, choices) in enumerate(zip(texts, options, strict=True)):
        with restored(LOADED.model, BANK, meta[i : i + 1].float()):
            alone = answer_logprobs(LOADED.model, LOADED.tokenizer, [text] * len(choices), choices)
        assert torch.allclose(found[i], torch.tensor(alone, dtype=torch.float64), atol=1e-4)


def test_every_way_of_asking_is_scored_and_every_mechanism_audited():
    mechanisms = [Subspace(30.0), Exact(unsafe=True)]
    found = evaluate(LOADED.model, LOADED.tokenizer, BANK, QUESTIONS, mechanisms, template=TEMPLATE)
    assert list(found.given) == [
        "full question",
        "spans removed",
        "restored, no noise",
        "restored by another's",
        "restored, subspace 30",
        "restored, none inf",
    ]
    assert torch.equal(found.given["restored, none inf"].mc1, found.given["restored, no noise"].mc1)
    assert found.audits["restored, none inf"].recovery.value == 1
    for row in found.rows():
        assert (row[3] != "") == row[0].startswith(("restored, subspace", "restored, none"))
    assert found.as_json()["audits"]["restored, subspace 30"]["guarantee"]["metric_epsilon"] == 30


def test_questions_without_spans_cannot_be_evaluated():
    with pytest.raises(InvalidProbes, match="two questions"):
        evaluate(LOADED.model, LOADED.tokenizer, BANK, [question(0, ())] * 3, [Subspace(3.0)])
