"""One prompt computed once gives what a row for each answer gives, gradients included."""

import pytest
import torch

from lipogram.llm import answer_logprobs, tiny_random
from lipogram.llm.tiny import TINY_TYPES
from privacyrestore.restoration import Restoration
from privacyrestore.restored_rows import signals
from privacyrestore.shared_prompt import _joint, _shared, answer_logps
from privacyrestore.training_rows import encode_answers

from .bank_rows import a_bank, small

PROMPTS = ("patient one has a story of more than sixteen tokens:", "two:")
ANSWERS = (("cough", "no cold at all, really", "x"), ("1", "22", "three and more than a window"))


def rows(tokenizer):
    return [
        encode_answers(tokenizer, prompt, answers, add_special_tokens=True)
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]


@pytest.mark.parametrize("model_type", TINY_TYPES)
@pytest.mark.parametrize("detach", [True, False])
def test_the_shared_pass_equals_a_row_for_each_answer(model_type, detach):
    model, tokenizer = small(model_type)
    model.requires_grad_(False)
    bank = a_bank(model, rule="quadratic" if detach else "additive", gamma=3.0 if detach else 0.5)
    found = []
    for scored in (_joint, _shared):
        vectors = bank.vectors.clone().requires_grad_()
        restoration = Restoration(model, bank, detach=detach)
        restoration.set(signals(vectors, torch.tensor([[1.0, 0.5, 0, 0], [0, 0, 0.3, 0.7]])))
        with restoration.attach():
            scores, owner = scored(model, rows(tokenizer), 0)
        sums = scores.new_zeros(6).index_add(0, owner, scores)
        (sums * torch.arange(1, 7)).sum().backward()
        found.append((sums.detach(), vectors.grad))
    (one, its), (other, others) = found
    assert float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())
    assert float(its.abs().max()) > 0
    assert float((its - others).abs().max()) <= 1e-4 * float(its.abs().max())


def test_sums_are_those_of_plain_scoring():
    loaded = tiny_random()
    with torch.no_grad():
        sums, counts = answer_logps(loaded.model, rows(loaded.tokenizer), 0)
        alone, _ = answer_logps(
            loaded.model,
            [encode_answers(loaded.tokenizer, PROMPTS[0], ["cough"], add_special_tokens=True)],
            0,
        )
    for prompt, answers, row, count in zip(PROMPTS, ANSWERS, sums, counts, strict=True):
        wanted = answer_logprobs(loaded.model, loaded.tokenizer, [prompt] * 3, answers)
        assert row.tolist() == pytest.approx(wanted, rel=1e-5)
        assert count.tolist() == [len(answer) for answer in answers]
    assert float(alone) == pytest.approx(float(sums[0, 0]), rel=1e-5)


def test_a_token_that_straddles_the_boundary_is_scored_once():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {letter: i for i, letter in enumerate("ab:-xyz")} | {":x": 7}
    merging = Tokenizer(models.BPE(vocab=words, merges=[(":", "x")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, pad_token="b")
    row = encode_answers(tokenizer, "ab:", ["xy", "zz"], add_special_tokens=True)
    assert row.prompt_ids == [0, 1]
    assert [tail.prompt_ids for tail in row.tails] == [[], [2]]
    assert [tail.answer_ids for tail in row.tails] == [[7, 5], [6, 6]]
    model, _ = small()
    with torch.no_grad():
        sums, counts = answer_logps(model, [row], 0)
    wanted = answer_logprobs(model, tokenizer, ["ab:", "ab:"], ["xy", "zz"])
    assert sums[0].tolist() == pytest.approx(wanted, rel=1e-5)
    assert counts.tolist() == [[2, 2]]
