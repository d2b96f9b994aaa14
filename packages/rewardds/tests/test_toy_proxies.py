"""The toy models: their tokenizer, their template, and what pre-training teaches."""

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidSetting
from lipogram.llm.generation import generate
from rewardds.backends import turn_end
from rewardds.prompts import prompt_text, sequence
from rewardds.sequence_scores import perplexities
from rewardds.toy_domain import PRIVATE, ToyDomain, corrupted, parse_question
from rewardds.toy_proxies import CONTEXT, PROMPTS, toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def read():
    """A model that has read a little: enough for the grammar."""
    return toy_model(layers=1, width=32, steps=200, batch=32, lr=1e-2)


def test_every_word_of_the_domain_is_one_token_and_comes_back(tokenizer):
    domain = ToyDomain(0)
    texts = [text for pair in domain.corpus(300) for text in pair]
    texts += [
        text for record in domain.records(50) for text in (record.instruction, record.response)
    ]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("abracadabra", add_special_tokens=False)["input_ids"] == [
        tokenizer.unk_token_id
    ]


def test_a_conversation_is_the_bare_words_and_the_answer_is_scored_with_its_end(tokenizer):
    case = ToyDomain(0).cases(1)[0]
    answer = ToyDomain(0).answer(case)
    turns = [
        {"role": "system", "content": "Be brief."},
        *PROMPTS.answer_turns(case.question, answer),
    ]
    for given in (turns, turns[1:]):
        tokens, cut = sequence(tokenizer, given, CONTEXT)
        said = tokenizer.convert_ids_to_tokens(tokens.ids)
        assert cut == 0
        assert said == ["<user>", *case.question.split(), "<assistant>", *answer.split(), "</s>"]
        assert tokens.scored == [False] * 11 + [True] * 6
    assert tokens.ids == sequence(tokenizer, PROMPTS.judged_turns(case.question, answer), 64)[0].ids
    assert prompt_text(tokenizer, turns[:-1]).split() == said[:11]
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_pretraining_teaches_to_ask_and_to_answer_in_form(read):
    domain, tokenizer = ToyDomain(0), read.tokenizer
    asked = prompt_text(tokenizer, PROMPTS.question_turns())
    drawn = generate(
        read.model,
        tokenizer,
        [asked],
        n=20,
        temperature=1,
        max_new_tokens=16,
        add_special_tokens=False,
    )
    cases = [parse_question(one.text) for one in drawn]
    assert sum(case is not None and case.clinic == PRIVATE for case in cases) >= 5
    prompts = [
        prompt_text(tokenizer, PROMPTS.answer_turns(case.question))
        for case in domain.cases(20, held_out=True)
    ]
    answers = generate(read.model, tokenizer, prompts, max_new_tokens=8, add_special_tokens=False)
    assert sum(one.text.startswith("give ") and len(one.ids) == 6 for one in answers) >= 18


def test_what_is_learnt_lies_in_the_public_tables(read):
    """Loss on public prescriptions, against the same with a word that is not the clinic's."""
    corpus = [(q, a) for q, a in ToyDomain(0).corpus(400, seed=9) if q.startswith("at elm")]
    draw = np.random.default_rng(0)
    groups = [
        [
            sequence(read.tokenizer, PROMPTS.answer_turns(q, said), 64)[0]
            for said in (a, corrupted(a, draw))
        ]
        for q, a in corpus
    ]
    right, wrong = np.array(perplexities(read.model, groups, padding=0)).T
    assert np.log(right).mean() < np.log(wrong).mean() - 0.1


def test_the_same_seed_gives_the_same_model_and_touches_no_global_state():
    before = torch.get_rng_state()
    a, b = (toy_model(layers=1, width=16, steps=3, batch=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = toy_model(layers=1, width=16, steps=3, batch=4, seed=1)
    blank = toy_model(layers=1, width=16, steps=0)
    first, second, third, fourth = (dict(m.model.named_parameters()) for m in (a, b, other, blank))
    assert all(torch.equal(first[name], second[name]) for name in first)
    matrices = [name for name, weight in first.items() if weight.ndim > 1]
    assert all(not torch.equal(first[name], third[name]) for name in matrices)
    assert all(not torch.equal(first[name], fourth[name]) for name in first)
    assert not any(weight.requires_grad for weight in first.values())
    assert not a.model.training
    assert a.info.spec != other.info.spec


@pytest.mark.parametrize(
    ("setting", "value"),
    [("width", 24), ("width", 0), ("steps", -1), ("layers", 0), ("batch", 0), ("lr", 0.0)],
)
def test_settings_outside_their_range_are_refused(setting, value):
    with pytest.raises(InvalidSetting, match=f"{setting}.*{value}"):
        toy_model(**{setting: value})
