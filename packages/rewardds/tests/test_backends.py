"""Whatever engine draws, what it draws comes from the prompt's key and words alone."""

import dataclasses
import sys
import types

import numpy as np
import peft
import pytest
import torch
from transformers import LogitsProcessorList, TopPLogitsWarper

from lipogram.errors import InvalidSetting, MissingExtra, NotFinite, OverBudget
from lipogram.llm import generate
from lipogram.llm.tiny import EOS, byte_tokenizer, tiny_random
from rewardds import hf_backend
from rewardds.backends import Completion, Drawing, Prompt, draw_seed, make_backend, turn_end
from rewardds.hf_backend import HFBackend, draw_tokens
from rewardds.prompts import Prompts, prompt_text

DRAWING = Drawing(max_new_tokens=10, temperature=1.2, top_p=0.8, seed=5)


def prompts(n=5):
    words = ["Why?", "What is a pond, and how deep?", "Hm", "ü" * 20, "One more question."]
    return [Prompt(f"k{i}", Prompts().answer_turns(words[i % 5] * (1 + i // 5))) for i in range(n)]


def model(model_type="llama", *, ending=4.0):
    """A tiny model that ends what it says: its head has a bias towards the end of sequence."""
    loaded = tiny_random(model_type, layers=2, width=16)
    head = loaded.model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        biased.weight.copy_(head.weight)
        biased.bias.zero_()
        biased.bias[EOS] = ending
    loaded.model.set_output_embeddings(biased)
    return loaded


@pytest.fixture(scope="module")
def loaded():
    return model()


def one_by_one(loaded, prompt, draw, drawing):
    """The oracle: no cache, no padding, a token at a time; the draw itself has tests of its own."""
    text = prompt_text(loaded.tokenizer, list(prompt.turns))
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    stream = torch.Generator().manual_seed(draw_seed(prompt.key, draw, drawing.seed))
    said = []
    for _ in range(drawing.max_new_tokens):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([ids + said])).logits[:, -1].float()
        said.append(int(draw_tokens(logits, drawing.temperature, drawing.top_p, [stream])))
        if said[-1] == EOS:
            break
    finish = "stop" if said[-1] == EOS else "length"
    return Completion(loaded.tokenizer.decode(said, skip_special_tokens=True), finish)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2"])
def test_batches_say_what_each_prompt_says_by_itself(model_type):
    loaded = model(model_type)
    asked = prompts()
    expected = [tuple(one_by_one(loaded, p, k, DRAWING) for k in range(3)) for p in asked]
    assert HFBackend(loaded).generate(asked, 3, DRAWING) == expected
    finishes = {answer.finish for answers in expected for answer in answers}
    assert finishes == {"stop", "length"}
    assert len({answers for answers in expected}) == len(asked)
    assert not loaded.model._forward_hooks


def test_what_is_drawn_depends_on_the_prompt_alone(loaded):
    asked = prompts(7)
    whole = HFBackend(loaded).generate(asked, 3, DRAWING)
    for size in (4, 27):
        assert HFBackend(loaded, batch_size=size).generate(asked, 3, DRAWING) == whole
    backend = HFBackend(loaded)
    assert backend.generate(asked[::-1], 3, DRAWING)[::-1] == whole
    assert backend.generate(asked[4:6], 3, DRAWING) == whole[4:6]
    fewer = backend.generate(asked, 2, DRAWING)
    assert fewer == [answers[:2] for answers in whole]
    renamed = [dataclasses.replace(prompt, key=f"other {prompt.key}") for prompt in asked]
    assert backend.generate(renamed, 3, DRAWING) != whole
    assert backend.generate(asked, 3, dataclasses.replace(DRAWING, seed=6)) != whole


def test_greedy_turns_are_those_of_generate(loaded):
    asked = prompts()
    texts = [prompt_text(loaded.tokenizer, list(prompt.turns)) for prompt in asked]
    said = generate(
        loaded.model, loaded.tokenizer, texts, max_new_tokens=8, add_special_tokens=False
    )
    found = HFBackend(loaded).generate(asked, 1, Drawing(8, temperature=0.0))
    assert [one.text for (one,) in found] == [each.text for each in said]


def test_an_adapter_speaks(loaded):
    asked = prompts()
    plain = HFBackend(loaded).generate(asked, 2, DRAWING)
    base = model()
    adapted = peft.get_peft_model(base.model, peft.LoraConfig(r=2, target_modules="all-linear"))
    wrapped = dataclasses.replace(base, model=adapted)
    assert HFBackend(wrapped).generate(asked, 2, DRAWING) == plain  # B is zero still
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    found = HFBackend(wrapped).generate(asked, 2, DRAWING)
    assert found != plain
    expected = [tuple(one_by_one(wrapped, p, k, DRAWING) for k in range(2)) for p in asked]
    assert found == expected


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(loaded):
    asked = prompts(7)
    whole = HFBackend(loaded).generate(asked, 3, DRAWING)
    sizes = []

    def full(limit):
        def check(_module, _inputs, options):
            rows = len(options["input_ids"])
            sizes.append(rows)
            if rows > limit:
                raise torch.OutOfMemoryError("full")

        return loaded.model.register_forward_pre_hook(check, with_kwargs=True)

    handle = full(4)
    try:
        assert HFBackend(loaded).generate(asked, 3, DRAWING) == whole
    finally:
        handle.remove()
    assert max(sizes) == 21
    assert sizes[-1] <= 4
    handle = full(0)
    try:
        with pytest.raises(OverBudget):
            HFBackend(loaded).generate(asked, 3, DRAWING)
    finally:
        handle.remove()
    assert not loaded.model._forward_hooks


def test_a_prompt_beyond_the_context_is_told_and_stops_no_other(loaded):
    asked = prompts()
    asked.insert(2, Prompt("long", Prompts().answer_turns("x" * 600)))
    found = HFBackend(loaded).generate(asked, 2, DRAWING)
    assert found[2] == (Completion("", "context"),) * 2
    assert not found[2][0].ended
    assert found[:2] + found[3:] == HFBackend(loaded).generate(prompts(), 2, DRAWING)
    assert HFBackend(loaded).generate([], 2, DRAWING) == []


def test_a_model_that_has_diverged_says_nothing():
    loaded = model()
    with torch.no_grad():
        loaded.model.get_output_embeddings().bias[3] = torch.nan
    with pytest.raises(NotFinite):
        HFBackend(loaded).generate(prompts(), 1, DRAWING)


def test_a_turn_ends_with_the_token_of_the_template():
    loaded = model(ending=0.0)
    tokenizer = byte_tokenizer()
    assert turn_end(tokenizer) == EOS
    tokenizer.chat_template = tokenizer.chat_template.replace("eos_token", "'</s>'")
    tokenizer.eos_token = "<pad>"  # as of a base model that was taught turns
    loaded.model.generation_config.eos_token_id = None
    with torch.no_grad():
        loaded.model.get_output_embeddings().bias[EOS] = 4.0
    own = dataclasses.replace(loaded, tokenizer=tokenizer)
    assert turn_end(tokenizer) == EOS
    found = HFBackend(own).generate(prompts(), 3, DRAWING)
    expected = [tuple(one_by_one(own, p, k, DRAWING) for k in range(3)) for p in prompts()]
    assert found == expected
    assert {answer.finish for answers in found for answer in answers} == {"stop", "length"}
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert turn_end(tokenizer) is None


def test_tokens_are_drawn_with_the_probabilities_of_the_nucleus():
    draws, top_p, temperature = 40_000, 0.8, 0.7
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(2))
    probs = torch.softmax(logits[0].double() / temperature, -1).numpy()
    order = np.argsort(-probs, kind="stable")
    inside = order[: 1 + int((np.cumsum(probs[order]) < top_p).sum())]
    expected = np.zeros(12)
    expected[inside] = probs[inside] / probs[inside].sum()
    warped = LogitsProcessorList([TopPLogitsWarper(top_p)])(None, logits / temperature)
    assert set(inside) == set(torch.isfinite(warped[0]).nonzero()[:, 0].tolist())
    stream = torch.Generator().manual_seed(3)
    drawn = draw_tokens(logits.expand(draws, -1), temperature, top_p, [stream] * draws)
    counts = np.bincount(drawn.numpy(), minlength=12)
    assert not counts[expected == 0].any()
    seen = expected > 0
    chi2 = (((counts - draws * expected) ** 2)[seen] / (draws * expected)[seen]).sum()
    assert chi2 < 3 * len(inside) + 15
    assert 1 < len(inside) < 12


def test_a_nucleus_of_one_token_and_of_all():
    logits = torch.tensor([[0.0, 5.0, 5.0, -1.0]])
    streams = [torch.Generator().manual_seed(i) for i in range(200)]
    rows = logits.expand(200, -1)
    assert set(draw_tokens(rows, 1.0, 1e-9, streams).tolist()) == {1}  # ties to the lowest id
    assert set(draw_tokens(rows, 50.0, 1.0, streams).tolist()) == {0, 1, 2, 3}
    assert set(draw_tokens(rows, 1e-3, 1.0, streams).tolist()) == {1, 2}


def test_the_few_most_probable_tokens_give_the_same_draws_as_all(monkeypatch):
    logits = 3 * torch.randn(60, 400, generator=torch.Generator().manual_seed(4))
    logits[20:40] = logits[20:40].round()  # ties, at the edge of the few as well
    logits[40:] *= 0.01  # where they never suffice

    def drawn(few):
        monkeypatch.setattr(hf_backend, "_FEW", few)
        streams = [torch.Generator().manual_seed(i) for i in range(60)]
        return draw_tokens(logits, 1.0, 0.7, streams).tolist()

    whole = drawn(400)
    assert [drawn(few) for few in (1, 5, 20, 100, 10_000)] == [whole] * 5


def test_seeds_are_those_of_key_draw_and_run():
    seeds = {draw_seed(f"k{i}", k, s) for i in range(20) for k in range(11) for s in range(3)}
    assert len(seeds) == 20 * 11 * 3
    assert len({draw_seed("1", 1, 0), draw_seed("11", 0, 0), draw_seed("", 11, 0)}) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_a_drawing_out_of_range_is_refused(settings, told):
    with pytest.raises(InvalidSetting, match=told):
        Drawing(**settings)


def test_draws_and_names_that_make_no_sense_are_refused(loaded):
    backend = HFBackend(loaded)
    with pytest.raises(InvalidSetting, match="n is 0"):
        backend.generate(prompts(), 0, DRAWING)
    with pytest.raises(InvalidSetting, match=r"n = 2.*the same"):
        backend.generate(prompts(), 2, Drawing(temperature=0.0))
    with pytest.raises(InvalidSetting, match="batch_size is 0"):
        HFBackend(loaded, batch_size=0)
    with pytest.raises(InvalidSetting, match="'jax': hf, vllm"):
        make_backend("jax", loaded)
    assert isinstance(make_backend("hf", loaded, batch_size=3), HFBackend)


# vLLM itself needs an accelerator and gigabytes: what follows is a module with its documented
# interface (LLM, LLM.generate, SamplingParams, LoRARequest) that says back what it was asked.


@dataclasses.dataclass
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    skip_special_tokens: bool


@dataclasses.dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    def __init__(self, model, **options):
        self.model, self.options, self.asked = model, options, []
        config = types.SimpleNamespace(max_model_len=512)
        self.llm_engine = types.SimpleNamespace(model_config=config)

    def get_tokenizer(self):
        return byte_tokenizer()

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert len(prompts) == len(sampling_params)
        self.asked += [(prompt["prompt_token_ids"], lora_request) for prompt in prompts]
        return [
            types.SimpleNamespace(outputs=[self._output(prompt["prompt_token_ids"], how)])
            for prompt, how in zip(prompts, sampling_params, strict=True)
        ]

    def _output(self, ids, how):
        finish = "stop" if how.seed % 2 else "length"
        return types.SimpleNamespace(text=f"{len(ids)} {how}", finish_reason=finish)


@pytest.fixture
def vllm(monkeypatch):
    lora = types.SimpleNamespace(LoRARequest=LoRARequest)
    stand_in = types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setitem(sys.modules, "vllm.lora", types.SimpleNamespace(request=lora))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", lora)


def test_vllm_is_asked_for_the_same_tokens_with_a_seed_a_draw(vllm, loaded):
    backend = make_backend("vllm", "org/model", adapter="folder", tensor_parallel_size=2)
    asked = [*prompts(3), Prompt("long", Prompts().answer_turns("x" * 600))]
    found = backend.generate(asked, 2, DRAWING)
    own = [HFBackend(loaded)._ids(prompt) for prompt in asked]
    llm = backend._llm
    assert [ids for ids, _ in llm.asked] == [ids for ids in own[:3] for _ in range(2)]
    assert {lora.lora_path for _, lora in llm.asked} == {"folder"}
    assert llm.options == {"enable_lora": True, "max_lora_rank": 64, "tensor_parallel_size": 2}
    for i in range(3):
        for k in range(2):
            seed = draw_seed(asked[i].key, k, 5)
            how = SamplingParams(1, 1.2, 0.8, 10, seed, [EOS], True)
            assert found[i][k].text == f"{len(own[i])} {how}"
            assert found[i][k].ended == bool(seed % 2)
    assert found[3] == (Completion("", "context"),) * 2
    assert backend.generate(asked[3:], 1, DRAWING) == [(Completion("", "context"),)]


def test_vllm_that_runs_already_is_taken_as_it_is(vllm):
    llm = LLM("org/model")
    backend = make_backend("vllm", llm)
    assert backend._llm is llm
    backend.generate(prompts(1), 1, Drawing(10, temperature=0.0))
    assert llm.asked[0][1] is None
    with pytest.raises(InvalidSetting, match="tensor_parallel_size"):
        make_backend("vllm", llm, tensor_parallel_size=2)
    with pytest.raises(InvalidSetting, match="n is 0"):
        backend.generate(prompts(1), 0)


def test_without_vllm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match="pip install vllm"):
        make_backend("vllm", "org/model")
