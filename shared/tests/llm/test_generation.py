import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite, OverBudget
from lipogram.llm.generation import generate
from lipogram.llm.steering import Steering
from lipogram.llm.text import encode
from lipogram.llm.tiny import EOS, TINY_TYPES, byte_tokenizer, tiny_random

TOKENIZER = byte_tokenizer()
PROMPTS = ["on a mat", "a", "the cat sat on the mat, and then", "été"]
VECTORS = 3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def greedy(model, prompt, n, ends=(EOS,)):
    """The oracle: one prompt by itself, without padding and without a cache."""
    ids = encode(TOKENIZER, prompt, []).prompt_ids
    said, total = [], 0.0
    while len(said) < n and not {*said} & {*ends}:
        logits = model(torch.tensor([[*ids, *said]]), use_cache=False).logits[0, -1].double()
        said.append(int(logits.argmax()))
        total += float(logits.log_softmax(-1)[said[-1]])
    return said, total


@pytest.mark.parametrize("model_type", [*TINY_TYPES, "bloom"])
def test_greedy_with_padding_and_a_cache_is_greedy_without(model_type):
    if model_type == "bloom":  # no positions at all
        from transformers import BloomConfig, BloomForCausalLM

        config = BloomConfig(
            vocab_size=259, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.25
        )
        torch.manual_seed(0)
        model = BloomForCausalLM(config).eval()
    else:
        model = tiny_random(model_type, layers=2).model
    n = 24  # with the longest prompt beyond the sliding windows
    for found, prompt in zip(
        generate(model, TOKENIZER, PROMPTS, max_new_tokens=n), PROMPTS, strict=True
    ):
        said, total = greedy(model, prompt, n)
        assert found.ids == said
        assert found.logprob == pytest.approx(total, abs=1e-4)
        assert found.n_prompt == len(prompt.encode())
        assert found.text == TOKENIZER.decode(said, skip_special_tokens=True)
        assert found.finish_reason == ("stop" if EOS in said else "length")


def test_a_model_that_computes_all_logits_is_sliced():
    whole = tiny_random("llama", layers=2).model

    class AllLogits(type(whole)):
        def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache):
            return super().forward(
                input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )

    plain = AllLogits(whole.config).eval()
    plain.load_state_dict(whole.state_dict())
    wanted = generate(whole, TOKENIZER, PROMPTS, max_new_tokens=6)
    assert generate(plain, TOKENIZER, PROMPTS, max_new_tokens=6) == wanted


def test_the_tokenizers_padding_neither_matters_nor_changes():
    model = tiny_random("gpt2", layers=2).model
    prompts = [[EOS, EOS, 97], [98], [EOS, 99, 100, EOS, EOS]]
    wanted = [generate(model, TOKENIZER, [ids], max_new_tokens=8)[0] for ids in prompts]
    assert [found.n_prompt for found in wanted] == [3, 1, 5]
    for side in ("left", "right"):
        tokenizer = byte_tokenizer()
        tokenizer.padding_side = side
        tokenizer.pad_token = tokenizer.eos_token
        found = generate(model, tokenizer, prompts, max_new_tokens=8)
        assert [(row.ids, row.n_prompt) for row in found] == [
            (row.ids, row.n_prompt) for row in wanted
        ]
        assert tokenizer.padding_side == side


def always(token: int, then: int | None = None):
    """A model that says a token, then always the next one."""
    model = tiny_random("llama", layers=1, tie_word_embeddings=False).model
    with torch.no_grad():
        model.lm_head.weight.zero_()
        if then is not None:
            model.model.layers[0].self_attn.o_proj.weight.zero_()
            model.model.layers[0].mlp.down_proj.weight.zero_()
            rows = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(1)))[
                0
            ]
            model.model.norm.weight.fill_(1)
            model.model.embed_tokens.weight.copy_(rows[:, 0].expand(259, 32))
            model.model.embed_tokens.weight[token] = rows[:, 1]
            model.lm_head.weight[token] = rows[:, 0]
            model.lm_head.weight[then] = rows[:, 1]
    return model


def test_ties_go_to_the_lowest_id():
    (found,) = generate(always(0), TOKENIZER, ["a"], max_new_tokens=3)
    assert found.ids == [0, 0, 0]
    assert found.logprob == pytest.approx(-3 * torch.log(torch.tensor(259.0)).item())


def test_what_ends_a_continuation():
    model = always(ord("x"), EOS)
    long, short = generate(model, TOKENIZER, ["a", "ax"], max_new_tokens=5)
    assert (long.ids, long.text, long.finish_reason) == ([ord("x"), EOS], "x", "stop")
    assert (short.ids, short.text, short.finish_reason) == ([EOS], "", "stop")
    cut = generate(model, TOKENIZER, ["a"], max_new_tokens=1)[0]
    assert (cut.ids, cut.text, cut.finish_reason) == ([ord("x")], "x", "length")

    model = always(ord("x"), ord("y"))
    for own in (ord("y"), [7, ord("y")]):
        model.generation_config.eos_token_id = own
        assert generate(model, TOKENIZER, ["a"], max_new_tokens=5)[0].text == "xy"
    model.generation_config.eos_token_id = None
    assert len(generate(model, TOKENIZER, ["a"], max_new_tokens=5)[0].ids) == 5


def test_stop_strings_are_cut_and_special_ones_count():
    model = tiny_random("llama", layers=2).model
    (whole,) = generate(model, TOKENIZER, ["the"], max_new_tokens=30)
    word = whole.text[3:5]
    for stop in (word, [word, "never said"]):
        (found,) = generate(model, TOKENIZER, ["the"], max_new_tokens=30, stop=stop)
        assert found.finish_reason == "stop"
        assert found.text == whole.text[: whole.text.index(word)]
        assert found.ids == whole.ids[: len(found.ids)]
        assert TOKENIZER.decode(found.ids).endswith(word)
    assert generate(model, TOKENIZER, ["the"], max_new_tokens=30, stop=["never said"]) == [whole]
    # what is in the prompt already does not stop
    assert generate(model, TOKENIZER, ["the"], max_new_tokens=30, stop=["the"]) == [whole]
    (found,) = generate(always(ord("x"), 257), TOKENIZER, ["a"], max_new_tokens=5, stop="<s>")
    assert (found.text, found.finish_reason) == ("x", "stop")


def test_rows_stop_each_by_themselves():
    model = tiny_random("gpt2", layers=2).model
    alone = [generate(model, TOKENIZER, [p], max_new_tokens=12, stop="e")[0] for p in PROMPTS]
    model.generation_config.eos_token_id = [EOS, alone[0].ids[4], alone[2].ids[1]]
    alone = [generate(model, TOKENIZER, [p], max_new_tokens=12)[0] for p in PROMPTS]
    assert len({len(row.ids) for row in alone}) > 1
    together = generate(model, TOKENIZER, PROMPTS, max_new_tokens=12)
    assert [row.ids for row in together] == [row.ids for row in alone]


def test_samples_depend_on_seed_prompt_and_number_not_on_the_batch():
    model = tiny_random("llama", layers=2).model
    settings = {"max_new_tokens": 6, "temperature": 1.0, "n": 3}
    wanted = generate(model, TOKENIZER, PROMPTS, **settings, seed=1)
    assert len(wanted) == 12
    for size in (1, 5):
        found = generate(model, TOKENIZER, PROMPTS, **settings, seed=1, batch_size=size)
        assert [row.ids for row in found] == [row.ids for row in wanted]
    assert [row.n_prompt for row in wanted[::3]] == [len(p.encode()) for p in PROMPTS]
    assert len({tuple(row.ids) for row in wanted[:3]}) > 1
    other = generate(model, TOKENIZER, PROMPTS, **settings, seed=2)
    assert [row.ids for row in other] != [row.ids for row in wanted]
    same = generate(model, TOKENIZER, ["a", "a"], max_new_tokens=6, temperature=1.0)
    assert same[0].ids != same[1].ids
    state = torch.get_rng_state()
    generate(model, TOKENIZER, PROMPTS, **settings)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.6), (1.0, 0.01)]
)
@torch.no_grad()
def test_draws_follow_the_distribution(temperature, top_p):
    model, n = tiny_random("llama", layers=2).model, 600
    log_probs = model(torch.tensor([[97, 98]])).logits[0, -1].double().log_softmax(-1)
    p = (log_probs / temperature).softmax(-1)
    ranked = p.sort(descending=True)
    size = int((ranked.values.cumsum(0) < top_p).sum()) + 1
    kept = ranked.indices[:size].tolist()
    found = generate(
        model, TOKENIZER, ["ab"], max_new_tokens=1, temperature=temperature, top_p=top_p, n=n
    )
    drawn = [row.ids[0] for row in found]
    assert {*drawn} <= {*kept}
    for token in kept[:4]:
        share = float(p[token] / p[kept].sum())
        deviation = (share * (1 - share) / n) ** 0.5
        assert abs(drawn.count(token) / n - share) <= 4.5 * deviation + 1e-9
    for row in found[:5]:  # under the model's own distribution, not the one drawn from
        assert row.logprob == pytest.approx(float(log_probs[row.ids[0]]), abs=1e-5)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("x can't allocate memory: y")],
)
def test_the_batch_is_halved_when_memory_runs_out(error):
    model = tiny_random("llama", layers=1).model
    wanted = generate(model, TOKENIZER, PROMPTS * 2, max_new_tokens=4)
    sizes, most = [], 3

    def refuse(module, args, kwargs):
        if len(kwargs["input_ids"]) > most:
            raise error
        sizes.append(len(kwargs["input_ids"]))

    with model.register_forward_pre_hook(refuse, with_kwargs=True):
        found = generate(model, TOKENIZER, PROMPTS * 2, max_new_tokens=4)
        assert [row.ids for row in found] == [row.ids for row in wanted]
        assert max(sizes) == 2
        most = 0
        with pytest.raises(OverBudget, match="prompt 2"):
            generate(model, TOKENIZER, PROMPTS[:2] + PROMPTS[2:3], max_new_tokens=4)
        error = RuntimeError("something else")
        with pytest.raises(RuntimeError, match="something else"):
            generate(model, TOKENIZER, PROMPTS, max_new_tokens=4)


def test_a_model_in_training_is_read_without_dropout():
    model = tiny_random("gpt2", layers=2, resid_pdrop=0.5, embd_pdrop=0.5).model
    wanted = generate(model, TOKENIZER, PROMPTS, max_new_tokens=6)
    model.train()
    model.transformer.h[0].eval()
    assert generate(model, TOKENIZER, PROMPTS, max_new_tokens=6) == wanted
    assert model.training
    assert model.transformer.h[1].attn.training
    assert not model.transformer.h[0].attn.training


def test_hooks_see_the_positions_of_every_step():
    model, seen = tiny_random("llama", layers=1).model, []

    def see(module, args, kwargs):
        seen.append((kwargs["position_ids"].tolist(), kwargs["attention_mask"].sum(1).tolist()))

    with model.register_forward_pre_hook(see, with_kwargs=True):
        generate(model, TOKENIZER, ["ab", "abcd"], max_new_tokens=3)
    assert seen == [
        ([[0, 0, 0, 1], [0, 1, 2, 3]], [2, 4]),
        ([[2], [4]], [3, 5]),
        ([[3], [5]], [4, 6]),
    ]


@pytest.mark.parametrize("positions", ["last", "prompt", "generated", "all"])
def test_steering_each_row_by_its_own_vector(positions):
    model = tiny_random("llama", layers=2).model
    plain = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8)
    with Steering(model, {("resid_out", 0): VECTORS}, positions=positions):
        found = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8)
    assert [row.ids for row in found] != [row.ids for row in plain]
    for prompt, vector, row in zip(PROMPTS, VECTORS, found, strict=True):
        ids = torch.tensor([encode(TOKENIZER, prompt, []).prompt_ids])
        with Steering(model, {("resid_out", 0): vector}, positions=positions), torch.no_grad():
            said = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=0,
            )
        assert row.ids == said[0, ids.shape[1] :].tolist()


def test_nothing_finite():
    model = tiny_random("llama", layers=1).model
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.raises(NotFinite, match="NaN"):
        generate(model, TOKENIZER, PROMPTS, max_new_tokens=2)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"prompts": "a"}, InvalidSetting, "one text"),
        ({"prompts": ["a", ""]}, InvalidProbes, "prompt 1 has no tokens"),
        ({"prompts": ["a", "b" * 510]}, InvalidProbes, "prompt 1 has 510 tokens"),
        ({"max_new_tokens": 0}, InvalidSetting, "max_new_tokens"),
        ({"batch_size": 0}, InvalidSetting, "batch_size"),
        ({"n": 2}, InvalidSetting, "the same"),
        ({"temperature": -1.0}, InvalidSetting, "temperature"),
        ({"temperature": float("nan")}, InvalidSetting, "temperature"),
        ({"top_p": 0.0}, InvalidSetting, "top_p"),
        ({"stop": ["a", ""]}, InvalidSetting, "empty"),
    ],
)
def test_bad_input_is_named(settings, error, words):
    model = tiny_random("llama", layers=1).model
    given = {"prompts": ["a"], "max_new_tokens": 3} | settings
    with pytest.raises(error, match=words):
        generate(model, TOKENIZER, given.pop("prompts"), **given)


def test_edges():
    model = tiny_random("gpt2", layers=1).model
    assert generate(model, TOKENIZER, [], max_new_tokens=2) == []
    (found,) = generate(model, TOKENIZER, ["b" * 509], max_new_tokens=3)  # the whole context
    assert found.n_prompt + len(found.ids) <= 512
    begun = byte_tokenizer(bos=True)
    with_start, without = (
        generate(model, begun, ["ab"], max_new_tokens=2, add_special_tokens=add)[0]
        for add in (True, False)
    )
    assert (with_start.n_prompt, without.n_prompt) == (3, 2)
