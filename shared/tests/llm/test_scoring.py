import math

import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite, OverBudget
from lipogram.llm.forward import evaluating, last_logits
from lipogram.llm.scoring import answer_logprobs, multiple_choice, perplexity, token_logprobs
from lipogram.llm.text import Encoded, encode, pad
from lipogram.llm.tiny import EOS, PAD, TINY_TYPES, byte_tokenizer, tiny_random

TOKENIZER = byte_tokenizer()
PROMPTS = ["on a", "a", "the cat sat on the mat, and", "the", "été"]
ANSWERS = [" mat", " b", " then", [98, EOS], " à la mer."]


@torch.no_grad()
def oracle(model, prompt, answer) -> list[float]:
    """Row by row, without padding, in float64 after the logits."""
    row = encode(TOKENIZER, prompt, answer)
    ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
    log_probs = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
    first = len(row.prompt_ids)
    return [float(log_probs[first + i - 1, token]) for i, token in enumerate(row.answer_ids)]


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_scores_are_those_of_each_row_by_itself_whatever_the_batch(model_type):
    model = tiny_random(model_type, layers=2).model
    wanted = [oracle(model, *row) for row in zip(PROMPTS, ANSWERS, strict=True)]
    for max_tokens in (1, 40, 4096):
        found = answer_logprobs(
            model, TOKENIZER, PROMPTS, ANSWERS, reduction="tokens", max_tokens=max_tokens
        )
        assert list(map(len, found)) == list(map(len, wanted))
        for row, other in zip(found, wanted, strict=True):
            assert row == pytest.approx(other, abs=1e-5)


def test_reductions():
    model = tiny_random("llama", layers=1).model
    tokens = answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS, reduction="tokens")
    sums = answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS)
    means = answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS, reduction="mean")
    assert sums == [sum(row) for row in tokens]
    assert means == pytest.approx([sum(row) / len(row) for row in tokens])
    (one,) = answer_logprobs(model, TOKENIZER, ["ab"], ["c"], reduction="tokens")
    assert one == pytest.approx(oracle(model, "ab", "c"), abs=1e-5)
    assert answer_logprobs(model, TOKENIZER, [], []) == []
    ids = [encode(TOKENIZER, prompt, []).prompt_ids for prompt in PROMPTS]
    assert answer_logprobs(model, TOKENIZER, ids, [list(b"!")] * 5) == answer_logprobs(
        model, TOKENIZER, PROMPTS, ["!"] * 5
    )


def test_the_padding_token_may_be_the_end_of_sequence():
    model = tiny_random("gpt2", layers=2).model
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    answers = [[EOS], [EOS, EOS, 98], [97], [EOS, 98, EOS], [EOS]]
    found = answer_logprobs(model, tokenizer, PROMPTS, answers, reduction="tokens")
    for row, prompt, answer in zip(found, PROMPTS, answers, strict=True):
        assert row == pytest.approx(oracle(model, prompt, answer), abs=1e-5)


@pytest.mark.parametrize("model_type", TINY_TYPES)
@torch.no_grad()
def test_the_restricted_head_gives_the_same_bits(model_type):
    model = tiny_random(model_type, layers=2).model
    rows = [encode(TOKENIZER, *row) for row in zip(PROMPTS, ANSWERS, strict=True)]
    batch = pad(rows, PAD)
    whole = model(**batch.inputs(), use_cache=False).logits
    some, output = last_logits(model, batch.inputs(), batch.n_logits, use_cache=False)
    assert output.logits.shape[1] == batch.n_logits < whole.shape[1]
    assert torch.equal(some, whole[:, -batch.n_logits :])
    assert torch.equal(token_logprobs(some, batch), token_logprobs(whole, batch))


def test_a_model_that_computes_all_logits_is_sliced():
    whole = tiny_random("llama", layers=2).model

    class AllLogits(type(whole)):
        def forward(self, input_ids, attention_mask, position_ids):
            return super().forward(
                input_ids, attention_mask=attention_mask, position_ids=position_ids
            )

    plain = AllLogits(whole.config).eval()
    plain.load_state_dict(whole.state_dict())
    found = answer_logprobs(plain, TOKENIZER, PROMPTS, ANSWERS)
    assert found == answer_logprobs(whole, TOKENIZER, PROMPTS, ANSWERS)


def test_wrapped_models_are_asked_what_they_take():
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = tiny_random("llama", layers=2).model
    wanted = answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS)
    seen = []
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    with model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.shape[1])):
        assert answer_logprobs(adapted, TOKENIZER, PROMPTS, ANSWERS) == wanted
    assert seen == [12]  # the longest answer's letters, not the longest row's
    assert adapted.training


@torch.no_grad()
def test_an_answer_that_nothing_precedes_loses_its_first_token():
    model = tiny_random("llama", layers=1).model
    rows = [Encoded([], [97, 98]), Encoded([97], [98]), Encoded([97, 98, 99], [100])]
    for side in ("left", "right"):
        batch = pad(rows, PAD, side=side)
        found = token_logprobs(model(**batch.inputs()).logits, batch)
        wanted = oracle(model, "a", "b") * 2 + oracle(model, "abc", "d")
        assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_half_precision_is_summed_in_full():
    logits = torch.tensor([[[4.0, 1.0, -3.0], [0.5, 0.25, 2.0], [0.0, 0.0, 0.0]]])
    batch = pad([Encoded([0], [1, 2])], 0)
    found = token_logprobs(logits.bfloat16(), batch)
    assert found.dtype == torch.float32
    assert torch.equal(found, token_logprobs(logits, batch))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("x can't allocate memory: y")],
)
def test_the_budget_is_halved_when_memory_runs_out(error):
    model = tiny_random("llama", layers=1).model
    prompts, answers = PROMPTS * 6, ANSWERS * 6
    wanted = answer_logprobs(model, TOKENIZER, prompts, answers)
    sizes, refused, most = [], [], 80

    def refuse(module, args, kwargs):
        size = kwargs["input_ids"].numel()
        (sizes if size <= most else refused).append(size)
        if size > most:
            raise error

    with model.register_forward_pre_hook(refuse, with_kwargs=True):
        found = answer_logprobs(model, TOKENIZER, prompts, answers)
        assert found == pytest.approx(wanted, abs=1e-5)
        assert len(refused) <= 4  # and not once for every batch
        assert len(sizes) < 30
        most = 20
        with pytest.raises(OverBudget, match="row 2, 32 tokens"):
            answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS)
        error = RuntimeError("something else")
        with pytest.raises(RuntimeError, match="something else"):
            answer_logprobs(model, TOKENIZER, prompts, answers)


def test_a_model_in_training_is_read_without_dropout():
    model = tiny_random("gpt2", layers=2, resid_pdrop=0.5, embd_pdrop=0.5).model
    wanted = answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS)
    model.train()
    assert answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS) == wanted
    assert model.training
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_options_are_compared_as_asked():
    model = tiny_random("llama", layers=2).model
    prompts = ["the cat", "a"]
    options = [[" sat", " was", " x"], [" long answer", " b"]]
    for normalize in ("sum", "mean", "unconditional"):
        found = multiple_choice(model, TOKENIZER, prompts, options, normalize=normalize)
        for prompt, choices, row in zip(prompts, options, found, strict=True):
            scores = []
            for option in choices:
                given, blank = oracle(model, prompt, option), oracle(model, "Answer:", option)
                scores.append(
                    {
                        "sum": sum(given),
                        "mean": sum(given) / len(given),
                        "unconditional": sum(given) - sum(blank),
                    }[normalize]
                )
            wanted = torch.tensor(scores, dtype=torch.float64).softmax(0)
            assert row.dtype == torch.float64
            assert row.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    neutral = multiple_choice(
        model, TOKENIZER, ["a"], options[1:], normalize="unconditional", unconditional="a"
    )
    assert neutral[0].tolist() == pytest.approx([0.5, 0.5])
    assert multiple_choice(model, TOKENIZER, [], []) == []


def test_perplexity_is_over_all_tokens_but_the_first():
    model = tiny_random("llama", layers=2).model
    texts = ["the cat", "on", "été à la mer"]
    log_probs = [
        x for text in texts for x in oracle(model, list(text.encode())[:1], [*text.encode()][1:])
    ]
    wanted = math.exp(-sum(log_probs) / len(log_probs))
    assert perplexity(model, TOKENIZER, texts) == pytest.approx(wanted, rel=1e-5)
    begun = [encode(TOKENIZER, [257], [*text.encode()]) for text in texts]
    log_probs = [x for row in begun for x in oracle(model, row.prompt_ids, row.answer_ids)]
    wanted = math.exp(-sum(log_probs) / len(log_probs))
    assert perplexity(model, byte_tokenizer(bos=True), texts) == pytest.approx(wanted, rel=1e-5)


def test_nothing_finite_names_the_row():
    model = tiny_random("llama", layers=1, tie_word_embeddings=False).model
    with torch.no_grad():
        model.model.embed_tokens.weight[ord("!")] = torch.nan
    assert len(answer_logprobs(model, TOKENIZER, PROMPTS, ANSWERS)) == 5
    with pytest.raises(NotFinite, match="row 3"):
        answer_logprobs(model, TOKENIZER, [*PROMPTS[:3], "a!"], ANSWERS[:4])


LONG = "b" * 500


@pytest.mark.parametrize(
    ("prompts", "answers", "error", "words"),
    [
        (["a", "b"], ["c", ""], InvalidProbes, "answer 1 has no tokens"),
        (["a", "b"], ["c", []], InvalidProbes, "answer 1 has no tokens"),
        (["a", ""], ["c", "d"], InvalidProbes, "prompt 1 has no tokens"),
        (["a", LONG], ["c", "d" * 13], InvalidProbes, "row 1 has 513 tokens.* 512"),
        (["a"], ["c", "d"], InvalidSetting, "1 prompts and 2 answers"),
        ("ab", ["c", "d"], InvalidSetting, "not one text"),
        (["a", "b"], "cd", InvalidSetting, "not one text"),
    ],
)
def test_bad_rows_are_named(prompts, answers, error, words):
    model = tiny_random("gpt2", layers=1).model
    with pytest.raises(error, match=words):
        answer_logprobs(model, TOKENIZER, prompts, answers)


def test_bad_settings_are_named():
    model = tiny_random("gpt2", layers=1).model
    assert len(answer_logprobs(model, TOKENIZER, [LONG], ["d" * 12])) == 1  # the whole context
    with pytest.raises(InvalidSetting, match="reduction"):
        answer_logprobs(model, TOKENIZER, ["a"], ["b"], reduction="max")
    with pytest.raises(InvalidSetting, match="max_tokens"):
        answer_logprobs(model, TOKENIZER, ["a"], ["b"], max_tokens=0)
    with pytest.raises(InvalidSetting, match="normalize"):
        multiple_choice(model, TOKENIZER, ["a"], [["b", "c"]], normalize="max")
    with pytest.raises(InvalidSetting, match="1 prompts and options of 2"):
        multiple_choice(model, TOKENIZER, ["a"], [["b", "c"]] * 2)
    for options in (["b"], "bc"):
        with pytest.raises(InvalidProbes, match="prompt 0 needs"):
            multiple_choice(model, TOKENIZER, ["a"], [options])
    with pytest.raises(InvalidProbes, match="text 1 has 1 tokens"):
        perplexity(model, TOKENIZER, ["ab", "a"])
    with pytest.raises(InvalidProbes, match="513 tokens"):
        perplexity(model, TOKENIZER, ["a" * 513])
    for texts in ([], "ab"):
        with pytest.raises(InvalidProbes, match="at least one text"):
            perplexity(model, TOKENIZER, texts)
